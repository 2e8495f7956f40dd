"""Both copies of a GPT, byte by byte, to tell whether they are whole and agree (UEFI specification 2.10, 5.3).

Pure but for the reader it is handed. libparted and libfdisk each use whichever copy they like best and do not say so.
Imports the standard library only.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass

Read = Callable[[int, int], bytes]  # offset, length → exactly these bytes
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_ENTRY = struct.Struct("<16s16sQQQ72s")
SIGNATURE = b"EFI PART"
#: More than this is no table but damage: 16 Ki entries of 128 bytes are 2 MiB.
_ENTRIES_MAX = 16384


@dataclass(frozen=True)
class Entry:
    """One used entry; `first` and `last` are LBAs, both inclusive."""

    number: int
    type: str
    uuid: str
    first: int
    last: int
    attrs: int
    name: str


@dataclass(frozen=True)
class Copy:
    """One valid copy of the table. `lba` is where its header stands, `alternate` where it says the other one is."""

    lba: int
    alternate: int
    first: int
    last: int
    guid: str
    entries_lba: int
    entries: int
    rows: tuple[Entry, ...]

    @property
    def says(self) -> tuple[object, ...]:
        """What must be equal in both copies."""
        return (self.first, self.last, self.guid, self.entries, self.rows)


@dataclass(frozen=True)
class Gpt:
    """What was found: `primary` and `backup` when valid; `mbr_types` of the four slots of the protective MBR."""

    primary: Copy | None
    backup: Copy | None
    mbr_types: tuple[int, ...]
    signature_at: int | None

    @property
    def hybrid(self) -> bool:
        """True when the MBR describes more than the one protective partition."""
        return any(kind not in (0, 0xEE) for kind in self.mbr_types)

    @property
    def copies(self) -> tuple[Copy, ...]:
        """The valid copies, primary first."""
        return tuple(copy for copy in (self.primary, self.backup) if copy)


def read_gpt(read: Read, sector_bytes: int, size_bytes: int) -> Gpt:
    """Look for both copies. `signature_at` is the sector size at which a primary header stands, None if none does."""
    sectors = size_bytes // sector_bytes
    mbr = read(0, 512)
    signed = [size for size in (512, 4096) if size_bytes >= 2 * size and read(size, 8) == SIGNATURE]
    primary = _copy(read, 1, sector_bytes, sectors)
    backup = _copy(read, primary.alternate, sector_bytes, sectors) if primary else None
    if backup is None:
        backup = _copy(read, sectors - 1, sector_bytes, sectors)
    at = sector_bytes if sector_bytes in signed else signed[0] if signed else None
    types = tuple(mbr[446 + 16 * slot + 4] for slot in range(4)) if mbr[510:512] == b"\x55\xaa" else ()
    return Gpt(primary, backup, types, at)


def _copy(read: Read, lba: int, sector_bytes: int, sectors: int) -> Copy | None:
    if not 0 < lba < sectors:
        return None
    raw = read(lba * sector_bytes, sector_bytes)
    fields = _HEADER.unpack_from(raw)
    (
        signature,
        _revision,
        length,
        crc,
        _zero,
        my_lba,
        alternate,
        first,
        last,
        guid,
        entries_lba,
        count,
        width,
        entries_crc,
    ) = fields
    if signature != SIGNATURE or not _HEADER.size <= length <= sector_bytes or my_lba != lba:
        return None
    if (
        zlib.crc32(raw[:16] + bytes(4) + raw[20:length]) != crc
        or width not in (128, 256, 512)
        or not 0 < count <= _ENTRIES_MAX
    ):
        return None
    if not 0 < entries_lba or (entries_lba * sector_bytes + count * width) > sectors * sector_bytes:
        return None
    table = read(entries_lba * sector_bytes, count * width)
    if zlib.crc32(table) != entries_crc:
        return None
    rows = tuple(_rows(table, width))
    return Copy(lba, alternate, first, last, _guid(guid), entries_lba, count, rows)


def _rows(table: bytes, width: int) -> list[Entry]:
    found = []
    for index in range(len(table) // width):
        kind, unique, first, last, attrs, name = _ENTRY.unpack_from(table, index * width)
        if kind != bytes(16):
            text = name.decode("utf-16-le", "replace").split("\0", 1)[0]
            found.append(Entry(index + 1, _guid(kind), _guid(unique), first, last, attrs, text))
    return found


def _guid(raw: bytes) -> str:
    return str(uuid.UUID(bytes_le=raw)).upper()
