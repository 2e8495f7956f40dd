"""What a file has beside its content: extended attributes, inode flags, project id. Imports nothing of Refloat."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass

# linux/fs.h
_GETFLAGS, _SETFLAGS, _FSGETXATTR, _FSSETXATTR = 0x80086601, 0x40086602, 0x801C581F, 0x401C5820
_FSXATTR = struct.Struct("=5I8x")  # xflags, extsize, nextents, projid, cowextsize
_PROJECT = 3
#: Flags that are carried over: synchronous, immutable, append-only, no dump, no atime, data journal, dirsync, project.
KEPT = 0x8 | 0x10 | 0x20 | 0x40 | 0x80 | 0x4000 | 0x10000 | 0x20000000
#: Compression and no-copy-on-write say how extents are written; they are not carried over.
LOST = 0x4 | 0x800000
#: What such files are cannot be had by reading them.
FOREIGN = {0x800: "encrypted", 0x100000: "under fs-verity", 0x40000000: "a case-insensitive folder"}
#: No such operation, or no such thing, on this filesystem (vfat has no flags, ext4 may lack project ids).
_NOT_HERE = frozenset({errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


@dataclass(frozen=True)
class Marks:
    """Inode flags (`FS_*_FL`) and project id; zeros where the filesystem knows none."""

    flags: int = 0
    project: int = 0


def marks(path: bytes, mode: int) -> Marks:
    """Of a regular file or folder; others have none."""
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return Marks()
    with opened(path) as handle:
        return Marks(_flags(handle), _fsx(handle)[_PROJECT])


def set_marks(path: bytes, wanted: Marks) -> None:
    """The flags that are carried over, and the project id; flags last, for an immutable file takes nothing more."""
    with opened(path) as handle:
        fsx = _fsx(handle)
        if fsx[_PROJECT] != wanted.project:
            fcntl.ioctl(handle, _FSSETXATTR, _FSXATTR.pack(*fsx[:_PROJECT], wanted.project, *fsx[_PROJECT + 1 :]))
        now = _flags(handle)
        if (now ^ wanted.flags) & KEPT:
            fcntl.ioctl(handle, _SETFLAGS, struct.pack("=q", now & ~KEPT | wanted.flags & KEPT))


def xattrs(path: bytes) -> dict[str, bytes]:
    """All extended attributes, of a link itself; none where the filesystem knows none."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NOT_HERE:
            return {}
        raise
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in sorted(names)}


def set_xattrs(path: bytes, wanted: dict[str, bytes], now: dict[str, bytes]) -> None:
    """What differs; cp leaves out what /etc/xattr.conf names, and labels of security modules that do not run here."""
    for name in now.keys() - wanted.keys():
        os.removexattr(path, name, follow_symlinks=False)
    for name, value in wanted.items():
        if now.get(name) != value:
            os.setxattr(path, name, value, follow_symlinks=False)


@contextlib.contextmanager
def opened(path: bytes) -> Iterator[int]:
    """A file or folder to look into; its time of access stays."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOATIME | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


def _flags(handle: int) -> int:
    answer = _asked(handle, _GETFLAGS, bytes(8))
    return int.from_bytes(answer[:4], "little") if answer else 0


def _fsx(handle: int) -> tuple[int, ...]:
    answer = _asked(handle, _FSGETXATTR, bytes(_FSXATTR.size))
    return _FSXATTR.unpack(answer) if answer else (0,) * 5


def _asked(handle: int, request: int, buffer: bytes) -> bytes:
    try:
        return fcntl.ioctl(handle, request, buffer)
    except OSError as error:
        if error.errno in _NOT_HERE:
            return b""
        raise
