"""What happens to a span in a worker thread: read, free pages to zeros, digest, compare, compress, seal."""

from __future__ import annotations

import itertools
import mmap
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from imager.blocks import clear_pages, digest_block, is_zero
from imager.keys import DataKey
from imager.repository.frames import FRAME_BYTES, Frame, Sealer, digest_bytes
from imager.repository.segments import DATA, Item
from imager.source import Reader
from imager.spans import BLOCK_BYTES, Span
from imager.tap import Tap

#: How much more than a span its frames may hold. At 1.4 a year of nights costs 1.23 to 1.30 of the writes, and a
#: restore fetches at most 1.22 of the bytes (simulated: `docs/keeping.md`).
WEAR = 1.4


@dataclass(frozen=True)
class SealedFrame:
    """A frame for the lineages in the bit set `need`; `places` are the span's blocks it holds, in order."""

    need: int
    places: tuple[int, ...]
    frame: Frame
    sealed: bytes


@dataclass(frozen=True)
class SpanResult:
    """Per block of the span its digest (None: all zeros), and the frames made of what somebody needs."""

    digests: list[bytes | None]
    frames: list[SealedFrame]


class Workshop:
    """Shared by the worker threads of one run; each thread has its own buffers and contexts."""

    def __init__(self, key: DataKey, server_id: bytes, digest_key: bytes, level: int, taps: Sequence[Tap] = ()) -> None:
        self._key, self._server_id, self._digest_key, self._level = key, server_id, digest_key, level
        self._taps = taps
        self._numbers = itertools.count()  # next() on it is atomic under the GIL
        self._local = threading.local()

    def _bench(self) -> tuple[memoryview, memoryview, Sealer]:
        made: tuple[memoryview, memoryview, Sealer] | None = getattr(self._local, "bench", None)
        if made is None:
            sealer = Sealer(self._key.key, self._key.key_id, self._server_id, self._level)
            made = (memoryview(mmap.mmap(-1, FRAME_BYTES)), memoryview(mmap.mmap(-1, FRAME_BYTES)), sealer)
            self._local.bench = made
        return made

    def process(
        self, reader: Reader, name: str, volume: int, span: Span, parents: Sequence[Sequence[Item | None]]
    ) -> SpanResult:
        """`name` and id of the volume; `parents[g][i]`: what lineage `g` has of the span's block `i`, or None."""
        buffer, scratch, sealer = self._bench()
        view = buffer[: len(span.masks) * BLOCK_BYTES]
        reader.read(span.block * BLOCK_BYTES, view)
        digests: list[bytes | None] = []
        wanted = [0] * len(span.masks)
        for index, mask in enumerate(span.masks):
            block = view[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES]
            if mask:
                clear_pages(block, mask)
            if is_zero(block):
                digests.append(None)
                continue
            digest = digest_block(self._digest_key, block, volume, span.block + index)
            digests.append(digest)
            for group, known in enumerate(parents):
                item = known[index]
                if item is None or item.kind != DATA or item.digest != digest:
                    wanted[index] |= 1 << group
        if any(wanted):
            for group, known in enumerate(parents):
                for index in worn(digests, known, [bool(need >> group & 1) for need in wanted]):
                    wanted[index] |= 1 << group
        needs: dict[int, list[int]] = {}
        for index, need in enumerate(wanted):
            if need:
                needs.setdefault(need, []).append(index)
        for tap in self._taps:
            tap.blocks(name, span.block, view, digests)
        frames = [self._seal(sealer, need, places, view, scratch) for need, places in needs.items()]
        return SpanResult(digests, frames)

    def _seal(self, sealer: Sealer, need: int, places: list[int], view: memoryview, scratch: memoryview) -> SealedFrame:
        if places[-1] - places[0] == len(places) - 1:
            plain = view[places[0] * BLOCK_BYTES : (places[-1] + 1) * BLOCK_BYTES]
        else:
            plain = scratch[: len(places) * BLOCK_BYTES]
            for slot, index in enumerate(places):
                plain[slot * BLOCK_BYTES : (slot + 1) * BLOCK_BYTES] = view[
                    index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES
                ]
        number = next(self._numbers)
        sealed = sealer.seal(number, plain)
        frame = Frame(self._key.key_id, number, len(places), len(sealed), digest_bytes(sealed))
        return SealedFrame(need, tuple(places), frame, sealed)


def worn(digests: Sequence[bytes | None], known: Sequence[Item | None], changed: Sequence[bool]) -> list[int]:
    """Blocks of a span that did not change but are stored anew, so that a restore need not fetch frames of which most
    was written over since: as many as it takes until the frames that hold the span hold at most `WEAR` of it.

    The deadest frames first. In a span where nothing changed nothing wears.
    """
    live = sum(1 for digest in digests if digest is not None)
    fresh = sum(changed)
    if not fresh:
        return []
    frames: dict[tuple[bytes, int], tuple[int, list[int]]] = {}
    for index, item in enumerate(known):
        if item is not None and item.frame is not None and digests[index] is not None and not changed[index]:
            frame = item.frame
            frames.setdefault((frame.key_id, frame.number), (frame.blocks, []))[1].append(index)
    again: list[int] = []
    held = fresh + sum(blocks for blocks, _ in frames.values())
    for blocks, places in sorted(frames.values(), key=lambda each: len(each[1]) / each[0]):
        if held <= WEAR * live or len(places) == blocks:
            break
        held += len(places) - blocks
        again += places
    return again
