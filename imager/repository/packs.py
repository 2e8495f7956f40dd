"""Packs: immutable objects full of sealed frames, named by the digest of all their bytes (`docs/format.md`, Pack)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from core.errors import FormatError, VersionError
from imager.repository.frames import FRAME_BLOCKS, SEALED_MAX, Frame, PackRef, digest_bytes

MAGIC = b"REFLPACK"
FRAME_MAGIC = b"RFRM"
VERSION = 1
_HEADER = struct.Struct("<8sII")
_FRAME = struct.Struct("<4sI16sQII")
FRAMES_MAX = 4096
PACK_MAX = (64 << 20) + (64 << 10)
#: What a pack needs beyond the sealed bytes themselves, at most.
OVERHEAD = _HEADER.size + _FRAME.size * FRAMES_MAX


@dataclass(frozen=True)
class PackedFrame:
    """A frame as its pack describes it: `offset` and `length` of the sealed bytes."""

    key_id: bytes
    number: int
    blocks: int
    offset: int
    length: int


class PackBuilder:
    """Fills one reused buffer (page-aligned, so that a site can write it with O_DIRECT) with frames."""

    def __init__(self, buffer: memoryview, limit: int) -> None:
        self._buffer, self._limit = buffer, limit
        self.frames: list[Frame] = []
        self.size = _HEADER.size
        _HEADER.pack_into(buffer, 0, MAGIC, VERSION, 0)

    def has_room(self, sealed_length: int) -> bool:
        """Whether a frame of that length still fits."""
        return len(self.frames) < FRAMES_MAX and self.size + _FRAME.size + sealed_length <= self._limit

    def add(self, frame: Frame, sealed: bytes) -> None:
        """Append a frame and note its offset in it."""
        start = self.size
        _FRAME.pack_into(self._buffer, start, FRAME_MAGIC, len(sealed), frame.key_id, frame.number, frame.blocks, 0)
        frame.offset = start + _FRAME.size
        self.size = frame.offset + len(sealed)
        self._buffer[frame.offset : self.size] = sealed
        self.frames.append(frame)

    def finish(self) -> PackRef:
        """Name the pack, and tell its frames where they lie."""
        ref = PackRef(digest_bytes(self._buffer[: self.size]), self.size)
        for frame in self.frames:
            frame.pack = ref
        return ref

    @property
    def body(self) -> memoryview:
        """The pack's bytes so far; valid until the buffer is reused."""
        return self._buffer[: self.size]


def frames_of(data: bytes | memoryview) -> Iterator[PackedFrame]:
    """Walk a pack by its own headers. FormatError or VersionError when it is not one."""
    view = memoryview(data)
    if len(view) < _HEADER.size or len(view) > PACK_MAX:
        raise FormatError("a pack has an impossible size")
    magic, version, zero = _HEADER.unpack_from(view)
    if magic != MAGIC:
        raise FormatError("not a pack: the magic is wrong")
    if version != VERSION:
        raise VersionError(f"pack version {version} is not known", hint="a newer Refloat wrote it; update this one")
    if zero:
        raise FormatError("a reserved field of a pack is set")
    position, count = _HEADER.size, 0
    while position < len(view):
        if len(view) - position < _FRAME.size:
            raise FormatError("a pack ends within a frame header")
        magic, length, key_id, number, blocks, zero = _FRAME.unpack_from(view, position)
        position += _FRAME.size
        count += 1
        if magic != FRAME_MAGIC or zero or not 1 <= blocks <= FRAME_BLOCKS or count > FRAMES_MAX:
            raise FormatError("a frame header within a pack is wrong")
        if not 0 < length <= min(SEALED_MAX, len(view) - position):
            raise FormatError("a frame within a pack has an impossible length")
        yield PackedFrame(key_id, number, blocks, position, length)
        position += length
