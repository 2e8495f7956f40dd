"""A volume of an image that can be written to: what is written goes to a sparse scratch file, the image stays as it is.

Used to shrink a filesystem before a byte is written to the target. Lives as long as the restore; the scratch file
has no name.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from core.errors import TargetError
from imager.repository.view import ImageView
from imager.spans import BLOCK_BYTES
from imager.volumes import Volume


class Scratch:
    """Copy-on-write over one volume, in 64 KiB blocks. One bit of memory a block; safe for several threads."""

    def __init__(self, view: ImageView, volume: Volume, folder: Path) -> None:
        self._view, self.volume = view, volume
        self._file = tempfile.TemporaryFile(dir=folder, prefix="refloat-scratch-")
        self._changed = bytearray(-(-volume.blocks // 8))
        self._lock = threading.Lock()

    def close(self) -> None:
        """Drop the scratch file."""
        self._file.close()

    def has(self, block: int) -> bool:
        """Whether a block was written to."""
        return bool(self._changed[block >> 3] >> (block & 7) & 1)

    def blocks(self) -> Iterator[tuple[int, memoryview]]:
        """Changed blocks in order, 65,536 bytes each; a view is valid until the next one is asked for."""
        buffer = memoryview(mmap.mmap(-1, BLOCK_BYTES))
        for index, bits in enumerate(self._changed):
            for bit in range(8 if bits else 0):
                if bits >> bit & 1:
                    os.preadv(self._file.fileno(), [buffer], (index * 8 + bit) * BLOCK_BYTES)
                    yield index * 8 + bit, buffer

    @property
    def changed_bytes(self) -> int:
        """How much of the scratch file is in use."""
        return sum(each.bit_count() for each in self._changed) * BLOCK_BYTES

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the volume as they are now."""
        end = min(offset + length, self.volume.spec.size_bytes)
        parts = []
        while offset < end:
            block = offset // BLOCK_BYTES
            changed, stop = self.has(block), (block + 1) * BLOCK_BYTES
            while stop < end and self.has(stop // BLOCK_BYTES) == changed:
                stop += BLOCK_BYTES
            size = min(stop, end) - offset
            parts.append(
                os.pread(self._file.fileno(), size, offset) if changed else self._view.read(self.volume, offset, size)
            )
            offset += size
        return b"".join(parts)

    def write(self, offset: int, data: bytes) -> int:
        """Write within the volume; TargetError when there is no room for scratch."""
        if offset + len(data) > self.volume.spec.size_bytes:
            raise OSError(errno.EFBIG, "beyond the end of the volume")
        with self._lock:
            try:
                self._write(offset, data)
            except OSError as error:
                raise TargetError(
                    f"no room for scratch space: {error.strerror}",
                    hint="give --scratch FOLDER on a disk with more room",
                ) from error
        return len(data)

    def _write(self, offset: int, data: bytes) -> None:
        view, end = memoryview(data), offset + len(data)
        for block in range(offset // BLOCK_BYTES, -(-end // BLOCK_BYTES)):
            start = block * BLOCK_BYTES
            low, high = max(offset, start), min(end, start + BLOCK_BYTES)
            if not self.has(block):
                if high - low < BLOCK_BYTES:
                    self._pwrite(start, memoryview(self._view.read(self.volume, start, BLOCK_BYTES)))
                self._pwrite(low, view[low - offset : high - offset])
                self._changed[block >> 3] |= 1 << (block & 7)
            else:
                self._pwrite(low, view[low - offset : high - offset])

    def _pwrite(self, offset: int, data: memoryview) -> None:
        done = 0
        while done < len(data):
            done += os.pwrite(self._file.fileno(), data[done:], offset + done)
