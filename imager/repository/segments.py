"""Map segments: block → digest and place, readable without keys (`docs/format.md`, Map segment)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from core.errors import FormatError, VersionError
from imager.keys import ID_BYTES
from imager.repository.frames import FRAME_BLOCKS, SEALED_MAX, Frame, PackRef, digest_bytes
from imager.repository.packs import PACK_MAX
from imager.volumes import BLOCK_MAX

MAGIC = b"REFLMAP\0"
VERSION = 1
ITEMS_MAX = 65_536
_HEADER = struct.Struct("<8sII16sIIII16x")
_PACK = struct.Struct("<32sQ")
_FRAME = struct.Struct("<IIQQII32s")
_ITEM = struct.Struct("<IQIBBH32s")
_NO_DIGEST = bytes(32)
DATA, ZERO, UNUSED = 0, 1, 2
VOLUME_MAX = (1 << 32) - 1
_RUN_MAX = (1 << 32) - 1
#: The longest a well-formed segment can be.
SEGMENT_MAX = _HEADER.size + ITEMS_MAX * (_PACK.size + ID_BYTES + _FRAME.size + _ITEM.size)


class Item(NamedTuple):
    """What a map says of `count` blocks from `block`: data (count 1, with a frame), zero, or unused."""

    volume: int
    block: int
    count: int  # type: ignore[assignment]  # hides tuple.count on purpose
    kind: int
    slot: int = 0
    mask: int = 0
    digest: bytes = _NO_DIGEST
    frame: Frame | None = None

    @property
    def end(self) -> int:
        """The first block after it."""
        return self.block + self.count


def run(volume: int, block: int, count: int, kind: int) -> Item:
    """A zero or unused run."""
    return Item(volume, block, count, kind)


class SegmentBuilder:
    """Collects items in order; frames must have their pack by then."""

    def __init__(self, server_id: bytes) -> None:
        self._server_id = server_id
        self._packs: dict[PackRef, int] = {}
        self._keys: dict[bytes, int] = {}
        self._frames: dict[int, int] = {}
        self._frame_rows = bytearray()
        self._items = bytearray()
        # Frames are told apart by identity; holding them keeps an id from being used again.
        self._held: list[Frame] = []
        self.count = 0
        self.first: tuple[int, int] = (0, 0)
        self.last: tuple[int, int] = (0, 0)

    def add(self, item: Item) -> None:
        """Append one item; runs beyond 2³² − 1 blocks are cut by the caller (`layers.cut`)."""
        volume, block, count, kind, slot, mask, digest, frame = item
        if not self.count:
            self.first = (volume, block)
        self.last = (volume, block + count - 1)
        place = count
        if frame is not None:
            found = self._frames.get(id(frame))
            place = self._add_frame(frame) if found is None else found
        self._items += _ITEM.pack(volume, block, place, kind, slot, mask, digest)
        self.count += 1

    def _add_frame(self, frame: Frame) -> int:
        assert frame.pack is not None, "a frame must have its pack before it is mapped"  # noqa: S101
        pack = self._packs.setdefault(frame.pack, len(self._packs))
        key = self._keys.setdefault(frame.key_id, len(self._keys))
        self._frame_rows += _FRAME.pack(pack, key, frame.number, frame.offset, frame.length, frame.blocks, frame.digest)
        self._held.append(frame)
        self._frames[id(frame)] = len(self._held) - 1
        return len(self._held) - 1

    def build(self) -> bytes:
        """The segment's bytes."""
        head = _HEADER.pack(
            MAGIC, VERSION, 0, self._server_id, len(self._packs), len(self._keys), len(self._held), self.count
        )
        packs = b"".join(_PACK.pack(ref.digest, ref.size_bytes) for ref in self._packs)
        return b"".join((head, packs, *self._keys, self._frame_rows, self._items))


