"""The freeze window: hooks, freeze what may be frozen, snapshot everything, thaw, hooks. Lives as long as its call.

All snapshotted volumes show one moment: while the first snapshot is made, every filesystem that can be frozen from
user space stands still already, and those that cannot (the root) are frozen by LVM for the instant of their own.
Imports `core` and its neighbours.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from core.errors import SourceError
from core.layout import LvKind
from core.run import Runner
from imager.hold import lvm
from imager.hold.decide import Decision, How, Lv, frozen_together, share_out
from imager.hold.freeze import Guarded, Ward, guarded
from imager.hold.hooks import POST_THAW, PRE_FREEZE, Hooks
from imager.hold.watch import overflowed

_LIBC = ctypes.CDLL(None)
#: Linux 6.8 made freezes nest: before, LVM cannot suspend a volume whose filesystem is frozen already (tried: EBUSY).
_NESTING = (6, 8)
_POOL_DATA_MAX, _POOL_METADATA_MAX = 0.95, 0.90


@dataclass(frozen=True)
class Terms:
    """How a window is held: `share_percent` of a group's free space for snapshots, `limit_seconds` for the freeze.
    `kept` holds the UUIDs of snapshots that stay after the run; with `keeps_thick` there are two of a thick volume at
    times, and each takes half the share."""

    image: str
    server_id: bytes
    share_percent: int
    limit_seconds: float
    hooks: Hooks
    kept: set[str] = field(default_factory=set)
    keeps_thick: bool = False


@dataclass
class Taken:
    """What a window left: the snapshot of each volume (by its name), how long filesystems stood still, warnings."""

    snapshots: dict[str, lvm.Snapshot] = field(default_factory=dict)
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)
    together: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Held:
    """How filesystems are held across snapshots: `mounts` by FIFREEZE, `devices` by device-mapper's suspend."""

    mounts: tuple[str, ...]
    devices: tuple[str, ...]


