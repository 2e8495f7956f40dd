"""Planning the restore of a whole disk: a table of its own and everything in it, or a bare filesystem. Pure.

Imports `core` and `hardware.{actions,draft,firmware,machine,needs,placement,targets}`.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from core.layout import Disk, Partition, Role, Table, TableKind, VolumeRole, VolumeSpec, partition_node
from core.sizes import MIB, align_down, align_up, format_size
from hardware.actions import ClearSpace, ClearTable, Spot, WriteTable
from hardware.draft import GROWABLE, Draft, table_bytes
from hardware.firmware import BIOS_BOOT, with_bios_boot, with_boot_partitions
from hardware.machine import Device
from hardware.placement import (
    DOS_MAX_SECTORS,
    Placement,
    bounds_of,
    entries_bytes,
    last_growable,
    place,
    realigned,
)
from hardware.targets import Refusal, check_device

#: GPT attribute bits 3–47 are reserved (UEFI 2.10, table 5.8); libfdisk sets none of them.
_RESERVED_ATTRS = ((1 << 48) - 1) & ~0b111


def plan_whole(disk: Disk, volumes: list[VolumeSpec], target: Device, draft: Draft) -> None:
    """Everything of a disk onto all of a target."""
    draft.whole.add(disk.name)
    draft.refusals += check_device(disk, target, None, draft.options.overwrite_unseen)
    if target.sector_bytes < disk.sector_bytes:
        draft.warnings.append(
            f"{disk.name} had sectors of {disk.sector_bytes} bytes, {target.path} has {target.sector_bytes}: its table "
            "is computed anew; install the boot loader again, and make an ESP anew whose FAT counts in larger sectors"
        )
    if disk.table is None:
        _plan_bare(disk, volumes, target, draft)
    else:
        _plan_table(disk, disk.table, volumes, target, draft)


def _plan_table(disk: Disk, table: Table, volumes: list[VolumeSpec], target: Device, draft: Draft) -> None:
    grow = _grow_number(disk, table, draft)
    laid = realigned(table, target.sector_bytes) if target.sector_bytes > disk.sector_bytes else table
    if laid is None:
        message = f"its dos table has partitions that do not begin and end on sectors of {target.sector_bytes} bytes"
        draft.refuse(disk.name, message, f"use a disk with {disk.sector_bytes}-byte sectors (512e is fine)")
        return
    wanted = with_boot_partitions(disk, laid, draft)
    least = draft.needs.least_of(disk.name)
    placed = place(wanted, target.size_bytes, target.sector_bytes, grow, least)
    head = next((spec.size_bytes for spec in volumes if spec.role is VolumeRole.HEAD), 0)
    draft.need_bytes[disk.name] = need = max(placed.need_bytes, head)
    if not isinstance(placed, Placement) or target.size_bytes < need:
        draft.refusals.append(_too_small(disk, table.partitions, target, need, draft))
        return
    if laid is not table:
        text = f"{disk.name}: its table is laid out anew in sectors of {target.sector_bytes} bytes"
        draft.warnings.append(text)
    _warn(disk, wanted, placed, target, draft)
    parts = tuple(replace(part, attrs=part.attrs & ~_RESERVED_ATTRS) for part in placed.partitions)
    after = with_bios_boot(disk, replace(wanted, partitions=parts), target, draft)
    sector = target.sector_bytes
    draft.actions.append(
        WriteTable(disk=disk.name, path=target.path, table=after, disk_bytes=target.size_bytes, sector_bytes=sector)
    )
    if draft.options.unused != "keep":
        _clear_space(disk, after, head, target, draft)
    draft.actions += draft.made
    draft.made.clear()
    _write_all(disk, after, volumes, target, draft)
    _note_spots(disk, table, after, target, draft)


def _note_spots(disk: Disk, before: Table, after: Table, target: Device, draft: Draft) -> None:
    """What stands on these partitions is planned when all disks are."""
    was = {part.number: part for part in before.partitions}
    for part in after.partitions:
        if part.number in was and part.role is not Role.EXTENDED:
            node = partition_node(disk.name, part.number)
            draft.sizes_before[node] = was[part.number].size_bytes
            draft.spots[node] = Spot(
                path=target.path,
                number=part.number,
                offset_bytes=part.start_bytes,
                size_bytes=part.size_bytes,
                sector_bytes=target.sector_bytes,
            )


def _grow_number(disk: Disk, table: Table, draft: Draft) -> int:
    """The number of the partition that grows: the one asked for, or that under the stacked volume asked for."""
    grow = draft.options.grow
    if grow == "last":
        return last_growable(table)
    for part in table.partitions:
        node = partition_node(disk.name, part.number)
        if grow in (node, *draft.needs.above(node)):
            return part.number
    return 0


def _too_small(disk: Disk, parts: Iterable[Partition], target: Device, need: int, draft: Draft) -> Refusal:
    def least(part: Partition) -> int:
        return draft.needs.least(_label(disk, part), part.content, part.size_bytes)

    held = sorted((part for part in parts if part.role is not Role.EXTENDED), key=least, reverse=True)
    could = [
        name for part in held for name in draft.needs.could_give(_label(disk, part), part.content, part.size_bytes)
    ]
    give = "".join(f" --recreate {name}" for name in could)
    hint = (
        f"use a larger disk, {f'or let filesystems be made anew and their files copied:{give}, ' if could else ''}or "
    )
    words = [f"{_label(disk, part)} with {part.content.type or 'data'} {format_size(least(part))}" for part in held[:4]]
    message = (
        f"{target.path} is too small: it has {target.size_bytes} bytes ({format_size(target.size_bytes)}), and "
        f"{need} ({format_size(need)}) are needed at least; held by {', '.join(words) or 'its content'}"
    )
    return Refusal(subject=disk.name, message=message, hint=f"{hint}restore only some of its volumes")


def _label(disk: Disk, part: Partition) -> str:
    return f"{disk.name}-part{part.number}" if part.number else disk.name


def _warn(disk: Disk, table: Table, placed: Placement, target: Device, draft: Draft) -> None:
    before = {part.number: part for part in table.partitions}
    for number in placed.dropped:
        draft.warnings.append(f"{disk.name}-part{number}: no room for this swap, it is left out; adjust /etc/fstab")
    for part in placed.partitions:
        carries = bool(draft.needs.above(partition_node(disk.name, part.number)))
        text = _changes(before[part.number], part, carries)
        draft.warnings += [f"{_label(disk, part)}: {each}" for each in text]
    if table.kind is TableKind.DOS and target.size_bytes > DOS_MAX_SECTORS * target.sector_bytes:
        reach = format_size(DOS_MAX_SECTORS * target.sector_bytes)
        draft.warnings.append(f"{disk.name}: a dos table reaches only the first {reach} of {target.path}")


def _changes(old: Partition, new: Partition, carries: bool) -> list[str]:
    """`carries`: arrays, containers or groups stand on it, and follow its size."""
    found = []
    follows = carries or new.content.type in GROWABLE or new.role is Role.EXTENDED
    if new.content.type == "swap" and new.size_bytes < old.size_bytes:
        found.append(f"swap shrinks to {format_size(new.size_bytes)}")
    if new.type.upper() == BIOS_BOOT and new.start_bytes != old.start_bytes:
        found.append("the BIOS-boot partition moves; install the boot loader again")
    if new.size_bytes > old.size_bytes and not follows:
        found.append(f"the partition grows, {new.content.type or 'what is in it'} does not")
    if old.attrs & _RESERVED_ATTRS:
        found.append("reserved attribute bits are not set again")
    return found


def _write_all(disk: Disk, after: Table, volumes: list[VolumeSpec], target: Device, draft: Draft) -> None:
    assert disk.table is not None  # noqa: S101 - plan_whole looked
    placed = {part.number: part for part in after.partitions}
    for spec in volumes:
        if spec.role is VolumeRole.HEAD:
            keep = table_bytes(disk.table, after, disk, target, spec.size_bytes)
            draft.write(spec, target, 0, spec.size_bytes, keep)
        elif spec.role is VolumeRole.PARTITION:
            part = placed[spec.partition]
            draft.write_into(spec, target, part.start_bytes, part.size_bytes)
    for part in after.partitions:
        if part.content.type == "swap" and part.role is not Role.EXTENDED:
            draft.make_swap(disk.name, target, part.number, part.content, (part.start_bytes, part.size_bytes))


def _clear_space(disk: Disk, after: Table, head: int, target: Device, draft: Draft) -> None:
    """The holes between head, partitions and backup table. An extended partition counts as full: its EBRs are in it."""
    sector = target.sector_bytes
    at = align_up(max(head, after.first_bytes, 2 * sector + entries_bytes(after, sector)), sector)
    ranges = []
    for part in sorted(after.partitions, key=lambda each: each.start_bytes):
        if part.start_bytes > at:
            ranges.append((at, part.start_bytes))
        at = max(at, part.end_bytes)
    end = bounds_of(after, target.size_bytes, sector).end
    if end > at:
        ranges.append((at, end))
    if ranges:
        how = draft.options.unused
        draft.actions.append(
            ClearSpace(disk=disk.name, path=target.path, how=how, ranges=tuple(ranges), sector_bytes=sector)
        )


def _plan_bare(disk: Disk, volumes: list[VolumeSpec], target: Device, draft: Draft) -> None:
    """A disk without a table: one volume, or swap."""
    whole = Partition(number=0, start_bytes=0, size_bytes=disk.size_bytes, type="", content=disk.content)
    least = draft.needs.least(disk.name, disk.content, disk.size_bytes)
    draft.need_bytes[disk.name] = need = least
    room = align_down(target.size_bytes, target.sector_bytes)
    if room < need:
        draft.refusals.append(_too_small(disk, [whole], target, need, draft))
        return
    grown = draft.options.grow in ("last", disk.name, *draft.needs.above(disk.name))
    draft.sizes_before[disk.name] = disk.size_bytes
    draft.spots[disk.name] = Spot(
        path=target.path,
        size_bytes=room if grown else min(room, disk.size_bytes),
        sector_bytes=target.sector_bytes,
    )
    draft.actions.append(ClearTable(disk=disk.name, path=target.path, sector_bytes=target.sector_bytes))
    if disk.content.type == "swap":
        draft.make_swap(disk.name, target, 0, disk.content, (0, min(room, disk.size_bytes)))
    for spec in volumes:
        grows = draft.options.grow in ("last", spec.name)
        if room < spec.size_bytes:
            room = align_down(room, MIB)
        draft.write_into(spec, target, 0, room if grows else min(room, spec.size_bytes))
        if grows and room > spec.size_bytes and spec.content.type not in GROWABLE:
            draft.warnings.append(
                f"{spec.name}: the disk is larger, {spec.content.type or 'its content'} does not grow"
            )
