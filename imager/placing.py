"""Where volumes are put back, and what was done to each: values that every mechanism's restore takes and gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


class Overlay(Protocol):
    """Blocks of a volume that were changed before it is written (a shrunk filesystem)."""

    def has(self, block: int) -> bool: ...

    def blocks(self) -> Iterator[tuple[int, memoryview]]:
        """Changed blocks in order, each 65,536 bytes, page-aligned."""
        ...


@dataclass(frozen=True)
class VolumeTarget:
    """Where a volume goes: `size_bytes` of it (not more than it has) from `offset_bytes` of `path`. `keep` lists
    byte ranges [start, stop) of the volume that are left as they are on the target; `unused` says what becomes of
    blocks the filesystem does not use: `keep`, `discard` or `zero`."""

    volume: str
    path: str
    offset_bytes: int
    size_bytes: int
    keep: tuple[tuple[int, int], ...] = ()
    overlay: Overlay | None = None
    unused: str = "keep"


@dataclass
class VolumeReport:
    """What was done to one volume, in bytes. `equal` was right already; `unused` was left, discarded or zeroed."""

    volume: str
    written_bytes: int = 0
    equal_bytes: int = 0
    zeroed_bytes: int = 0
    unused_bytes: int = 0
    unused: str = "keep"
    verified_bytes: int = 0