def check_room(decisions: Sequence[Decision], terms: Terms, runner: Runner) -> dict[str, int]:
    """The size of every thick snapshot (by the volume's full name). Raises SourceError when a group or a pool has no
    room, before anything is touched."""
    thick, pools = dict[str, dict[str, int]](), dict[tuple[str, str], None]()
    for lv in _volumes(decisions):
        if lv.kind is LvKind.THIN:
            pools[lv.group, lv.pool] = None
        else:
            thick.setdefault(lv.group, {})[lv.full_name] = lv.size_bytes
    for group, pool in pools:
        _check_pool(group, pool, lvm.pool_fill(group, pool, runner))
    rooms = lvm.rooms(runner) if thick else {}
    sizes: dict[str, int] = {}
    for group, volumes in thick.items():
        room, share, ours = rooms[group], terms.share_percent, 0
        if terms.keeps_thick:
            share //= 2
            ours = sum(
                each.size_bytes
                for each in lvm.our_snapshots(terms.server_id, runner)
                if each.group == group and each.thin_id is None
            )
        free = min(room.free_bytes + ours, room.free_bytes * 100 // max(share, 1))
        sizes |= share_out(group, free, room.extent_bytes, volumes, share)
    return sizes


def too_full(fill: lvm.PoolFill) -> bool:
    """Whether a thin pool has no room for what is overwritten while a snapshot is there."""
    return bool(fill.state) or fill.data > _POOL_DATA_MAX or fill.metadata > _POOL_METADATA_MAX


def _check_pool(group: str, pool: str, fill: lvm.PoolFill) -> None:
    if too_full(fill):
        state = f", {fill.state}" if fill.state else ""
        raise SourceError(
            f"thin pool {group}/{pool} is too full to snapshot: data {fill.data:.0%}, "
            f"metadata {fill.metadata:.0%}{state}",
            hint="extend it: lvextend, or lvextend --poolmetadatasize; fstrim gives back what is free in filesystems",
        )


def _volumes(decisions: Sequence[Decision]) -> list[Lv]:
    """Each logical volume once, those that are not held from user space first: they move until their own snapshot."""
    held = [each for each in decisions if each.how in (How.THICK, How.THIN) and each.facts.lv is not None]
    held.sort(key=lambda each: bool(each.freeze))
    return list({each.facts.lv.full_name: each.facts.lv for each in held if each.facts.lv is not None}.values())


def take_snapshots(decisions: Sequence[Decision], terms: Terms, runner: Runner) -> Taken:
    """Snapshot every volume that is to be, in one window. Raises SourceError or ToolError; snapshots made until then
    are left to the caller, who removes them by the image's name."""
    volumes = _volumes(decisions)
    taken = Taken()
    if not volumes:
        return taken
    sizes = check_room(decisions, terms, runner)
    held = _how_held(decisions, taken)
    for where in sorted({mount for each in decisions for mount in each.facts.mounts}):
        _flush(where)
    ward = Ward(held.mounts, terms.limit_seconds, held.devices, terms.hooks, terms.image)
    with guarded(ward) as guard:
        try:
            taken.warnings += terms.hooks.run(PRE_FREEZE, terms.image, runner)
            taken.seconds = _freeze_and_snapshot(volumes, sizes, held, guard, terms, runner)
        finally:
            guard.thaw()
            taken.warnings += terms.hooks.run(POST_THAW, terms.image, runner)
    if guard.late:
        raise SourceError(
            f"filesystems were frozen for over {terms.limit_seconds:.0f} s, and thawed before all snapshots were made",
            hint="a busy disk? Run again at another hour, or raise image.freeze_seconds",
        )
    _look_up(decisions, taken, terms, runner)
    taken.together = list(held.mounts) + list(held.devices)
    return taken


def _freeze_and_snapshot(
    volumes: Sequence[Lv], sizes: dict[str, int], held: _Held, guard: Guarded, terms: Terms, runner: Runner
) -> float:
    """Seconds from the first freeze to the thaw."""
    started = time.monotonic()
    with _suspended(held.devices, runner):
        guard.freeze(held.mounts)
        for lv in volumes:
            name = lvm.snapshot_name(lv.name, terms.image)
            lvm.create_snapshot(lv, name, sizes.get(lv.full_name, 0), terms.server_id, runner)
        guard.thaw()
    return time.monotonic() - started


@contextlib.contextmanager
def _suspended(devices: Sequence[str], runner: Runner) -> Iterator[None]:
    """Devices suspended, their filesystems frozen with them. LVM takes a suspended volume as it is, and resumes it
    when its snapshot is made; after that `resume` changes nothing."""
    begun: list[str] = []
    try:
        for name in devices:
            begun.append(name)
            runner.run(["dmsetup", "suspend", name], purpose=f"suspend {name}")
        yield
    finally:
        for name in begun:
            runner.run(["dmsetup", "resume", name], purpose=f"resume {name}")


def _how_held(decisions: Sequence[Decision], taken: Taken) -> _Held:
    together = frozen_together(decisions)
    if kernel_version(os.uname().release) >= _NESTING:
        return _Held(tuple(together), ())
    mounts, devices, apart = list[str](), list[str](), list[str]()
    for each in decisions:
        if each.freeze not in together or each.facts.lv is None:
            continue
        if each.facts.crypt is not None:
            mounts.append(each.freeze)
        elif each.how is How.THICK:
            devices.append(each.facts.lv.node)
        else:  # LVM sends a pool its message while it suspends: a volume that is suspended already gets no snapshot
            apart.append(each.freeze)
    if apart and len(_volumes(decisions)) > 1:
        taken.warnings.append(
            f"this kernel (before 6.8) cannot hold {', '.join(apart)} still together with others: each thin volume is "
            "consistent, but not all are of the same instant"
        )
    return _Held(tuple(mounts), tuple(devices))


def kernel_version(release: str) -> tuple[int, int]:
    """`6.1.0-56-amd64` → (6, 1)."""
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _flush(where: str) -> None:
    """Write back what is dirty, so that the freeze has little to do (syncfs(2))."""
    handle = os.open(where, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _LIBC.syncfs(handle)  # a failure only means that the freeze has more to write
    finally:
        os.close(handle)


def _look_up(decisions: Sequence[Decision], taken: Taken, terms: Terms, runner: Runner) -> None:
    """The snapshots as LVM lists them, made readable."""
    suffix = lvm.snapshot_name("", terms.image)
    ours = {(each.group, each.name): each for each in lvm.our_snapshots(terms.server_id, runner)}
    for each in decisions:
        lv = each.facts.lv
        if each.how not in (How.THICK, How.THIN) or lv is None:
            continue
        found = ours.get((lv.group, lv.name + suffix))
        if found is None:
            raise SourceError(f"the snapshot of {lv.full_name} is gone", hint="did somebody remove it? Run again")
        if found.invalid:
            raise overflowed(found, "it overflowed before it was read")
        if found.thin_id is not None:
            lvm.activate(found.group, found.name, runner)
        taken.snapshots[each.facts.spec.name] = found
