"""Bytes onto a disk as fast as it takes them, durable, and without flooding the page cache. Part of the file driver.

Works on file descriptors only and raises OSError; lives for one put. May import core and `imager.sites.base`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from imager.sites.base import Buffer, total_bytes

#: Memory address, file offset and length of every O_DIRECT write are multiples of this. Devices that ask for more
#: answer EINVAL, and the rest of the body is then written through the page cache.
ALIGN_BYTES = 4096
BOUNCE_BYTES = 1 << 20
#: Smaller bodies gain nothing from O_DIRECT.
DIRECT_MIN_BYTES = 128 << 10
STALE_SECONDS = 86_400.0
_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL}


@dataclass(frozen=True)
class Draft:
    """A file being written that no object name leads to yet."""

    handle: int
    source: str
    source_folder: int | None = None

    def link(self, folder: int, leaf: str) -> None:
        """Give the file its name in one step; FileExistsError if the name is taken.

        `linkat` of an O_TMPFILE needs AT_SYMLINK_FOLLOW on /proc/self/fd (open(2)); Python sets it with dir_fd.
        """
        try:
            os.link(self.source, leaf, src_dir_fd=self.source_folder, dst_dir_fd=folder, follow_symlinks=True)
        except FileExistsError:
            # NFS repeats a request whose answer was lost: the name may be our own (open(2), on O_EXCL and link).
            if self.source_folder is None or os.fstat(self.handle).st_nlink != 2:
                raise


@contextlib.contextmanager
def draft(folder: int, spare: Callable[[], int]) -> Iterator[Draft]:
    """A new file in `folder`: unnamed (O_TMPFILE: a kill leaves nothing), else named, in the folder `spare` opens.

    Named ones are removed when the block is left; what a kill left behind is swept after a day.
    """
    try:
        handle = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=folder)
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise
        with _named_draft(spare()) as named:
            yield named
        return
    try:
        yield Draft(handle, f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)


@contextlib.contextmanager
def _named_draft(folder: int) -> Iterator[Draft]:
    name = secrets.token_hex(16)
    try:
        handle = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=folder)
        try:
            _sweep(folder, os.fstat(handle).st_mtime)
            yield Draft(handle, name, folder)
        finally:
            os.close(handle)
            os.unlink(name, dir_fd=folder)
    finally:
        os.close(folder)


def _sweep(folder: int, now: float) -> None:
    """Remove drafts older than a day. `now` is the filesystem's own clock, which need not be this machine's."""
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if now - entry.stat(follow_symlinks=False).st_mtime > STALE_SECONDS:
                    os.unlink(entry.name, dir_fd=folder)


def write_whole(handle: int, body: Sequence[Buffer]) -> None:
    """Write the buffers into the empty file `handle` and fsync it. No view of a buffer outlives the call."""
    size = total_bytes(body)
    if size >= DIRECT_MIN_BYTES and _set_direct(handle, True):
        writer = _DirectWriter(handle)
        for part in body:
            with memoryview(part) as whole, whole.cast("B") as view:
                writer.take(view)
        writer.finish(size)
    else:
        at = 0
        for part in body:
            with memoryview(part) as whole, whole.cast("B") as view:
                _pour(handle, view, at)
                at += view.nbytes
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)


class _DirectWriter:
    """Writes page-aligned memory from where it is; everything else goes through one aligned bounce buffer."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._at = 0
        self._held = 0
        self._bounce = memoryview(mmap.mmap(-1, BOUNCE_BYTES))

    def take(self, view: memoryview) -> None:
        start = 0
        if not self._held and _is_aligned(view):
            start = view.nbytes // ALIGN_BYTES * ALIGN_BYTES
            with view[:start] as straight:
                self._out(straight)
        while start < view.nbytes:
            size = min(BOUNCE_BYTES - self._held, view.nbytes - start)
            self._bounce[self._held : self._held + size] = view[start : start + size]
            self._held += size
            start += size
            if self._held == BOUNCE_BYTES:
                self._out(self._bounce)
                self._held = 0

    def finish(self, size_bytes: int) -> None:
        """Write the tail padded to the alignment, then cut the padding off."""
        padded = -(-self._held // ALIGN_BYTES) * ALIGN_BYTES
        self._bounce[self._held : padded] = bytes(padded - self._held)
        with self._bounce[:padded] as tail:
            self._out(tail)
        os.ftruncate(self._handle, size_bytes)

    def _out(self, view: memoryview) -> None:
        _pour(self._handle, view, self._at)
        self._at += view.nbytes


def _pour(handle: int, view: memoryview, at: int) -> None:
    """All of `view` at file offset `at`, through short writes and devices that refuse O_DIRECT only when written to."""
    done = 0
    while done < view.nbytes:
        with view[done:] as rest:
            try:
                done += os.pwrite(handle, rest, at + done)
            except OSError as error:
                if error.errno != errno.EINVAL or not _set_direct(handle, False):
                    raise


def _set_direct(handle: int, wanted: bool) -> bool:
    """Switch O_DIRECT; False when it was so already or the filesystem has none."""
    flags = fcntl.fcntl(handle, fcntl.F_GETFL)
    changed = flags | os.O_DIRECT if wanted else flags & ~os.O_DIRECT
    try:
        fcntl.fcntl(handle, fcntl.F_SETFL, changed)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return changed != flags


def _is_aligned(view: memoryview) -> bool:
    """Whether the memory begins at a page. Only a writable buffer tells its address (ctypes); others are bounced."""
    if view.readonly or not view.nbytes:
        return False
    return ctypes.addressof(ctypes.c_char.from_buffer(view)) % ALIGN_BYTES == 0
