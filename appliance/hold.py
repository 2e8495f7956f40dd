"""Holding this server's volumes still for an image: what `hardware` knows of them, put to `imager.hold`.

Lives as long as the reading. May import `hardware`, `imager`, `core`.
"""

from __future__ import annotations

import contextlib
import functools
import os.path
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from appliance.contents import content_in, with_contents
from appliance.tracking import Tracking
from core.errors import RefloatError, SourceError, ToolError
from core.layout import Content, Crypt, Layout, LvKind, VolumeRole, VolumeSpec, volumes_of
from core.monitor import Monitor
from core.run import Runner
from hardware.machine import Use, UseKind
from hardware.read import DiskSource, Place, node_places
from hardware.uses import uses_of
from hardware.volume import volume_device
from imager.hold import crypts, lvm
from imager.hold.bases import Tracked
from imager.hold.copies import agreed_copy, empty_folder, frozen_copy
from imager.hold.decide import Decision, Facts, How, Lv, decide
from imager.hold.mounts import freezing_is_safe
from imager.hold.watch import Watch
from imager.hold.window import Taken, Terms, check_room, take_snapshots
from imager.source import Source
from imager.usedmap import PROGRAMS


@dataclass(frozen=True)
class Held:
    """A server that holds still. `layout` has the contents as the snapshots show them; `check` raises when something
    does not hold still any more: it is asked often, and with True before anything is committed."""

    layout: Layout
    sources: tuple[Source, ...]
    check: Callable[[bool], None]
    seconds: float = 0.0


@contextlib.contextmanager
def holding(
    layout: Layout,
    disks: Sequence[DiskSource],
    terms: Terms,
    *,
    live: bool,
    own: Sequence[str],
    copies: Path,
    tracking: Tracking,
    runner: Runner,
    monitor: Monitor,
) -> Iterator[Held]:
    """Everything held for the length of the block. `own` are paths whose filesystems this program writes to; `copies`
    is a folder for copies of what can be held for a moment only. Raises SourceError, ToolError."""
    safe = freezing_is_safe(own)
    facts = gather(layout, disks, runner)
    decisions = [decide(each, live=live, safe=safe) for each in facts]
    check_room(decisions, terms, runner)
    empty_folder(copies)
    sector_bytes = {disk.name: source.sector_bytes for disk, source in zip(layout.disks, disks, strict=True)}
    with contextlib.ExitStack() as stack:
        paths = {
            each.facts.spec.name: stack.enter_context(_copied(each, copies, terms.limit_seconds))
            for each in decisions
            if each.how in (How.FROZEN, How.AGREED)
        }
        taken = _snapshots(decisions, terms, stack, runner, monitor)
        for warning in taken.warnings:
            monitor.warn(warning)
        watch = stack.enter_context(_watching(decisions, taken, runner))
        doubts = _doubts(decisions, gather(layout, disks, runner))
        for each in decisions:
            if each.how in (How.THICK, How.THIN):
                paths[each.facts.spec.name] = stack.enter_context(_opened(each, taken, terms.image, runner))
        fresh = with_contents(layout, _contents(decisions, paths, runner))
        specs = {spec.name: spec for spec in volumes_of(fresh)}
        tracked = _tracked(decisions, taken, tracking, terms, runner)
        sources = tuple(
            _source(each, specs[each.facts.spec.name], paths, doubts, tracked, sector_bytes, stack, runner)
            for each in decisions
        )

        def check(last: bool) -> None:
            watch.check(last)
            if last:
                _must_be_offline_still(decisions, gather(layout, disks, runner))

        yield Held(fresh, sources, check, taken.seconds)


# -- what is there ----------------------------------------------------------------------------------------------------


def gather(layout: Layout, disks: Sequence[DiskSource], runner: Runner) -> list[Facts]:
    """What is known of every volume now."""
    paths = {disk.name: source.path for disk, source in zip(layout.disks, disks, strict=True)}
    places = node_places(layout, paths)
    opened = lvm.open_devices(runner) if layout.groups else frozenset()
    by_disk = {name: uses_of(path) for name, path in paths.items()}
    return [_facts(spec, layout, places, by_disk, opened) for spec in volumes_of(layout)]


