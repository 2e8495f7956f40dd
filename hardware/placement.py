"""Where partitions go on a disk of another size: what gives way, in which order, and what moves. Pure arithmetic.

Imports `core` and `hardware.recreate`. All numbers are bytes. The rule: nothing before the first thing that gives way
moves, so boot code, the BIOS-boot partition and /boot keep their places. In this order give way: space between
partitions, swap down to 64 MiB, ext filesystems down to their least size and a margin (or what stands on a partition:
free extents, swap and ext filesystems in a volume group), filesystems that may be made anew, and at last swap
altogether.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from core.layout import Content, Partition, Role, Table, TableKind
from core.sizes import MIB, align_down, align_up
from hardware.recreate import EXT, RECREATABLE, least_recreated

SWAP_MIN_BYTES = 64 * MIB
SHRINKABLE = EXT
#: dos tables count sectors in 32 bits.
DOS_MAX_SECTORS = (1 << 32) - 1


@dataclass(frozen=True)
class Placement:
    """`partitions` in the order of the table, those in `dropped` (numbers) missing; `need_bytes` is the size of the
    smallest disk on which this table could be placed."""

    partitions: tuple[Partition, ...]
    need_bytes: int
    dropped: tuple[int, ...] = ()


@dataclass(frozen=True)
class TooSmall:
    """No placement: `need_bytes` as above."""

    need_bytes: int


@dataclass(frozen=True)
class Bounds:
    """What a disk leaves for partitions: `end` is the first byte that is not theirs, `tail` what its backup takes."""

    end: int
    tail: int


def bounds_of(table: Table, size_bytes: int, sector_bytes: int) -> Bounds:
    """The end for partitions of such a table on a disk of this size (UEFI 2.10, 5.3.1: the backup GPT stands last)."""
    whole = align_down(size_bytes, sector_bytes)
    if table.kind is TableKind.DOS:
        return Bounds(min(whole, DOS_MAX_SECTORS * sector_bytes), 0)
    tail = entries_bytes(table, sector_bytes) + sector_bytes
    return Bounds(max(whole - tail, 0), tail)


def entries_bytes(table: Table, sector_bytes: int) -> int:
    """What the entries of a GPT take, in whole sectors."""
    return align_up(table.entries * 128, sector_bytes)


def least_content(content: Content, size_bytes: int, *, may: bool = False, must: bool = False) -> int:
    """The smallest size that what holds this content can be given, when it has `size_bytes` now. `may`, `must`: its
    filesystem may be made anew, or has to be."""
    if content.type == "swap":
        return min(size_bytes, SWAP_MIN_BYTES)
    if shrinks(content) and not must:
        return min(size_bytes, align_up((content.min_bytes or 0) * 105 // 100 + 16 * MIB, MIB))
    least = least_recreated(content) if may or must else None
    return size_bytes if least is None else min(size_bytes, least)


def shrinks(content: Content) -> bool:
    """Whether it can be made smaller as it is."""
    return content.type in SHRINKABLE and content.min_bytes is not None


def gives_last(content: Content) -> bool:
    """Whether what it gives costs making it anew: others give first."""
    return content.type in RECREATABLE and not shrinks(content)


def least_bytes(part: Partition) -> int:
    """The smallest size this partition can be given, going by its own content alone."""
    return least_content(part.content, part.size_bytes)


Least = Callable[[Partition], int]


def place(
    table: Table, size_bytes: int, sector_bytes: int, grow: int = 0, least: Least = least_bytes
) -> Placement | TooSmall:
    """Place a table's partitions on a disk of `size_bytes`; `grow` is the number of the partition that takes what is
    left, 0 for none; `least` tells how small a partition can become with all that stands on it."""
    bounds = bounds_of(table, size_bytes, sector_bytes)
    slots = _slots(table)
    droppable = _droppable(slots)
    need = _need([slot for slot in slots if slot.number not in droppable], bounds.tail, sector_bytes, least)
    for count in range(len(droppable) + 1):
        dropped = droppable[:count]
        kept = [slot for slot in slots if slot.number not in dropped]
        placed = _fit(kept, bounds.end, least)
        if placed is not None:
            grown = _grow(placed, grow, bounds.end)
            return Placement(_with_extended(table, grown, bounds.end), need, dropped)
    return TooSmall(need)


def realigned(table: Table, sector_bytes: int) -> Table | None:
    """The table with every partition on whole sectors of another size: starts and sizes rounded up, what follows moved
    up where it must. None where that would take a dos table apart: partitions there only stay."""
    first = table.first_bytes
    if table.kind is TableKind.DOS:
        aligned = all(
            not (part.start_bytes % sector_bytes or part.size_bytes % sector_bytes) for part in table.partitions
        )
        return table if aligned and all(part.start_bytes >= sector_bytes for part in table.partitions) else None
    at = first = align_up(max(first, 2 * sector_bytes + entries_bytes(table, sector_bytes)), sector_bytes)
    moved = {}
    for part in _slots(table):
        start, size = max(align_up(part.start_bytes, sector_bytes), at), align_up(part.size_bytes, sector_bytes)
        moved[part.number] = replace(part, start_bytes=start, size_bytes=size)
        at = start + size
    return replace(table, first_bytes=first, partitions=tuple(moved[part.number] for part in table.partitions))


def last_growable(table: Table) -> int:
    """The number of the last partition by position that is worth growing (swap is not); 0 when there is none."""
    slots = [slot for slot in _slots(table) if slot.content.type != "swap" and slot.role is not Role.EXTENDED]
    return slots[-1].number if slots else 0


def _droppable(slots: list[Partition]) -> tuple[int, ...]:
    """Numbers of the swap partitions that can be left out, last first. Of logical ones only that with the highest
    number: the others' numbers follow from the chain."""
    top = max((slot.number for slot in slots if slot.role is Role.LOGICAL), default=0)
    swaps = [slot for slot in reversed(slots) if slot.content.type == "swap"]
    return tuple(slot.number for slot in swaps if slot.role is not Role.LOGICAL or slot.number == top)


