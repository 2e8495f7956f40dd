"""Reading a volume: sequential, into reused aligned buffers, past the page cache, on past unreadable sectors.

A Reader lives as long as one volume is imaged; its methods are called from several worker threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from core.errors import SourceError
from core.layout import VolumeSpec
from imager.changes import Changes
from imager.spans import PAGE_BYTES, Extent

_MEDIA_ERRORS = frozenset({errno.EIO, errno.EILSEQ, errno.ENODATA, errno.EREMOTEIO, errno.EBADMSG})
_PROBE_BYTES = 4 << 10


@dataclass(frozen=True)
class Source:
    """A volume and where its bytes are: `size_bytes` from `offset_bytes` of `path` (a block device or a disk-image
    file).

    `map_path` gives a device or file on which its filesystem starts at byte 0 (called when it is needed, more than
    once; None: there is none). `live`: it is mounted and not frozen. `held` tells how it stands still (a word for the
    manifest). `frozen`: its filesystem was frozen by us or by LVM when these bytes were taken, so that its map is true
    although its log is not marked clean. `doubt`: why its map is not to be believed, when somebody knows.
    `changed` are the blocks that change tracking (`tracked_by`) says may differ from any parent; None: all may.
    """

    spec: VolumeSpec
    path: str
    offset_bytes: int
    map_path: Callable[[], str] | None = None
    live: bool = False
    held: str = "offline"
    frozen: bool = False
    doubt: str = ""
    changed: Changes | None = None
    tracked_by: str = ""

    @property
    def size_bytes(self) -> int:
        return self.spec.size_bytes


class Pace:
    """A bandwidth limit shared by all readers of a run; 0 is unlimited."""

    def __init__(self, bytes_per_second: int) -> None:
        self._rate, self._lock, self._free_at = bytes_per_second, threading.Lock(), 0.0

    def spend(self, size_bytes: int) -> None:
        """Wait until this many bytes more are allowed."""
        if not self._rate:
            return
        with self._lock:
            start = max(self._free_at, time.monotonic())
            self._free_at = start + size_bytes / self._rate
        time.sleep(max(0.0, start - time.monotonic()))


class Reader:
    """An open source. O_DIRECT where the kernel takes it; else buffered, and what was read is dropped from the
    cache."""

    def __init__(self, source: Source, pace: Pace) -> None:
        self._source, self._pace = source, pace
        self._unreadable: list[tuple[int, int]] = []
        self._lock = threading.Lock()
        try:
            self._fd = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise SourceError(
                f"cannot open {source.path}: {error.strerror}", hint="run as root, and check the path"
            ) from error
        # A file's page cache is the truth and saves the disk's time. A device's may be stale: what is written through a
        # partition or a mounted filesystem does not pass it, so devices are always read past it.
        self._is_file = stat.S_ISREG(os.fstat(self._fd).st_mode)
        self._direct = self._open_direct()

    def _open_direct(self) -> int | None:
        """A second handle with O_DIRECT, or None where the filesystem or the alignment does not allow it."""
        try:
            handle = os.open(self._source.path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
        except OSError:
            return None
        with mmap.mmap(-1, PAGE_BYTES) as probe:
            try:
                os.preadv(handle, [probe], self._source.offset_bytes)
            except OSError as error:
                if error.errno == errno.EINVAL:
                    os.close(handle)
                    return None
        return handle

    def close(self) -> None:
        """Release the handles."""
        os.close(self._fd)
        if self._direct is not None:
            os.close(self._direct)

    @property
    def unreadable(self) -> tuple[tuple[int, int], ...]:
        """[offset, length] within the volume that could not be read, merged and sorted."""
        merged: list[tuple[int, int]] = []
        for at, size in sorted(self._unreadable):
            if merged and merged[-1][0] + merged[-1][1] >= at:
                low = merged[-1][0]
                merged[-1] = (low, max(low + merged[-1][1], at + size) - low)
            else:
                merged.append((at, size))
        return tuple(merged)

    def read(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer from `offset` of the volume; beyond the volume's end, and where sectors cannot be read,
        zeros.

        SourceError when the device is gone or shrank, which is no damage but an end.
        """
        want = min(len(buffer), self._source.size_bytes - offset)
        self._pace.spend(want)
        done = 0
        while done < want:
            try:
                count = self._pread(offset + done, buffer[done:want])
            except OSError as error:
                if error.errno not in _MEDIA_ERRORS:
                    raise self._gone(error) from error
                self._read_around(offset + done, buffer[done:want])
                break
            if not count:
                raise SourceError(
                    f"{self._source.path} ended at byte {self._source.offset_bytes + offset + done}",
                    hint="the disk vanished or shrank while it was imaged; nothing was committed",
                )
            done += count
        if want < len(buffer):
            buffer[want:] = bytes(len(buffer) - want)

    def _pread(self, offset: int, buffer: memoryview) -> int:
        place = self._source.offset_bytes + offset
        if self._is_file and resident(self._fd, place, len(buffer)):
            return os.preadv(self._fd, [buffer], place)
        if self._direct is not None and not place % 512 and not len(buffer) % 512:
            try:
                return os.preadv(self._direct, [buffer], place)
            except OSError as error:
                if error.errno != errno.EINVAL:  # a tail that is not a multiple of the device's own alignment
                    raise
        count = os.preadv(self._fd, [buffer], place)
        os.posix_fadvise(self._fd, place, len(buffer), os.POSIX_FADV_DONTNEED)
        return count

    def _read_around(self, offset: int, buffer: memoryview) -> None:
        """Page by page past bad sectors, then sector by sector within a bad page; the rest reads as zeros and is
        recorded."""
        for start in range(0, len(buffer), _PROBE_BYTES):
            part = buffer[start : start + _PROBE_BYTES]
            if self._try(offset + start, part):
                continue
            for inner in range(0, len(part), 512):
                sector = part[inner : inner + 512]
                if not self._try(offset + start + inner, sector):
                    sector[:] = bytes(len(sector))
                    with self._lock:
                        self._unreadable.append((offset + start + inner, len(sector)))

    def _try(self, offset: int, buffer: memoryview) -> bool:
        done = 0
        while done < len(buffer):
            try:
                count = self._pread(offset + done, buffer[done:])
            except OSError as error:
                if error.errno in _MEDIA_ERRORS:
                    return False
                raise self._gone(error) from error
            if not count:
                return False
            done += count
        return True

    def _gone(self, error: OSError) -> SourceError:
        return SourceError(
            f"{self._source.path} cannot be read any more: {error.strerror}",
            hint="the device vanished; nothing was committed",
        )


