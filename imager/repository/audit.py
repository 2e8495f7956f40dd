"""The audit of change tracking: a random sample of blocks that it calls unchanged is read, and compared with what the
parent says of them. One miss means that it cannot be believed. Nothing is kept; imports `imager`.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from imager.blocks import clear_pages, digest_block
from imager.changes import Changes
from imager.repository.segments import DATA, ZERO, Item
from imager.source import Reader
from imager.spans import BLOCK_BYTES, Span

#: So many blocks are read at least, however small the share is.
LEAST_BLOCKS = 64


@dataclass(frozen=True)
class Audit:
    """How many blocks were read, and how many of them were not what they were called."""

    read: int = 0
    missed: int = 0

    def __add__(self, other: Audit) -> Audit:
        return Audit(self.read + other.read, self.missed + other.missed)


def is_trusted(item: Item | None, mask: int) -> bool:
    """Whether an unchanged block is what the parent has of it: with the same free pages it has the same digest; and
    one of zeros is one whatever its free pages are (others are among the changes, `Bases.save`)."""
    return item is not None and (item.kind == ZERO or (item.kind == DATA and item.mask == mask))


def unread(
    piece: Span, known: list[list[Item | None]], changes: Changes | None
) -> Iterator[tuple[Span, list[list[Item | None]]]]:
    """The parts of a span that must be read, with what the lineages have of them: all of it, or, with change tracking,
    the blocks that changed or that any lineage's parent cannot be trusted for. The others stay what they are."""
    if changes is None:
        yield piece, known
        return
    start = 0
    for index in range(len(piece.masks) + 1):
        if index < len(piece.masks) and not (
            piece.block + index not in changes and all(is_trusted(items[index], piece.masks[index]) for items in known)
        ):
            continue
        if index > start:
            yield Span(piece.block + start, piece.masks[start:index]), [items[start:index] for items in known]
        start = index + 1


def audit(
    reader: Reader, volume: int, items: Iterable[Item], changes: Changes, *, share: float, digest_key: bytes
) -> Audit:
    """Read `share` (0 to 1) of the unchanged blocks of data among a parent's items of a volume; 64 at least,
    or all where there are fewer."""
    draw = random.Random(secrets.randbits(64))  # noqa: S311 - nobody can know it, and speed counts
    buffer = memoryview(bytearray(BLOCK_BYTES))
    read = missed = seen = 0
    spare: list[Item] = []

    def differs(item: Item) -> bool:
        reader.read(item.block * BLOCK_BYTES, buffer)
        if item.mask:
            clear_pages(buffer, item.mask)
        return digest_block(digest_key, buffer, volume, item.block) != item.digest

    for item in items:
        if item.kind != DATA or item.block in changes:
            continue
        if draw.random() < share:
            read, missed = read + 1, missed + differs(item)
            continue
        # how many there are is known at the end: an even draw of the rest is kept for the least (Vitter's algorithm R)
        seen += 1
        if len(spare) < LEAST_BLOCKS:
            spare.append(item)
        elif (place := draw.randrange(seen)) < LEAST_BLOCKS:
            spare[place] = item
    draw.shuffle(spare)
    for item in sorted(spare[: max(0, LEAST_BLOCKS - read)], key=lambda each: each.block):
        read, missed = read + 1, missed + differs(item)
    return Audit(read, missed)
