"""The members of an archive's tar: their names and headers (POSIX ustar), made and judged in one place. Pure."""

from __future__ import annotations

import re
import tarfile
from typing import NamedTuple

#: A member holds at most so many bytes.
MEMBER_MAX = 4 << 20
TAR_BLOCK = 512
END = bytes(2 * TAR_BLOCK)
#: A ustar number field takes eleven octal digits, and names a hundred bytes behind their folder's.
_DATA = re.compile(r"data/([A-Za-z0-9][A-Za-z0-9._+-]{0,119})/(\d{1,19})")
_ZERO = re.compile(r"zero/([A-Za-z0-9][A-Za-z0-9._+-]{0,119})/(\d{1,19})-(\d{1,19})")


class Extent(NamedTuple):
    """What a member says: `size_bytes` from `offset` of `volume`; `zero`: they are zeros and the member is empty."""

    volume: str
    offset: int
    size_bytes: int
    zero: bool


def data_name(volume: str, offset: int) -> str:
    """The member of bytes from `offset` of a volume."""
    return f"data/{volume}/{offset}"


def zero_name(volume: str, offset: int, size_bytes: int) -> str:
    """The empty member that stands for zeros."""
    return f"zero/{volume}/{offset}-{size_bytes}"


def parse_name(name: str, size_bytes: int) -> Extent | None:
    """What a member of that name and size stands for; None for the texts of the beginning."""
    if found := _DATA.fullmatch(name):
        return Extent(found.group(1), int(found.group(2)), size_bytes, False)
    if (found := _ZERO.fullmatch(name)) and not size_bytes:
        return Extent(found.group(1), int(found.group(2)), int(found.group(3)), True)
    return None


def header(name: str, size_bytes: int, moment: int) -> bytes:
    """The 512 bytes before a member. `moment`: seconds since 1970."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size_bytes, moment, 0o755 if name.endswith(".sh") else 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


def padding(size_bytes: int) -> bytes:
    """What fills a member up to whole tar blocks."""
    return bytes(-size_bytes % TAR_BLOCK)
