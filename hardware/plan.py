"""What a restore will do to which disk, decided before the first write: layout × targets × options → Plan.

Pure: no I/O, values in, values out; the refusals of a plan say everything that is wrong at once. Imports `core` and
`hardware.{actions,draft,firmware,larger,machine,needs,recreate,stacked,targets,whole}`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from core.errors import TargetError
from core.layout import Disk, Layout, Partition, Table, TableKind, VolumeRole, VolumeSpec, volumes_of
from hardware.actions import AnyAction, Range, RecreateFilesystem, ShrinkFilesystem
from hardware.draft import Draft, PlanOptions, table_bytes
from hardware.firmware import boot_disks, plan_boot
from hardware.larger import check_sectors
from hardware.machine import Device
from hardware.needs import Stackings
from hardware.recreate import ALL, Recreating, least_recreated, unrecreatable
from hardware.stacked import plan_stack
from hardware.targets import Refusal, check_device, check_files, check_layout, check_pairing
from hardware.twins import plan_twins
from hardware.whole import plan_whole

__all__ = ["Plan", "PlanOptions", "describe", "make_plan", "plan_as_dict"]

_UNUSED = ("keep", "discard", "zero")


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`actions` in the order in which they are to be done; `need_bytes`: by disk, the smallest target that would do."""

    actions: tuple[AnyAction, ...]
    warnings: tuple[str, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    need_bytes: dict[str, int] = {}

    @property
    def scratch_bytes(self) -> int:
        """Room that the copy-on-write views of shrunk filesystems may take, altogether."""
        return sum(action.scratch_bytes for action in self.actions if isinstance(action, ShrinkFilesystem))

    def require(self) -> None:
        """Raise TargetError with everything that is refused, unless nothing is."""
        if not self.refusals:
            return
        hints = dict.fromkeys(refusal.hint for refusal in self.refusals if refusal.hint)
        raise TargetError(
            "; ".join(f"{refusal.subject}: {refusal.message}" for refusal in self.refusals),
            hint="; ".join(hints) or None,
            refusals=msgspec.to_builtins(self.refusals),
        )


def make_plan(layout: Layout, targets: Mapping[str, Device], options: PlanOptions | None = None) -> Plan:
    """Plan the restore of `layout` onto `targets` (disk name → device). Never raises for what it does not like: see
    `refusals`, which `Plan.require` turns into an error. A refused plan has no actions. What may be made anew is only
    where the rest cannot give way enough."""
    options = options or PlanOptions()
    sectors = {name: target.sector_bytes for name, target in targets.items()}
    recreating = Recreating.of(layout, sectors, options.recreate)
    plan = _planned(layout, targets, options, recreating)
    made = {action.volume for action in plan.actions if isinstance(action, RecreateFilesystem)}
    if made - recreating.must:
        spared = _planned(layout, targets, options, Recreating(recreating.must, recreating.must))
        if not spared.refusals:
            return msgspec.structs.replace(spared, need_bytes=plan.need_bytes)
    return plan


def _planned(layout: Layout, targets: Mapping[str, Device], options: PlanOptions, recreating: Recreating) -> Plan:
    needs = Stackings.of(layout, options.without_md, recreating)
    draft = Draft(options, needs, boot_disks=boot_disks(layout))
    _check_request(layout, targets, options, draft)
    draft.refusals += check_layout(layout)
    draft.refusals += check_pairing(targets)
    if not draft.refusals:
        volumes = volumes_of(layout)
        for disk in layout.disks:
            mine = [spec for spec in volumes if spec.disk == disk.name]
            _plan_disk(disk, mine, targets.get(disk.name), draft)
        if not draft.refusals and draft.spots:
            plan_stack(layout, draft)
            plan_boot(layout, targets, draft)
            draft.refusals += check_files([*draft.actions, *draft.last], targets)
            plan_twins(layout, targets, draft)
    actions = () if draft.refusals else (*draft.shrinks, *draft.actions, *draft.grows, *draft.last)
    return Plan(
        actions=actions,
        warnings=tuple(draft.warnings),
        refusals=tuple(draft.refusals),
        need_bytes=draft.need_bytes,
    )


def plan_as_dict(plan: Plan) -> dict[str, Any]:
    """The plan for `--json`: actions tagged by `action`, refusals, warnings, `need_bytes`, `scratch_bytes`."""
    found: dict[str, Any] = msgspec.to_builtins(plan)
    return {**found, "scratch_bytes": plan.scratch_bytes}


def describe(plan: Plan) -> list[str]:
    """The plan for people, a line a step; warnings and refusals after the steps."""
    lines = [f"{number}. {action.describe()}" for number, action in enumerate(plan.actions, 1)]
    lines += [f"warning: {text}" for text in plan.warnings]
    lines += [f"refused: {refusal.subject}: {refusal.message}" for refusal in plan.refusals]
    return lines


def unknown_names(
    layout: Layout, *, disks: Iterable[str] = (), only: Iterable[str] = (), grow: str = "", recreate: Iterable[str] = ()
) -> list[Refusal]:
    """What is asked for by a name that the image does not have; needs no look at any disk."""
    ours = {disk.name for disk in layout.disks}
    volumes = {spec.name for spec in volumes_of(layout)}
    grown = {grow} - {"", "none", "last"}
    wanted = [
        *((name, "the image has no such disk") for name in sorted(set(disks) - ours)),
        *((name, "the image has no such disk or volume") for name in sorted(set(only) - ours - volumes)),
        *((name, "the image has no such volume to grow") for name in sorted(grown - volumes)),
        *((name, "the image has no such volume to make anew") for name in sorted({*recreate} - {ALL} - volumes)),
    ]
    known = f"the image has {', '.join(sorted(ours | volumes))}"
    return [Refusal(subject=name, message=message, hint=known) for name, message in wanted]


def _check_request(layout: Layout, targets: Mapping[str, Device], options: PlanOptions, draft: Draft) -> None:
    draft.refusals += unknown_names(
        layout, disks=targets, only=options.only, grow=options.grow, recreate=options.recreate
    )
    if options.unused not in _UNUSED:
        draft.refuse(options.unused, "not a way to treat unused space", f"one of {', '.join(_UNUSED)}")
    for spec in volumes_of(layout):
        if spec.name in options.recreate and (why := unrecreatable(spec)):
            hint = "leave it out of --recreate; filesystems that can be are ext2/3/4, xfs, btrfs, vfat"
            draft.refuse(spec.name, why, hint)
    if not targets:
        draft.refuse("restore", "no target is given", f"the image has {', '.join(disk.name for disk in layout.disks)}")


def _plan_disk(disk: Disk, volumes: list[VolumeSpec], target: Device | None, draft: Draft) -> None:
    """One disk: nothing, some volumes into partitions that are there, or all of it."""
    only = draft.options.only
    chosen = [spec for spec in volumes if spec.name in only]
    whole = not only or disk.name in only
    if target is None:
        if chosen or disk.name in only:
            draft.refuse(disk.name, "no target is given for it", "name a device for this disk")
        elif whole:
            draft.warnings.append(f"{disk.name} is not restored: no target is given for it")
    elif (
        target.sector_bytes > disk.sector_bytes
        and (whole or chosen)
        and not check_sectors(disk, volumes if whole else chosen, target, draft, whole=whole)
    ):
        return
    elif whole:
        plan_whole(disk, volumes, target, draft)
    elif chosen:
        _plan_some(disk, chosen, target, draft)
    else:
        draft.refuse(disk.name, "it has a target, but nothing of it is to be restored", "leave the target out")


def _plan_some(disk: Disk, chosen: list[VolumeSpec], target: Device, draft: Draft) -> None:
    """Some volumes, each into the partition that matches it; the rest of the target is not touched."""
    present = draft.options.present.get(disk.name)
    if present is None or present.table is None or disk.table is None:
        message = f"only some of its volumes are to be restored, and {target.path} has no partitions to put them into"
        draft.refuse(disk.name, message, "restore the whole disk, or partition the target as it was")
        return
    ranges = []
    for spec in chosen:
        if spec.role is VolumeRole.HEAD:
            ranges += _write_head(disk, spec, disk.table, present.table, target, draft)
        else:
            ranges += _write_one(spec, disk.table, present.table, target, draft)
    draft.refusals += check_device(disk, target, tuple(ranges), draft.options.overwrite_unseen)


def _write_one(spec: VolumeSpec, was: Table, present: Table, target: Device, draft: Draft) -> list[Range]:
    match = _matching(was, present, spec)
    least = least_recreated(spec.content) if spec.name in draft.needs.recreating.allowed else None
    need = spec.size_bytes if least is None else min(least, spec.size_bytes)
    if match is None or match.size_bytes < need:
        what = (
            f"{target.path} has no partition for it" if match is None else f"its partition has {match.size_bytes} bytes"
        )
        hint = "restore the whole disk, or make that partition (same number, type and GUID)"
        draft.refuse(spec.name, f"{what}, {need} are needed", hint)
        return []
    grows = draft.options.grow == spec.name
    room = match.size_bytes if grows else min(spec.size_bytes, match.size_bytes)
    draft.write_into(spec, target, match.start_bytes, room)
    return [(match.start_bytes, match.end_bytes)]


def _matching(was: Table, present: Table, spec: VolumeSpec) -> Partition | None:
    """The partition on the target that is this one: by its GUID, on dos by its number; and of the same type."""
    old = next(part for part in was.partitions if part.number == spec.partition)
    by_guid = was.kind is TableKind.GPT
    for part in present.partitions if present.kind is was.kind else ():
        same = part.uuid.upper() == old.uuid.upper() if by_guid else part.number == old.number
        if same and part.type.upper() == old.type.upper():
            return part
    return None


def _write_head(disk: Disk, spec: VolumeSpec, was: Table, present: Table, target: Device, draft: Draft) -> list[Range]:
    first = min((part.start_bytes for part in present.partitions), default=target.size_bytes)
    if present.kind is not was.kind or first < spec.size_bytes:
        message = f"{target.path} has another kind of table, or a partition where boot code would go"
        draft.refuse(spec.name, message, "restore the whole disk")
        return []
    draft.write(spec, target, 0, spec.size_bytes, table_bytes(was, present, disk, target, spec.size_bytes))
    return [(0, spec.size_bytes)]
