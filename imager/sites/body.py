"""Buffers as one seekable file, for clients that send from files: nothing is joined, no buffer is kept after `close`.

Lives for one put. May import `imager.sites.base`.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

from imager.sites.base import Buffer


class Body(io.RawIOBase):
    """The concatenated buffers as a file to read. Their views are let go by `close`."""

    def __init__(self, parts: Sequence[Buffer]) -> None:
        super().__init__()
        self._views = [memoryview(part).cast("B") for part in parts if memoryview(part).nbytes]
        self.size_bytes = sum(view.nbytes for view in self._views)
        self._at = 0

    def md5(self) -> bytes:
        """The MD5 of all of it: what S3's Content-MD5 wants, against bits flipped on the way, not against attackers."""
        hasher = hashlib.md5(usedforsecurity=False)
        for view in self._views:
            hasher.update(view)
        return hasher.digest()

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always: a request is signed first and sent then."""
        return True

    def tell(self) -> int:
        """Bytes from the beginning."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As `io.IOBase.seek`."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size_bytes}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes (-1 or None: all that is left), fewer where a buffer ends."""
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        start = self._at
        for view in self._views:
            if start < view.nbytes:
                data = bytes(view[start : start + size])
                self._at += len(data)
                return data
            start -= view.nbytes
        return b""

    def __len__(self) -> int:
        return self.size_bytes

    def close(self) -> None:
        """Let the buffers go."""
        for view in self._views:
            view.release()
        self._views.clear()
        super().close()