def _slots(table: Table) -> list[Partition]:
    """What takes room, by position: an extended partition counts only through its logicals, unless it has none."""
    has_logical = any(part.role is Role.LOGICAL for part in table.partitions)
    parts = [part for part in table.partitions if part.role is not Role.EXTENDED or not has_logical]
    return sorted(parts, key=lambda part: part.start_bytes)


def _fit(slots: list[Partition], end: int, least: Least) -> list[Partition] | None:
    """The slots moved and shrunk as little as the order of giving way allows, or None."""
    placed = _pack(slots, end)
    if placed is not None:
        return placed
    others = [slot for slot in slots if slot.content.type != "swap" and least(slot) < slot.size_bytes]
    givers = [slot for slot in reversed(slots) if slot.content.type == "swap"]
    # one big giver before many small ones
    givers += sorted(others, key=lambda slot: (gives_last(slot.content), least(slot) - slot.size_bytes))
    sizes = {slot.number: slot.size_bytes for slot in slots}
    for giver in givers:
        short = _end(_moved(_resized(slots, sizes), 1)) - end
        wanted = align_down(giver.size_bytes - short, MIB)
        # what follows moves in whole MiB, which may swallow some of what is given
        for size in (wanted, wanted - MIB, wanted - 2 * MIB, 0):
            sizes[giver.number] = min(giver.size_bytes, max(size, least(giver)))
            placed = _pack(_resized(slots, sizes), end)
            if placed is not None:
                return placed
    return None


def _resized(slots: Sequence[Partition], sizes: dict[int, int]) -> list[Partition]:
    return [replace(slot, size_bytes=sizes[slot.number]) for slot in slots]


def _pack(slots: list[Partition], end: int) -> list[Partition] | None:
    """Move down as few of the last slots as are needed; None when moving all but the first is not enough."""
    for first in range(len(slots), 0, -1):
        moved = _moved(slots, first)
        if _end(moved) <= end:
            return moved
    return None if slots else []


def _moved(slots: Sequence[Partition], first: int) -> list[Partition]:
    """The slots with all from index `first` on moved down to the one before, on MiB boundaries, never up."""
    placed = list(slots[:first])
    for slot in slots[first:]:
        # the EBR that describes a logical partition stands before it
        room = MIB if slot.role is Role.LOGICAL else 0
        start = align_up(placed[-1].end_bytes + room, MIB)
        placed.append(replace(slot, start_bytes=min(slot.start_bytes, start)))
    return placed


def _end(slots: Sequence[Partition]) -> int:
    return max((slot.end_bytes for slot in slots), default=0)


def _grow(slots: list[Partition], number: int, end: int) -> list[Partition]:
    extra = align_down(max(end - _end(slots), 0), MIB)
    at = next((index for index, slot in enumerate(slots) if slot.number == number), None)
    if at is None or not extra:
        return slots
    grown = replace(slots[at], size_bytes=slots[at].size_bytes + extra)
    return [*slots[:at], grown, *(replace(slot, start_bytes=slot.start_bytes + extra) for slot in slots[at + 1 :])]


def _with_extended(table: Table, slots: list[Partition], end: int) -> tuple[Partition, ...]:
    """The placed slots in the table's order, with the extended partition drawn around its logicals again."""
    placed = {slot.number: slot for slot in slots}
    logicals = [slot for slot in slots if slot.role is Role.LOGICAL]
    for part in table.partitions:
        if part.role is Role.EXTENDED and part.number not in placed and logicals:
            first, last = logicals[0], logicals[-1]
            up = first.start_bytes - next(each.start_bytes for each in table.partitions if each.number == first.number)
            start = part.start_bytes + up if up >= 0 else first.start_bytes - MIB
            after = (slot.start_bytes for slot in slots if slot.start_bytes >= last.end_bytes)
            stop = max(last.end_bytes, min(part.end_bytes, min(after, default=end)))
            placed[part.number] = replace(part, start_bytes=start, size_bytes=stop - start)
    return tuple(placed[part.number] for part in table.partitions if part.number in placed)


def _need(kept: list[Partition], tail: int, sector_bytes: int, least: Least) -> int:
    """With every gap closed and everything at its least size."""
    packed = _moved(_resized(kept, {slot.number: least(slot) for slot in kept}), 1) if kept else []
    return align_up(_end(packed) + tail, sector_bytes)
