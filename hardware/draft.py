"""A plan in the making, and the steps common to whole disks and single volumes. Pure; lives as long as `make_plan`.

Imports `core` and `hardware.{actions,machine,needs,placement,targets}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from core.layout import Content, Disk, Table, TableKind, VolumeSpec
from core.sizes import MIB, align_up
from hardware.actions import (
    AnyAction,
    GrowFilesystem,
    MakeSwap,
    Range,
    RecreateFilesystem,
    ShrinkFilesystem,
    Spot,
    WriteVolume,
)
from hardware.machine import Device, Remnant
from hardware.needs import Stackings
from hardware.placement import SHRINKABLE, bounds_of, entries_bytes, shrinks
from hardware.targets import Refusal

GROWABLE = SHRINKABLE | {"xfs", "btrfs"}


@dataclass(frozen=True)
class PlanOptions:
    """`only`: names of disks and volumes to restore, empty for all that have a target. `grow`: `none`, `last`, or the
    name of a volume. `unused`: what happens to space nothing uses: `keep`, `discard`, `zero`. `present`: by disk name,
    what the target holds now, needed where only some volumes of a disk are restored. `overwrite_unseen`: also overwrite
    what nobody can look into for a site (LUKS, LVM, a dirty log). `firmware`: that of the machine that will boot,
    empty for as it was; `repair`: make it boot there. `without_md`: dissolve mirrors onto a single disk. `remnants`:
    what the machine's other disks hold; `retired`: those of them whose twins lose their signatures, by path.
    `recreate`: names of volumes, or `all`: those whose filesystem may be made anew and its files copied, where it
    cannot be put back as it is."""

    only: frozenset[str] = frozenset()
    grow: str = "none"
    unused: str = "keep"
    present: Mapping[str, Disk] = field(default_factory=dict)
    overwrite_unseen: bool = False
    firmware: str = ""
    repair: bool = False
    without_md: bool = False
    remnants: tuple[Remnant, ...] = ()
    retired: Mapping[str, Device] = field(default_factory=dict)
    recreate: frozenset[str] = frozenset()


@dataclass
class Draft:
    """What has been decided so far. Shrinks come first of all, since they write to no target; grows last."""

    options: PlanOptions
    needs: Stackings
    shrinks: list[AnyAction] = field(default_factory=list)
    actions: list[AnyAction] = field(default_factory=list)
    grows: list[AnyAction] = field(default_factory=list)
    last: list[AnyAction] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    need_bytes: dict[str, int] = field(default_factory=dict)
    #: Where nodes of the layout will be, and how large their carriers were; filled disk by disk, then by the stack.
    spots: dict[str, Spot] = field(default_factory=dict)
    sizes_before: dict[str, int] = field(default_factory=dict)
    #: Disks the server boots from; disks that are restored as a whole; what is made on them beside the image's own.
    boot_disks: tuple[str, ...] = ()
    whole: set[str] = field(default_factory=set)
    made: list[AnyAction] = field(default_factory=list)

    def refuse(self, subject: str, message: str, hint: str = "") -> None:
        """Note a reason not to do it."""
        self.refusals.append(Refusal(subject=subject, message=message, hint=hint))

    def write(self, spec: VolumeSpec, target: Device, offset: int, size: int, keep: tuple[Range, ...] = ()) -> None:
        """Write the first `size` bytes of a volume at `offset`."""
        self.actions.append(
            WriteVolume(
                volume=spec.name,
                disk=spec.disk,
                path=target.path,
                offset_bytes=offset,
                size_bytes=size,
                keep=keep,
                unused=self.options.unused,
            )
        )

    def write_into(self, spec: VolumeSpec, target: Device, offset: int, room: int) -> None:
        """Write a volume where there is `room` for it: shrunk before, or grown after, or made anew, as the room and the
        sectors demand."""
        kind, size = spec.content.type, min(spec.size_bytes, room)
        filesystem = spec.content.size_bytes or spec.size_bytes
        too_large = size < filesystem and not shrinks(spec.content) and spec.name in self.needs.recreating.allowed
        if too_large or spec.name in self.needs.recreating.must:
            self._recreate(spec, target, offset, room)
            return
        if size < filesystem:
            # what lies beyond the new end moves, and every metadata block may be written once
            scratch = min(filesystem - size, spec.content.used_bytes or filesystem) + filesystem // 64 + 64 * MIB
            self.shrinks.append(
                ShrinkFilesystem(
                    volume=spec.name, type=kind, from_bytes=filesystem, to_bytes=size, scratch_bytes=scratch
                )
            )
        self.write(spec, target, offset, size)
        # where a partition was only rounded up to whole sectors there is nothing to grow into
        if room > align_up(spec.size_bytes, target.sector_bytes) and kind in GROWABLE:
            self.grows.append(
                GrowFilesystem(
                    volume=spec.name,
                    disk=spec.disk,
                    path=target.path,
                    type=kind,
                    offset_bytes=offset,
                    from_bytes=size,
                    to_bytes=room,
                    sector_bytes=target.sector_bytes,
                )
            )

    def _recreate(self, spec: VolumeSpec, target: Device, offset: int, room: int) -> None:
        self.warnings.append(
            f"{spec.name}: its {spec.content.type} is made anew and its files are copied; inode numbers, times of "
            "creation and of the last change of attributes, and shared or compressed extents are not kept"
        )
        self.actions.append(
            RecreateFilesystem(
                volume=spec.name,
                disk=spec.disk,
                path=target.path,
                type=spec.content.type,
                uuid=spec.content.uuid,
                label=spec.content.label,
                offset_bytes=offset,
                size_bytes=room,
                from_bytes=spec.content.size_bytes or spec.size_bytes,
                used_bytes=spec.content.used_bytes,
                sector_bytes=target.sector_bytes,
                unused=self.options.unused,
            )
        )

    def make_swap(self, node: str, target: Device, number: int, content: Content, place: tuple[int, int]) -> None:
        """Swap with its old names at `place` (offset, size)."""
        self.actions.append(
            MakeSwap(
                disk=node,
                path=target.path,
                partition=number,
                uuid=content.uuid,
                label=content.label,
                offset_bytes=place[0],
                size_bytes=place[1],
                sector_bytes=target.sector_bytes,
            )
        )


def table_bytes(before: Table, after: Table, disk: Disk, target: Device, size_bytes: int) -> tuple[Range, ...]:
    """What of a head volume of `size_bytes` is the table's own: the disk id and the four slots of the MBR, and the GPT.

    Where sector sizes differ, both the place of the image's GPT (it must not come back as garbage) and that of the
    target's are left out.
    """
    ranges: list[Range] = [(440, 512)]
    if after.kind is TableKind.GPT:
        both = ((before, disk.sector_bytes), (after, target.sector_bytes))
        start, end = min(sector for _, sector in both), max(2 * sec + entries_bytes(table, sec) for table, sec in both)
        ranges = [(440, end)] if start == 512 else [(440, 512), (start, end)]
        ranges.append((bounds_of(after, target.size_bytes, target.sector_bytes).end, target.size_bytes))
    return tuple((start, min(end, size_bytes)) for start, end in ranges if start < size_bytes)
