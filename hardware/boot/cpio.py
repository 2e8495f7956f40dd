"""initrd archives: taken apart into their segments, and written (newc; Documentation/driver-api/early-userspace/
buffer-format.rst of Linux). Pure; imports `core` only.

An initrd is a row of cpio archives, each plain or compressed, and the kernel unpacks them one over the other: what is
appended adds files and replaces earlier ones.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import stat
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import zstandard

from core.errors import FormatError

#: A member that tells our own segment from the distribution's.
MARK = "etc/refloat-added"
_MAGICS = (
    (b"070701", "plain"), (b"070702", "plain"), (b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\x00", "xz"), (b"BZh", "bzip2"), (b"]\x00\x00", "lzma"), (b"\x02!L\x18", "lz4"),
)  # fmt: skip
_TRAILER = "TRAILER!!!"
_LIMIT_BYTES = 2 << 30
_STEP_BYTES = 1 << 20


@dataclass(frozen=True)
class Member:
    """One file of an archive: mode as in stat(2)."""

    name: str
    mode: int
    data: bytes

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.mode)


@dataclass(frozen=True)
class Segment:
    """One stretch of an initrd: how it is compressed, its bytes as they stand there, and its members. `plain` is what
    LZ4 was unpacked to."""

    kind: str
    raw: bytes
    members: tuple[Member, ...]
    plain: bytes = b""

    @property
    def ours(self) -> bool:
        """Whether Refloat appended it."""
        return any(member.name == MARK for member in self.members)


class _Decompressor(Protocol):
    @property
    def unused_data(self) -> bytes: ...
    @property
    def eof(self) -> bool: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def split(data: bytes, unlz4: Callable[[bytes], bytes]) -> list[Segment]:
    """An initrd's segments in order. `unlz4` decompresses LZ4's legacy format, which no library here knows; it takes
    all the rest. Raises FormatError for what is no initrd."""
    found: list[Segment] = []
    at = 0
    while at < len(data):
        if data[at] == 0:
            at += 1
            continue
        kind = next((kind for magic, kind in _MAGICS if data.startswith(magic, at)), "")
        if not kind:
            raise FormatError(f"the initrd holds something unknown at byte {at}")
        plain, end = b"", len(data)
        if kind == "plain":
            members, end = _read_members(data, at, one=True)
        elif kind == "lz4":
            plain = unlz4(data[at:])
            members = _read_members(plain, 0)[0]
        else:
            unpacked, end = _decompress(kind, data, at)
            members = _read_members(unpacked, 0)[0]
        found.append(Segment(kind, data[at:end], tuple(members), plain))
        at = end
    return found


def _decompress(kind: str, data: bytes, at: int) -> tuple[bytes, int]:
    worker = _decompressor(kind)
    out = bytearray()
    here = at
    try:
        while not worker.eof and here < len(data):
            out += worker.decompress(data[here : here + _STEP_BYTES])
            here += _STEP_BYTES
            if len(out) > _LIMIT_BYTES:
                raise FormatError("the initrd is larger than 2 GiB when unpacked")
    except (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, EOFError) as error:
        raise FormatError(f"the initrd cannot be unpacked ({kind}): {error}") from error
    if not worker.eof:
        raise FormatError(f"the initrd ends within its {kind} part")
    return bytes(out), min(here, len(data)) - len(worker.unused_data)


def _decompressor(kind: str) -> _Decompressor:
    if kind == "gzip":
        return zlib.decompressobj(wbits=31)
    if kind == "zstd":
        return zstandard.ZstdDecompressor().decompressobj()
    if kind == "bzip2":
        return bz2.BZ2Decompressor()
    return lzma.LZMADecompressor()


def _read_members(data: bytes, at: int, *, one: bool = False) -> tuple[list[Member], int]:
    found: list[Member] = []
    while at < len(data):
        if data[at] == 0:
            at += 1
            continue
        member, at = _read_member(data, at)
        if member.name != _TRAILER:
            found.append(member)
        elif one:
            break
    return found, at


def _read_member(data: bytes, at: int) -> tuple[Member, int]:
    if data[at : at + 6] not in (b"070701", b"070702") or at + 110 > len(data):
        raise FormatError(f"the initrd holds no cpio header at byte {at}")
    try:
        mode, size, length = (int(data[at + place : at + place + 8], 16) for place in (14, 54, 94))
    except ValueError as error:
        raise FormatError(f"the initrd has a broken cpio header at byte {at}") from error
    start = _aligned(at + 110 + length)
    if start + size > len(data):
        raise FormatError(f"the initrd ends within a file at byte {at}")
    name = data[at + 110 : at + 110 + length - 1].decode("utf-8", "surrogateescape")
    return Member(name.removeprefix("./").strip("/"), mode, data[start : start + size]), _aligned(start + size)


def _aligned(at: int) -> int:
    return (at + 3) & ~3


def pack(files: Mapping[str, bytes], there: frozenset[str]) -> bytes:
    """A newc archive of these files, with the folders above them that are not `there` yet: a folder entry on the name
    of an existing symlink (`lib`) would replace it. What begins with `#!` can be executed."""
    folders = sorted({above for name in files for above in _above(name)} - there)
    rows = [_entry(name, stat.S_IFDIR | 0o755, b"", number) for number, name in enumerate(folders, 1)]
    rows += [
        _entry(name, stat.S_IFREG | (0o755 if data.startswith(b"#!") else 0o644), data, number)
        for number, (name, data) in enumerate(files.items(), len(folders) + 1)
    ]
    return b"".join([*rows, _entry(_TRAILER, 0, b"", 0)])


def _above(name: str) -> Iterator[str]:
    parts = name.split("/")[:-1]
    for count in range(1, len(parts) + 1):
        yield "/".join(parts[:count])


def _entry(name: str, mode: int, data: bytes, number: int) -> bytes:
    raw = name.encode("utf-8", "surrogateescape") + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + raw
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def join(segments: list[Segment], archive: bytes) -> bytes:
    """The initrd again, without what an earlier run added, and with `archive` at its end.

    gzip, since every kernel's configuration has it. LZ4's legacy format has no end mark, so nothing can follow it: such
    a segment is compressed anew.
    """
    out = bytearray()
    for segment in segments:
        if segment.ours:
            continue
        out += bytes(-len(out) % 512 if segment.kind == "plain" else -len(out) % 4)
        out += segment.raw if segment.kind != "lz4" else gzip.compress(segment.plain, 6, mtime=0)
    out += bytes(-len(out) % 4)
    return bytes(out + gzip.compress(archive, 6, mtime=0))