@contextlib.contextmanager
def reading(source: Source, pace: Pace) -> Iterator[Reader]:
    """A Reader for the length of a block."""
    reader = Reader(source, pace)
    try:
        yield reader
    finally:
        reader.close()


def data_extents(source: Source) -> Iterator[Extent] | None:
    """Where a sparse image file holds data, relative to the volume; None for devices and files without holes.

    A hole reads as zeros by definition (lseek(2), SEEK_HOLE), so it need not be read.
    """
    if not Path(source.path).is_file():
        return None
    status = os.stat(source.path)
    if status.st_blocks * 512 >= status.st_size:
        return None
    return _seek_extents(source)


def _seek_extents(source: Source) -> Iterator[Extent]:
    base, end = source.offset_bytes, source.offset_bytes + source.size_bytes
    handle = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        at = base
        while at < end:
            try:
                start = os.lseek(handle, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise SourceError(f"{source.path} cannot be read: {error.strerror}") from error
            if start >= end:
                return
            at = min(os.lseek(handle, start, os.SEEK_HOLE), end)
            yield Extent(start - base, at - start)
    finally:
        os.close(handle)


_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
_LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_LIBC.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
_MAP_FAILED = ctypes.c_void_p(-1).value
_SYS_IOPRIO_SET = 251  # x86_64; see asm/unistd_64.h
_IO_CLASSES = {"best-effort": 2, "idle": 3}


def resident(handle: int, offset: int, length: int) -> bool:
    """Whether all of a file's range is in the page cache (mincore(2)); asking reads nothing. False where it cannot be
    told."""
    if offset % PAGE_BYTES or not length:
        return False
    address = _LIBC.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, handle, offset)
    if address == _MAP_FAILED:
        return False
    pages = ctypes.create_string_buffer(-(-length // mmap.PAGESIZE))
    try:
        # Bit 0 is residency, the others are reserved.
        return _LIBC.mincore(address, length, pages) == 0 and all(page & 1 for page in pages.raw)
    finally:
        _LIBC.munmap(address, length)


def be_polite(nice: int, io_class: str) -> None:
    """Lower this process's CPU and disk priority (`nice` 0–19; `best-effort`, `idle` or `none`). Threads inherit it."""
    if nice:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    if io_class in _IO_CLASSES and os.uname().machine == "x86_64":
        _LIBC.syscall(_SYS_IOPRIO_SET, 1, 0, _IO_CLASSES[io_class] << 13 | 7)
