"""What of a volume must be read: used extents and holes become runs and spans of blocks. Pure; constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

BLOCK_BYTES = 64 << 10
PAGE_BYTES = 4 << 10
PAGES = BLOCK_BYTES // PAGE_BYTES
SPAN_BLOCKS = 16
_ALL = (1 << PAGES) - 1


class Extent(NamedTuple):
    """`size_bytes` from `start_bytes`."""

    start_bytes: int
    size_bytes: int


class Stretch(NamedTuple):
    """`count` blocks from `block` that share a `mask` of free pages; all ones means unused."""

    block: int
    count: int  # type: ignore[assignment]  # hides tuple.count on purpose
    mask: int


@dataclass(frozen=True)
class Idle:
    """Blocks that need no reading: `unused`, or known to be zeros (a hole of a sparse file)."""

    block: int
    count: int
    unused: bool


@dataclass(frozen=True)
class Span:
    """At most 16 neighbouring blocks to read: from `block`, one mask each (None: the block is skipped, see `skip`)."""

    block: int
    masks: tuple[int, ...]


def stretches(used: Iterable[Extent], size_bytes: int) -> Iterator[Stretch]:
    """The whole volume as stretches, from its used extents (sorted; they may touch or overlap)."""
    blocks = -(-size_bytes // BLOCK_BYTES)
    done = 0  # every block below is out, except the pages collected in `pending`
    pending = 0  # used pages of block `done`
    for start, stop in _pages(used, size_bytes):
        first, last = start // PAGES, (stop - 1) // PAGES
        if first > done:
            if pending:
                yield Stretch(done, 1, _ALL ^ pending)
                done, pending = done + 1, 0
            if first > done:
                yield Stretch(done, first - done, _ALL)
                done = first
        while first <= last:
            low = max(start - first * PAGES, 0)
            if low == 0 and pending == 0 and stop >= (first + 1) * PAGES:
                whole = stop // PAGES - first
                yield Stretch(first, whole, 0)
                first = done = first + whole
                continue
            high = min(stop - first * PAGES, PAGES)
            pending |= ((1 << high) - 1) ^ ((1 << low) - 1)
            if pending == _ALL:
                yield Stretch(first, 1, 0)
                done, pending = first + 1, 0
            elif first < last:
                yield Stretch(first, 1, _ALL ^ pending)
                done, pending = first + 1, 0
            else:
                done = first
            first += 1
    if pending:
        yield Stretch(done, 1, _ALL ^ pending)
        done += 1
    if done < blocks:
        yield Stretch(done, blocks - done, _ALL)


def _pages(used: Iterable[Extent], size_bytes: int) -> Iterator[tuple[int, int]]:
    """Merged page ranges [start, stop), rounded outwards. The last page of the volume counts to the end of its
    block, so that padding is never called free."""
    end_page = -(-size_bytes // PAGE_BYTES)
    full_page = -(-size_bytes // BLOCK_BYTES) * PAGES
    held: tuple[int, int] | None = None
    for start_bytes, extent_bytes in used:
        start, stop = start_bytes // PAGE_BYTES, min(-(-(start_bytes + extent_bytes) // PAGE_BYTES), end_page)
        if start >= stop:
            continue
        if stop == end_page:
            stop = full_page
        if held is not None and start <= held[1]:
            held = (held[0], max(held[1], stop))
            continue
        if held is not None:
            yield held
        held = (start, stop)
    if held is not None:
        yield held


def pieces(used: Iterable[Stretch], data: Iterable[Extent] | None, size_bytes: int) -> Iterator[Idle | Span]:
    """What to do with each block of a volume, in order: skip it as unused, take it as zeros, or read it.

    `data` are the extents of a sparse file that hold data (None: everything does).
    """
    span_start, masks = 0, list[int]()
    for block, count, mask, hole in _with_holes(used, data, size_bytes):
        idle = hole or mask == _ALL
        if idle and masks:
            yield Span(span_start, tuple(masks))
            masks = []
        if idle:
            yield Idle(block, count, unused=mask == _ALL)
            continue
        while count:
            if not masks:
                span_start = block
            room = SPAN_BLOCKS - (span_start % SPAN_BLOCKS) - len(masks)
            take = min(room, count)
            masks.extend([mask] * take)
            block, count = block + take, count - take
            if take == room:
                yield Span(span_start, tuple(masks))
                masks = []
    if masks:
        yield Span(span_start, tuple(masks))


def _with_holes(
    used: Iterable[Stretch], data: Iterable[Extent] | None, size_bytes: int
) -> Iterator[tuple[int, int, int, bool]]:
    """Stretches cut where holes begin and end: (block, count, mask, hole)."""
    if data is None:
        for block, count, mask in used:
            yield block, count, mask, False
        return
    holes = ((each.block, each.count, each.mask == _ALL) for each in _whole_blocks(data, size_bytes))
    at, left, hole = next(holes, (0, 0, True))
    for block, count, mask in used:
        while count:
            take = min(count, left)
            yield block, take, mask, hole
            block, count, left = block + take, count - take, left - take
            if not left:
                at, left, hole = next(holes, (at, 0, True))
                if not left:
                    if count:
                        yield block, count, mask, True
                    break


def _whole_blocks(data: Iterable[Extent], size_bytes: int) -> Iterator[Stretch]:
    """As `stretches`, but a block counts as data when any byte of it does."""
    for each in stretches(data, size_bytes):
        yield each if each.mask == _ALL else each._replace(mask=0)