def _facts(
    spec: VolumeSpec,
    layout: Layout,
    places: Mapping[str, Place],
    by_disk: Mapping[str, Sequence[Use]],
    opened: frozenset[str],
) -> Facts:
    place = places[spec.disk]
    offset = place.offset_bytes + spec.offset_bytes
    if spec.role in (VolumeRole.HEAD, VolumeRole.HEADER):
        return Facts(spec, place.path, offset)
    if spec.role is VolumeRole.DEVICE:
        own, uses = os.path.realpath(place.path), list(uses_of(place.path))
    else:
        own, uses = "", [use for use in by_disk[spec.disk] if _touches(use.start_bytes, spec)]
    mounts = [use for use in uses if use.kind is UseKind.MOUNTED and own in ("", use.device)]
    others = [use for use in uses if use not in mounts]
    lv, crypt = _lv(spec.disk, layout)
    busy = others[0].describe() if others else ""
    if lv is not None and not mounts and not busy and spec.disk in opened:
        busy = f"{place.path} is open, and not as a mounted filesystem"
    return Facts(
        spec, place.path, offset, tuple(dict.fromkeys(use.where for use in mounts)),
        any(use.writable for use in mounts), busy, lv, crypt,
    )  # fmt: skip


def _touches(start_bytes: int | None, spec: VolumeSpec) -> bool:
    """Whether a use that begins at this byte of the disk (0: all of it; None: unknown, so maybe all) is of this
    volume."""
    return not start_bytes or spec.offset_bytes <= start_bytes < spec.offset_bytes + spec.size_bytes


def _lv(node: str, layout: Layout) -> tuple[Lv | None, Crypt | None]:
    """The logical volume that a node is, or that carries its container."""
    crypt = next((each for each in layout.crypts if each.name == node), None)
    wanted = crypt.node if crypt is not None else node
    for group in layout.groups:
        for volume in group.volumes:
            if volume.node == wanted and volume.kind is not LvKind.POOL:
                lv = Lv(group.name, volume.name, volume.node, volume.uuid, volume.kind, volume.size_bytes, volume.pool)
                return lv, crypt
    return None, None


# -- holding it -------------------------------------------------------------------------------------------------------


def _copied(decision: Decision, folder: Path, limit: float) -> contextlib.AbstractContextManager[str]:
    if decision.how is How.AGREED:
        return agreed_copy(decision.facts, folder)
    return frozen_copy(decision.facts, decision.freeze, folder, limit)


def _snapshots(
    decisions: Sequence[Decision], terms: Terms, stack: contextlib.ExitStack, runner: Runner, monitor: Monitor
) -> Taken:
    """The window; whatever it leaves of this image is removed with the stack, but what is in `terms.kept`."""
    if any(each.how in (How.THICK, How.THIN) for each in decisions):
        stack.callback(_remove_all, terms, runner, monitor)
    return take_snapshots(decisions, terms, runner)


