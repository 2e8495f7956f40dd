"""Feeding sites: one thread a site, a fixed pool of pack buffers, and the rule that a slow or failing site never
slows another.

Every buffer is shared by all sites that need its pack and comes back when the last of them has it. When the pool
runs dry while one site stands idle, whoever still holds buffers is the laggard: it is detached, keeps what is
durable there, and is gone on with in a pass of its own.
"""

from __future__ import annotations

import mmap
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from core.errors import RefloatError

#: A laggard is waited for this long in all, plus a share of the run so far, before it is detached.
GRACE_SECONDS = 2.0
GRACE_SHARE = 0.05


class Lease:
    """A buffer in use: `view` may be read until the last holder lets go."""

    def __init__(self, pool: Pool, memory: mmap.mmap, holders: int) -> None:
        self._pool, self._memory, self._holders = pool, memory, holders
        self.view = memoryview(memory)

    def share(self, holders: int) -> None:
        """From now on so many holders must let go."""
        self._holders = holders
        if not holders:
            self._pool.give_back(self._memory)

    def release(self) -> None:
        """One holder is done with it."""
        with self._pool.changed:
            self._holders -= 1
            done = self._holders == 0
        if done:
            self._pool.give_back(self._memory)


class Pool:
    """`count` page-aligned buffers of `size_bytes`."""

    def __init__(self, count: int, size_bytes: int) -> None:
        self.changed = threading.Condition()
        self._free = [mmap.mmap(-1, size_bytes) for _ in range(count)]

    def take(self, wait: Callable[[], None]) -> Lease:
        """A free buffer. `wait` is called with the lock held each time there is none; it may make room."""
        with self.changed:
            while not self._free:
                wait()
            return Lease(self, self._free.pop(), 1)

    def give_back(self, memory: mmap.mmap) -> None:
        """The buffer may be used again."""
        with self.changed:
            self._free.append(memory)
            self.changed.notify_all()


@dataclass
class _Job:
    work: Callable[[], None]
    lease: Lease | None


class Feed:
    """One site's queue and thread. A job that fails ends the feed: `error` is kept, what follows is dropped."""

    def __init__(self, name: str, pool: Pool) -> None:
        self.name = name
        self.error: Exception | None = None
        self.detached = False
        self.started = time.monotonic()
        self.seconds = 0.0
        self._pool = pool
        self._busy = 0
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        # A put that hangs for ever must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name=f"site {name}", daemon=True)
        self._thread.start()

    @property
    def open(self) -> bool:
        """Whether the feed still takes part."""
        return self.error is None and not self.detached

    @property
    def idle(self) -> bool:
        """Whether it has done all it was given."""
        return self._busy == 0

    def give(self, work: Callable[[], None], lease: Lease | None = None) -> None:
        """Queue a job; the lease is let go when it is done or dropped."""
        with self._pool.changed:
            self._busy += 1
        self._jobs.put(_Job(work, lease))

    def finish(self) -> None:
        """No more jobs will come; wait for the thread (not for one that was detached: it may hang)."""
        self._jobs.put(None)
        while self._thread.is_alive() and not self.detached:
            self._thread.join(0.1)
        self.seconds = self.seconds or time.monotonic() - self.started

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                if self.open:
                    job.work()
            except RefloatError as error:
                self.error = error
            except Exception as error:  # noqa: BLE001 - outermost frame of this thread; a bug is raised again by the caller
                self.error = error
            finally:
                if job.lease is not None:
                    job.lease.release()
                with self._pool.changed:
                    self._busy -= 1
                    self._pool.changed.notify_all()
        self.seconds = time.monotonic() - self.started


class Patience:
    """Decides, while the pool is dry, when to stop waiting for whoever holds it."""

    def __init__(self, feeds: list[Feed], pool: Pool) -> None:
        self._feeds, self._pool = feeds, pool
        self._waited = 0.0
        self._started = time.monotonic()

    def wait(self) -> None:
        """Called with the pool's lock held: wait a little; detach the laggards when the patience is used up."""
        live = [feed for feed in self._feeds if feed.open]
        busy = [feed for feed in live if not feed.idle]
        before = time.monotonic()
        self._pool.changed.wait(0.1)
        if not busy or len(busy) == len(live):
            return
        self._waited += time.monotonic() - before
        if self._waited > GRACE_SECONDS + GRACE_SHARE * (before - self._started):
            for feed in busy:
                feed.detached = True
