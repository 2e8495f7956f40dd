"""The algebra of maps: newer items hide older ones. Pure: iterators of sorted, non-overlapping items in and out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from imager.repository.segments import DATA, Item


def overlay(older: Iterable[Item], newer: Iterable[Item]) -> Iterator[Item]:
    """Both maps as one; where both speak of a block, the newer wins. Runs of the older are cut where needed."""
    old = iter(older)
    current = next(old, None)
    for item in newer:
        volume, start, end = item.volume, item.block, item.block + item.count
        while current is not None and (current.volume, current.block + current.count) <= (volume, start):
            yield current
            current = next(old, None)
        if current is not None and current.volume == volume and current.block < start:
            yield current._replace(count=start - current.block)
            current = current._replace(block=start, count=current.end - start)
        yield item
        while current is not None and current.volume == volume and current.block < end:
            if current.end > end:
                current = current._replace(block=end, count=current.end - end)
            else:
                current = next(old, None)
    if current is not None:
        yield current
        yield from old


def stack(layers: Sequence[Iterable[Item]]) -> Iterator[Item]:
    """All layers, oldest first, as one."""
    merged: Iterator[Item] = iter(())
    for index, layer in enumerate(layers):
        merged = iter(layer) if index == 0 else overlay(merged, layer)
    return merged


def clip(items: Iterable[Item], sizes: dict[int, int]) -> Iterator[Item]:
    """Only what lies in the volumes of `sizes` (volume id → number of blocks)."""
    for item in items:
        limit = sizes.get(item.volume, 0)
        if item.end <= limit:
            yield item
        elif item.block < limit:
            yield item._replace(count=limit - item.block)


def coalesce(items: Iterable[Item]) -> Iterator[Item]:
    """Neighbouring runs of one kind joined."""
    held: Item | None = None
    for item in items:
        if held is not None:
            if item.kind == held.kind and item.volume == held.volume and item.block == held.end:
                held = held._replace(count=held.count + item.count)
                continue
            yield held
            held = None
        if item.kind == DATA:
            yield item
        else:
            held = item
    if held is not None:
        yield held


class Cursor:
    """Reads a sorted map in step with something that asks for ever higher positions."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = iter(items)
        self._next = next(self._items, None)

    def take(self, volume: int, start: int, stop: int) -> list[Item]:
        """The items within [start, stop) of a volume, cut to it; positions never asked for are skipped."""
        found: list[Item] = []
        item = self._next
        while item is not None and (item.volume, item.block + item.count) <= (volume, start):
            item = next(self._items, None)
        while item is not None and item.volume == volume and item.block < stop:
            low, high = max(item.block, start), min(item.end, stop)
            found.append(item if item.count == 1 else item._replace(block=low, count=high - low))
            if item.end > stop:
                break
            item = next(self._items, None)
        self._next = item
        return found

    def is_all(self, volume: int, start: int, stop: int, kind: int) -> bool:
        """Whether [start, stop) is runs of this kind and nothing else. As `take`, but in constant memory."""
        same, at = True, start
        while at < stop:
            item = self._next
            while item is not None and (item.volume, item.block + item.count) <= (volume, at):
                item = self._next = next(self._items, None)
            if item is None or item.volume != volume or item.block >= stop:
                return False
            same = same and item.kind == kind and item.block <= at
            at = min(item.end, stop)
        return same


def merge_from(counts: Sequence[int]) -> int:
    """Which layers to merge: all from the returned index on (len − 1: none). `counts` are items per layer, oldest
    first.

    A layer is merged into the older one while it holds at least half as many items: so there are O(log n) layers, and
    an item is rewritten O(log n) times in its life.
    """
    index, total = len(counts) - 1, counts[-1]
    while index > 0 and 2 * total >= counts[index - 1]:
        index -= 1
        total += counts[index]
    return index