@contextlib.contextmanager
def _watching(decisions: Sequence[Decision], taken: Taken, runner: Runner) -> Iterator[Watch]:
    """Snapshots watched from the moment they are there. Whatever fails because one of them did is said to be that: a
    tool that reads an overflowed snapshot says something else."""
    largest = {each.facts.lv.full_name: each.facts.lv.size_bytes * 102 // 100 for each in decisions if each.facts.lv}
    most = {each.name: largest.get(f"{each.group}/{each.origin}", 0) for each in taken.snapshots.values()}
    watch = Watch(list(taken.snapshots.values()), most, runner)
    try:
        with watch.running():
            yield watch
    except RefloatError as error:
        with contextlib.suppress(ToolError):
            watch.check(last=True)
        raise error


def _remove_all(terms: Terms, runner: Runner, monitor: Monitor) -> None:
    """What stays because it cannot be removed is a warning: the image may be committed, and the next run sweeps."""
    suffix = lvm.snapshot_name("", terms.image)
    try:
        for each in lvm.our_snapshots(terms.server_id, runner):
            if each.name.endswith(suffix) and each.uuid not in terms.kept:
                lvm.remove(each, runner)
    except ToolError as error:
        monitor.warn(error.message)


@contextlib.contextmanager
def _opened(decision: Decision, taken: Taken, image: str, runner: Runner) -> Iterator[str]:
    """Where a snapshotted volume's bytes are."""
    path = taken.snapshots[decision.facts.spec.name].path
    if decision.facts.crypt is None:
        yield path
        return
    with crypts.opened(path, decision.facts.crypt, image, runner) as inside:
        yield inside


def _tracked(
    decisions: Sequence[Decision], taken: Taken, tracking: Tracking, terms: Terms, runner: Runner
) -> dict[str, Tracked]:
    """By volume, what is known to have changed in it."""
    ours = lvm.our_snapshots(terms.server_id, runner) if taken.snapshots else []
    return {
        each.facts.spec.name: tracking.look(each.facts, taken.snapshots[each.facts.spec.name], ours, runner)
        for each in decisions
        if each.facts.spec.name in taken.snapshots
    }


def _doubts(before: Sequence[Decision], after: Sequence[Facts]) -> dict[str, str]:
    """Volumes (by name) whose filesystem may not have been frozen when the snapshot was made, and why."""
    found = {}
    for each, now in zip(before, after, strict=True):
        facts, name = each.facts, each.facts.spec.name
        if each.how not in (How.THICK, How.THIN) or not facts.in_use:
            continue
        if facts.busy:
            found[name] = f"it is in use, and not by a filesystem here: {facts.busy}"
        elif facts.mounts != now.mounts:
            found[name] = "it was mounted or unmounted meanwhile"
        elif facts.crypt is not None and facts.writable and not each.freeze:
            found[name] = "it lies above LUKS, and could not be frozen"
    return found


def _must_be_offline_still(before: Sequence[Decision], after: Sequence[Facts]) -> None:
    """SourceError when something that nobody used came into use while it was read."""
    for each, now in zip(before, after, strict=True):
        if each.how is How.OFFLINE and not each.facts.in_use and now.in_use and now.writable:
            raise SourceError(
                f"{each.facts.spec.name} came into use while it was read: {now.busy or now.mounts[0]}",
                hint="run again: it will be snapshotted or refused",
            )


def _contents(decisions: Sequence[Decision], paths: Mapping[str, str], runner: Runner) -> dict[str, Content]:
    """Volume → what it holds, read where it holds still: a mounted filesystem does not tell how small it can get."""
    return {
        each.facts.spec.name: content_in(paths[each.facts.spec.name], each.facts.spec.content, runner)
        for each in decisions
        if each.facts.spec.name in paths
    }


def _source(
    decision: Decision,
    spec: VolumeSpec,
    paths: Mapping[str, str],
    doubts: Mapping[str, str],
    tracked: Mapping[str, Tracked],
    sector_bytes: Mapping[str, int | None],
    stack: contextlib.ExitStack,
    runner: Runner,
) -> Source:
    facts, path = decision.facts, paths.get(spec.name)
    if path is not None:
        frozen = bool(facts.mounts) and facts.writable and decision.how is not How.AGREED
        found = tracked.get(spec.name, Tracked(None))
        return Source(
            spec, path, 0, lambda: path, held=decision.how, frozen=frozen, doubt=doubts.get(spec.name, ""),
            changed=found.changes, tracked_by=found.by,
        )  # fmt: skip
    live = decision.how is How.LIVE
    map_path = None
    if not live and spec.content.type in PROGRAMS:
        where = DiskSource(facts.path, sector_bytes=sector_bytes.get(spec.disk))
        map_path = functools.cache(partial(_enter, stack, where, facts.offset_bytes, spec.size_bytes, runner))
    return Source(spec, facts.path, facts.offset_bytes, map_path, live=live, held=decision.how)


def _enter(stack: contextlib.ExitStack, source: DiskSource, offset: int, size: int, runner: Runner) -> str:
    return stack.enter_context(
        volume_device(source.path, offset, size, sector_bytes=source.sector_bytes, runner=runner)
    )
