"""A disk with bad sectors: a file behind FUSE that answers EIO for some ranges. Run as a child.

    python -m tests.appliance.e2e.bad_disk FILE FOLDER OFFSET:LENGTH…

shows FOLDER/disk.img until it is unmounted. The kernel gets the EIO as it would from a disk.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import warnings
from typing import Any

import mfusepy


class BadDisk(mfusepy.Operations):  # type: ignore[misc]  # mfusepy comes without types
    """The file, with holes that can be neither read nor written."""

    use_ns = True

    def __init__(self, path: str, bad: list[tuple[int, int]]) -> None:
        self._handle, self._bad = os.open(path, os.O_RDWR), bad

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o555, "st_nlink": 2}
        if path != "/disk.img":
            raise mfusepy.FuseOSError(errno.ENOENT)
        return {"st_mode": stat.S_IFREG | 0o644, "st_nlink": 1, "st_size": os.fstat(self._handle).st_size}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", "disk.img"]

    def open(self, path: str, flags: int) -> int:
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        if self._hit(offset, size):
            raise mfusepy.FuseOSError(errno.EIO)
        return os.pread(self._handle, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        if self._hit(offset, len(data)):
            raise mfusepy.FuseOSError(errno.EIO)
        return os.pwrite(self._handle, data, offset)

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        os.fsync(self._handle)
        return 0

    def _hit(self, offset: int, size: int) -> bool:
        return any(at < offset + size and offset < at + length for at, length in self._bad)


def main() -> None:
    file, folder, *rows = sys.argv[1:]
    ranges = [(int(at), int(length)) for at, _, length in (row.partition(":") for row in rows)]
    warnings.simplefilter("ignore")
    # direct_io: no page cache, so that exactly what was asked for is read, as O_DIRECT does on a disk
    mfusepy.FUSE(BadDisk(file, ranges), folder, foreground=True, nothreads=True, direct_io=True)


if __name__ == "__main__":
    main()
