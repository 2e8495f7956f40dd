"""Ciphertext, cut into parts that are put as they fill: one thread reads and hashes, one puts. Two buffers of a part's
size, whatever the size of the archive. May import `core`, `imager.sites`.
"""

from __future__ import annotations

import hashlib
import mmap
import queue
import threading
from collections.abc import Callable
from typing import IO

from imager.archive.sums import part_name
from imager.sites.base import Site

_BUFFERS = 2
_READ = 1 << 20


class Parts:
    """Takes a stream to its end and puts it at a site. `stalled` while it waits for the site; `error` ends it, and
    `cancelled` set by the writer."""

    def __init__(self, site: Site, prefix: str, part_bytes: int, failed: Callable[[], None]) -> None:
        """`failed` is called once, by one of the threads, when the stream cannot be gone on with."""
        self._site, self._prefix, self._failed = site, prefix, failed
        self.sums: dict[str, str] = {}
        self.sizes: list[int] = []
        self.error: Exception | None = None
        self.stalled = False
        self.cancelled = False
        self._free: queue.SimpleQueue[mmap.mmap] = queue.SimpleQueue()
        for _ in range(_BUFFERS):
            self._free.put(mmap.mmap(-1, part_bytes))
        self._full: queue.SimpleQueue[tuple[mmap.mmap, int] | None] = queue.SimpleQueue()
        # A put that hangs for ever must not keep the process from ending.
        self._threads = [
            threading.Thread(target=self._guarded, args=(self._put_all,), name=f"archive {site.name}", daemon=True)
        ]
        self._threads[0].start()

    def start(self, stream: IO[bytes]) -> None:
        """Begin to read."""
        thread = threading.Thread(
            target=self._guarded, args=(self._read_all, stream), name=f"archive {self._site.name} read", daemon=True
        )
        self._threads.insert(0, thread)
        thread.start()

    def finish(self, given_up: Callable[[], bool]) -> None:
        """Wait until the stream has ended and every part is at the site; or until `given_up()`."""
        for thread in self._threads:
            while thread.is_alive() and not given_up() and self.error is None:
                thread.join(0.1)

    def _guarded(self, work: Callable[..., None], *words: object) -> None:
        try:
            work(*words)
        except Exception as error:  # noqa: BLE001 - outermost frame of this thread; the writer judges it
            if self.error is None:
                self.error = error
                self._failed()

    def _read_all(self, stream: IO[bytes]) -> None:
        try:
            while self._read_part(stream):
                pass
        finally:
            self._full.put(None)

    def _read_part(self, stream: IO[bytes]) -> bool:
        self.stalled = self._free.empty()
        buffer = self._free.get()
        self.stalled = False
        done, view, digest = 0, memoryview(buffer), hashlib.sha256()
        while done < len(buffer):
            count = stream.readinto(view[done : min(done + _READ, len(buffer))])  # type: ignore[attr-defined]
            if not count:
                break
            digest.update(view[done : done + count])
            done += count
        if done:
            self.sums[part_name(len(self.sizes))] = digest.hexdigest()
            self.sizes.append(done)
            self._full.put((buffer, done))
        return done == len(buffer)

    def _put_all(self) -> None:
        number = 0
        while (each := self._full.get()) is not None:
            buffer, size = each
            if self.cancelled:  # the end of a stream that was cut off is no part
                return
            self._site.put(f"{self._prefix}{part_name(number)}", [memoryview(buffer)[:size]])
            number += 1
            self._free.put(buffer)
