"""What a plan makes and another disk of the machine holds already: refused, or retired when the operator says so. Pure.

The server could boot into either of two groups, arrays or filesystems of one name. Retiring takes only signatures off,
a few bytes each that the report keeps: LVM, md and mount no longer see what is behind them, and nothing of it is lost.
Imports `core` and `hardware.{actions,draft,machine,targets}`.
"""

from __future__ import annotations

from collections.abc import Mapping

from core.layout import Layout
from hardware.actions import RetireTwin, Spot
from hardware.draft import Draft
from hardware.machine import Device, DeviceKind, Remnant, RemnantKind
from hardware.targets import check_retired, find_twins

_UNREAD = "unplug it; or --overwrite-unseen, when it is dead anyway"
_HINT = "unplug that disk; or make it a target; or take the signatures off with --retire SERIAL"


def plan_twins(layout: Layout, targets: Mapping[str, Device], draft: Draft) -> None:
    """Every twin on another disk of the machine, and what becomes of it."""
    options = draft.options
    twins = find_twins(draft.actions, layout, options.remnants)
    found: list[RetireTwin] = []
    for twin, what in twins.items():
        if twin.path not in options.retired:
            draft.refuse(twin.path, f"{_place(twin)} holds the same {what}: the server could boot into either", _HINT)
            continue
        spot = _spot(twin)
        draft.refusals += check_retired(options.retired[twin.path], ((twin.start_bytes, spot.end_bytes),))
        found.append(RetireTwin(spot=spot, what=what))
    # a disk's partitions before its table, without which they could not be found
    draft.actions = [*sorted(dict.fromkeys(found), key=lambda each: each.spot.number == 0), *draft.actions]
    for path in options.retired:
        if not any(twin.path == path for twin in twins):
            # no refusal: the same command must work again after it was interrupted
            draft.warnings.append(f"{path}: nothing on it is there twice, so nothing is retired")
    draft.refusals[:] = dict.fromkeys(draft.refusals)
    for each in options.remnants:
        if each.kind is RemnantKind.UNREAD and not options.overwrite_unseen:
            _judge_unread(each, targets, draft)


def _judge_unread(unread: Remnant, targets: Mapping[str, Device], draft: Draft) -> None:
    why = f"nobody can tell what is there twice: it cannot be read ({unread.mark})"
    if any(target.kind is DeviceKind.DISK for target in targets.values()):
        draft.refuse(unread.path, why, _UNREAD)
    else:  # an image file moves to another machine, where the disks of this one are not
        draft.warnings.append(f"{unread.path}: {why}")


def _spot(twin: Remnant) -> Spot:
    return Spot(path=twin.path, number=twin.number, offset_bytes=twin.start_bytes, size_bytes=twin.size_bytes)


def _place(twin: Remnant) -> str:
    return _spot(twin).describe()
