"""Random access to the volumes of an image: for the mount, for export in order, and for what must be changed before
it is written."""

from __future__ import annotations

import bisect
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from core.errors import CorruptError, FormatError
from imager.repository.frames import FRAME_BYTES, Frame
from imager.repository.layers import stack
from imager.repository.manifest import SegmentRef
from imager.repository.reader import OpenImage
from imager.repository.segments import DATA, Item, Segment
from imager.spans import BLOCK_BYTES
from imager.volumes import Volume

_FRAMES_KEPT = 48
_SEGMENTS_KEPT = 12
_K = TypeVar("_K")
_V = TypeVar("_V")


class _Recent(Generic[_K, _V]):
    """The most recently used values, at most `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit, self._kept, self._lock = limit, OrderedDict[_K, _V](), threading.Lock()

    def get(self, key: _K, make: Callable[[], _V]) -> _V:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        value = make()  # two threads may make the same value; that costs time, not truth
        with self._lock:
            self._kept[key] = value
            while len(self._kept) > self._limit:
                self._kept.popitem(last=False)
        return value


class ImageView:
    """Reads any bytes of any volume; every block is checked against its digest. Safe for several threads."""

    def __init__(self, image: OpenImage) -> None:
        self.image = image
        self._frames: _Recent[tuple[bytes, int], bytes] = _Recent(_FRAMES_KEPT)
        self._segments: _Recent[str, Segment] = _Recent(_SEGMENTS_KEPT)
        self._lasts = [[ref.last for ref in layer] for layer in image.manifest.layers]

    def items(self, volume: Volume, start: int, stop: int) -> list[Item]:
        """What the map says of blocks [start, stop); FormatError when it leaves one out."""
        slices = [
            self._slice(index, layer, volume.id, start, stop) for index, layer in enumerate(self.image.manifest.layers)
        ]
        found = list(stack(slices))
        at = start
        for item in found:
            if item.block != at:
                break
            at = item.end
        if at != stop:
            raise FormatError(
                f"no map covers block {at} of volume {volume.spec.name}", hint="take the image from the other site"
            )
        return found

    def _slice(self, index: int, layer: tuple[SegmentRef, ...], volume: int, start: int, stop: int) -> Iterator[Item]:
        for ref in layer[bisect.bisect_left(self._lasts[index], (volume, start)) :]:
            if ref.first > (volume, stop - 1):
                return
            segment = self._segments.get(ref.digest, lambda ref=ref: self.image.segment(ref))  # type: ignore[misc]
            for item in segment.items(segment.find(volume, start)):
                if (item.volume, item.block) >= (volume, stop):
                    return
                low, high = max(item.block, start), min(item.end, stop)
                if item.volume == volume and low < high:
                    yield item if item.count == 1 else item._replace(block=low, count=high - low)

    def read(self, volume: Volume, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` of a volume (cut at its end); unused blocks read as zeros."""
        length = max(0, min(length, volume.spec.size_bytes - offset))
        if not length:
            return b""
        start, stop = offset // BLOCK_BYTES, -(-(offset + length) // BLOCK_BYTES)
        out = bytearray((stop - start) * BLOCK_BYTES)
        for item in self.items(volume, start, stop):
            if item.kind == DATA:
                at = (item.block - start) * BLOCK_BYTES
                out[at : at + BLOCK_BYTES] = self.block(item)
        skip = offset - start * BLOCK_BYTES
        return bytes(memoryview(out)[skip : skip + length])

    def block(self, item: Item) -> memoryview:
        """The 65,536 bytes of a data item, checked against its digest."""
        frame = item.frame
        assert frame is not None  # noqa: S101 - data items have one
        plain = self._frames.get((frame.key_id, frame.number), lambda: self._open(frame))
        block = memoryview(plain)[item.slot * BLOCK_BYTES : (item.slot + 1) * BLOCK_BYTES]
        if len(block) != BLOCK_BYTES or self.image.digest(block, item.volume, item.block) != item.digest:
            raise CorruptError(
                f"block {item.block} does not have the digest its map states", hint="take the image from the other site"
            )
        return block

    def _open(self, frame: Frame) -> bytes:
        (sealed,) = self.image.fetch([frame])
        return bytes(self.image.plain(frame, sealed, memoryview(bytearray(FRAME_BYTES))))
