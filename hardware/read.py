"""Disks → Layout: tables, partitions, what they hold and what stands on them, as an image records it.

Nothing is kept. Imports `core` and its neighbours in `hardware`. Raises SourceError rather than tell a disk wrongly.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from core.errors import SourceError
from core.layout import Content, Disk, Layout, Partition, Role, Table, partition_node
from core.run import Runner
from hardware.contents import content_of, read_content
from hardware.facts import Facts, facts_of, is_map, kernel_path
from hardware.identity import identity_of
from hardware.multipath import refuse_paths
from hardware.netview import read_interfaces
from hardware.stack.read import read_stack
from hardware.tables import read_table
from hardware.uses import uses_of


@dataclass(frozen=True)
class DiskSource:
    """A disk to describe: a block device or an image file. `name` empty: from the path; `sector_bytes` None: the
    device's own, 512 for files."""

    path: str
    name: str = ""
    sector_bytes: int | None = None


def read_layout(sources: Sequence[DiskSource], runner: Runner, firmware: str = "") -> Layout:
    """Describe these disks. Raises SourceError for one that is unreadable, named twice, only a path to a disk, or whose
    table is not sound."""
    facts = [facts_of(source.path, source.sector_bytes) for source in sources]
    if len({each.path for each in facts}) != len(facts):
        raise SourceError("the same disk is named twice", hint="name each disk once, by one path")
    refuse_paths(facts)
    names = disk_names([source.name or _own_name(each) for source, each in zip(sources, facts, strict=True)])
    disks = tuple(read_disk(each, name, runner) for each, name in zip(facts, names, strict=True))
    stack = read_stack(list(zip(facts, disks, strict=True)), runner)
    return Layout(
        disks=disks,
        arrays=tuple(stack.arrays),
        crypts=tuple(stack.crypts),
        groups=tuple(stack.groups),
        interfaces=read_interfaces(runner),
        hostname=os.uname().nodename,
        firmware=firmware,
    )


def _own_name(facts: Facts) -> str:
    return os.path.basename(facts.path if facts.rdev is None else kernel_path(facts.rdev))


@dataclass(frozen=True)
class Place:
    """Where a node's bytes are: `size` is told by who asks; they begin at `offset_bytes` of `path`."""

    path: str
    offset_bytes: int = 0


def node_places(layout: Layout, disks: Mapping[str, str]) -> dict[str, Place]:
    """Every node of a layout that was just read on this machine → its place; `disks` gives the paths of disks by name.
    A partition is told as a range of its disk."""
    found = {name: Place(path) for name, path in disks.items()}
    for disk in layout.disks:
        for part in disk.table.partitions if disk.table else ():
            found[partition_node(disk.name, part.number)] = Place(disks[disk.name], part.start_bytes)
    found.update((array.name, Place(f"/dev/{array.name}")) for array in layout.arrays)
    found.update((crypt.name, Place(f"/dev/mapper/{crypt.name}")) for crypt in layout.crypts)
    for group in layout.groups:
        found.update((volume.node, Place(f"/dev/mapper/{volume.node}")) for volume in group.volumes)
    return found


def disk_names(wanted: Sequence[str]) -> list[str]:
    """The names made safe for files and site objects, and unique, in the order given."""
    found: list[str] = []
    for text in wanted:
        base = re.sub(r"[^A-Za-z0-9._-]+", "_", text).lstrip("._-") or "disk"
        name, number = base, 2
        while name in found:
            name, number = f"{base}-{number}", number + 1
        found.append(name)
    return found


def read_disk(facts: Facts, name: str, runner: Runner) -> Disk:
    """One disk, with the content of every partition."""
    if facts.partition:
        raise SourceError(
            f"{facts.path} is a partition, not a disk",
            hint="name the whole disk; volumes of it can be chosen at restore",
        )
    table, seen = read_table(facts, runner)
    busy = _busy(facts.path)
    content = Content()
    if table is None:
        content = content_of(facts, 0, facts.size_bytes, seen, busy=busy(0, facts.size_bytes), runner=runner)
    else:
        parts = (
            _with_content(facts, part, busy(part.start_bytes, part.size_bytes), runner) for part in table.partitions
        )
        table = replace(table, partitions=tuple(parts))
    identity = identity_of(facts)
    return Disk(
        name=name,
        size_bytes=facts.size_bytes,
        sector_bytes=facts.sector_bytes,
        physical_sector_bytes=facts.physical_sector_bytes,
        serial=identity.serial,
        wwn=identity.wwn,
        model=identity.model,
        transport=identity.transport,
        multipath=facts.rdev is not None and is_map(facts.rdev),
        table=table,
        content=content,
    )


def read_disk_table(facts: Facts, runner: Runner) -> Table | None:
    """The table alone, partitions without content: for comparing, quick."""
    return read_table(facts, runner)[0]


def _with_content(facts: Facts, part: Partition, busy: bool, runner: Runner) -> Partition:
    if part.role is Role.EXTENDED:
        return part
    return replace(part, content=read_content(facts, part.start_bytes, part.size_bytes, busy=busy, runner=runner))


class _busy:  # noqa: N801 - used as a function that remembers its answer
    """Whether a range of a disk is in use; a use whose place is not known counts for every range."""

    def __init__(self, path: str) -> None:
        self._starts = [use.start_bytes for use in uses_of(path)]

    def __call__(self, start: int, size: int) -> bool:
        return any(at is None or start <= at < start + size for at in self._starts)
