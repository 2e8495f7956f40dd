"""Which blocks of a volume change tracking says may have changed: a sorted set of ranges. Pure."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator

from imager.spans import BLOCK_BYTES


class Changes:
    """Ranges [start, stop) of blocks, from ranges in any order that may overlap. Sixteen bytes a range."""

    def __init__(self, ranges: Iterable[tuple[int, int]]) -> None:
        self._starts, self._stops = array("Q"), array("Q")
        for start, stop in sorted(ranges):
            if start >= stop:
                continue
            if self._stops and start <= self._stops[-1]:
                self._stops[-1] = max(self._stops[-1], stop)
            else:
                self._starts.append(start)
                self._stops.append(stop)

    @classmethod
    def of_bytes(cls, ranges: Iterable[tuple[int, int]]) -> Changes:
        """From byte ranges [start, stop), rounded outwards."""
        return cls((start // BLOCK_BYTES, -(-stop // BLOCK_BYTES)) for start, stop in ranges)

    def __contains__(self, block: int) -> bool:
        index = bisect_right(self._starts, block) - 1
        return index >= 0 and block < self._stops[index]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._stops, strict=True)

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return sum(stop - start for start, stop in self)
