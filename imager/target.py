"""Writing to a disk, a range of it, or a disk-image file: past the page cache where possible, and told when it
fails."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import stat
import struct
from collections.abc import Iterator

from core.errors import TargetError, WriteError

_FILE_ALIGN = 4096  # O_DIRECT on a file wants its filesystem's alignment; no filesystem wants more
_CHUNK = 1 << 20
_ZERO_BYTES = bytes(_CHUNK)
_ZEROS = mmap.mmap(-1, _CHUNK)  # page-aligned, for O_DIRECT
_BLKSSZGET, _BLKDISCARD = 0x1268, 0x1277  # linux/fs.h
_PUNCH = 0x01 | 0x02  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, linux/falloc.h
_LIBC = ctypes.CDLL(None, use_errno=True)


class Target:
    """An open disk or file; offsets are from its start. Used by several threads; `sync` makes everything written
    durable."""

    def __init__(self, path: str, shared: bool = False) -> None:
        """`shared`: parts of the device are held by what was built on them for this restore."""
        self.path = path
        try:
            # O_EXCL on a block device: the kernel refuses while it is mounted or held (open(2)).
            exclusive = os.O_EXCL if stat.S_ISBLK(os.stat(path).st_mode) and not shared else 0
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | exclusive)
        except OSError as error:
            hint = (
                "it is in use: unmount it, or name another target" if error.errno == errno.EBUSY else "check the path"
            )
            raise TargetError(f"cannot open target {path}: {error.strerror}", hint=hint) from error
        self._is_file = stat.S_ISREG(os.fstat(self._fd).st_mode)
        self._align = _FILE_ALIGN if self._is_file else _sector_bytes(self._fd)
        try:
            self._direct: int | None = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_DIRECT)
        except OSError:
            self._direct = None

    def close(self) -> None:
        """Release the handles."""
        os.close(self._fd)
        if self._direct is not None:
            os.close(self._direct)

    def _handle(self, place: int, length: int) -> int:
        if self._direct is not None and not place % self._align and not length % self._align:
            return self._direct
        return self._fd

    def write(self, offset: int, buffer: memoryview) -> None:
        """Write all of a page-aligned buffer at `offset`. WriteError says where it failed."""
        done = 0
        while done < len(buffer):
            try:
                done += os.pwrite(self._handle(offset + done, len(buffer) - done), buffer[done:], offset + done)
            except OSError as error:
                raise self._failed("written", offset + done, error) from error

    def read(self, offset: int, buffer: memoryview) -> None:
        """Fill a page-aligned buffer from the device itself: past the page cache, or after what it held was dropped."""
        if self._handle(offset, len(buffer)) == self._fd:
            os.posix_fadvise(self._fd, offset, len(buffer), os.POSIX_FADV_DONTNEED)
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self._handle(offset + done, len(buffer) - done), [buffer[done:]], offset + done)
            except OSError as error:
                raise self._failed("read", offset + done, error) from error
            if not count:
                raise WriteError(
                    f"{self.path} ends at byte {offset + done}",
                    hint="the disk vanished or shrank; restore again to go on",
                )
            done += count

    def zero(self, offset: int, length: int) -> int:
        """Make a range zeros, writing only where it is not; returns the bytes written."""
        written = 0
        buffer = memoryview(mmap.mmap(-1, _CHUNK))
        for start, size in self._present(offset, length):
            for at in range(start, start + size, _CHUNK):
                part = buffer[: min(_CHUNK, start + size - at)]
                self.read(at, part)
                if part.tobytes() == _ZERO_BYTES[: len(part)]:
                    continue
                if not self._punch(at, len(part)):
                    self.write(at, memoryview(_ZEROS)[: len(part)])
                written += len(part)
        return written

    def _present(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """The parts of a range that may hold something: in a sparse file, what is no hole."""
        end = offset + length
        if not self._is_file:
            yield offset, length
            return
        at = offset
        while at < end:
            try:
                start = os.lseek(self._fd, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise self._failed("read", at, error) from error
            if start >= end:
                return
            stop = min(os.lseek(self._fd, start, os.SEEK_HOLE), end)
            yield start, stop - start
            at = stop

    def _punch(self, offset: int, length: int) -> bool:
        if not self._is_file:
            return False
        return bool(_LIBC.fallocate(self._fd, _PUNCH, ctypes.c_int64(offset), ctypes.c_int64(length)) == 0)

    def discard(self, offset: int, length: int) -> bool:
        """Tell the device that a range is not needed; False when it cannot."""
        if self._is_file:
            return self._punch(offset, length)
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._fd, _BLKDISCARD, struct.pack("QQ", offset, length))
            return True
        return False

    def sync(self) -> None:
        """Durable on return."""
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise self._failed("written", 0, error) from error

    def _failed(self, what: str, offset: int, error: OSError) -> WriteError:
        return WriteError(
            f"{self.path} cannot be {what} at byte {offset}: {error.strerror}",
            hint="the disk failed or vanished; replace it, or start the restore again: it goes on where it was",
            path=self.path,
            offset_bytes=offset,
        )


def _sector_bytes(handle: int) -> int:
    """Logical sector size of a block device: what O_DIRECT must be aligned to."""
    (size,) = struct.unpack("i", fcntl.ioctl(handle, _BLKSSZGET, bytes(4)))
    return int(size)