class Segment:
    """A parsed segment. The tables are checked on reading, each item when it is looked at."""

    def __init__(self, data: bytes) -> None:
        if len(data) < _HEADER.size or len(data) > SEGMENT_MAX:
            raise FormatError("a map segment has an impossible size")
        magic, version, flags, self.server_id, packs, keys, frames, items = _HEADER.unpack_from(data)
        if magic != MAGIC:
            raise FormatError("not a map segment: the magic is wrong")
        if version != VERSION:
            raise VersionError(f"map version {version} is not known", hint="a newer Refloat wrote it; update this one")
        if flags or any(data[48:64]) or items > ITEMS_MAX:
            raise FormatError("a reserved field or count of a map segment is wrong")
        keys_at = _HEADER.size + packs * _PACK.size
        self._frames_at = keys_at + keys * ID_BYTES
        self._items_at = self._frames_at + frames * _FRAME.size
        if self._items_at + items * _ITEM.size != len(data):
            raise FormatError("a map segment is longer or shorter than its counts say")
        self._data = data
        self.packs = [PackRef(digest, size) for digest, size in _PACK.iter_unpack(data[_HEADER.size : keys_at])]
        self.keys = [data[at : at + ID_BYTES] for at in range(keys_at, self._frames_at, ID_BYTES)]
        self.frame_count, self.count = frames, items
        self._frames: list[Frame | None] = [None] * frames
        if any(not 0 < ref.size_bytes <= PACK_MAX for ref in self.packs):
            raise FormatError("a map segment names a pack of impossible size")

    def frame(self, index: int) -> Frame:
        """The frame of that index; the same object each time."""
        if index >= self.frame_count:
            raise FormatError("a map item names a frame that its segment does not have")
        known = self._frames[index]
        if known is not None:
            return known
        pack, key, number, offset, length, blocks, digest = _FRAME.unpack_from(
            self._data, self._frames_at + index * _FRAME.size
        )
        if pack >= len(self.packs) or key >= len(self.keys) or not 1 <= blocks <= FRAME_BLOCKS:
            raise FormatError("a frame in a map segment is wrong")
        if not 0 < length <= SEALED_MAX or offset + length > self.packs[pack].size_bytes:
            raise FormatError("a frame in a map segment does not lie within its pack")
        made = self._frames[index] = Frame(self.keys[key], number, blocks, length, digest, offset, self.packs[pack])
        return made

    def frames(self) -> Iterator[Frame]:
        """All frames, in table order."""
        return (self.frame(index) for index in range(self.frame_count))

    def item(self, index: int) -> Item:
        """One item by index."""
        return self._decode(_ITEM.unpack_from(self._data, self._items_at + index * _ITEM.size))

    def _decode(self, row: tuple[int, int, int, int, int, int, bytes]) -> Item:
        volume, block, place, kind, slot, mask, digest = row
        if kind == DATA:
            frame = self.frame(place)
            if slot >= frame.blocks or block > BLOCK_MAX:
                raise FormatError("a map item has an impossible place")
            return Item(volume, block, 1, DATA, slot, mask, digest, frame)
        if kind > UNUSED or slot or mask or digest != _NO_DIGEST or not place or block + place > BLOCK_MAX:
            raise FormatError("a run in a map segment is wrong")
        return Item(volume, block, place, kind)

    def items(self, start: int = 0) -> Iterator[Item]:
        """Items from an index on, in order; FormatError where the order is broken."""
        last = (-1, 0)
        for row in _ITEM.iter_unpack(memoryview(self._data)[self._items_at + start * _ITEM.size :]):
            item = self._decode(row)
            if (item.volume, item.block) < last:
                raise FormatError("the items of a map segment are out of order")
            last = (item.volume, item.block + item.count)
            yield item

    def find(self, volume: int, block: int) -> int:
        """Index of the first item that ends after (volume, block); `count` if there is none."""
        low, high = 0, self.count
        while low < high:
            middle = (low + high) // 2
            row = _ITEM.unpack_from(self._data, self._items_at + middle * _ITEM.size)
            end = row[1] + (1 if row[3] == DATA else row[2])
            if (row[0], end) <= (volume, block):
                low = middle + 1
            else:
                high = middle
        return low


def digest_of(data: bytes | memoryview) -> str:
    """An object's name: the hex digest of its bytes."""
    return digest_bytes(data).hex()


def cut(item: Item) -> Iterator[Item]:
    """The item in pieces whose count fits the format."""
    block, left = item.block, item.count
    while left > _RUN_MAX:
        yield item._replace(block=block, count=_RUN_MAX)
        block, left = block + _RUN_MAX, left - _RUN_MAX
    yield item._replace(block=block, count=left)
