"""Wrappers that are sites themselves: `Retry` and `Throttle` (for tests: `imager.sites.fault`). They live as
long as the site inside, keep its name, and close it. May import core and `imager.sites.base`.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from core.errors import ObjectExistsError, ObjectMissingError, SiteError, SiteFullError
from imager.sites.base import Buffer, ObjectInfo, Site, total_bytes

T = TypeVar("T")
_COMPARE_BYTES = 4 << 20


def is_transient(error: SiteError) -> bool:
    """Whether trying again may help: not after full, missing, exists, nor when the driver says `transient=False`."""
    if isinstance(error, SiteFullError | ObjectMissingError | ObjectExistsError):
        return False
    return error.fields.get("transient") is not False


class Retry:
    """Tries a verb up to `attempts` times, waiting up to `base_seconds` × 2ⁿ (at most `cap_seconds`) with full jitter.

    An answer can be lost after the deed. So a put that is tried again and finds the name taken succeeds if size and
    SHA-256 of what is there are ours; a delete that is tried again and finds nothing succeeds; a list that breaks goes
    on after the last name it gave. `sleep` and `jitter` (0 ≤ x < 1) are injected.
    """

    def __init__(
        self,
        inner: Site,
        *,
        attempts: int = 5,
        base_seconds: float = 0.5,
        cap_seconds: float = 30.0,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        if attempts < 1:
            raise ValueError("attempts")
        self.name = inner.name
        self.inner = inner
        self._attempts = attempts
        self._base = base_seconds
        self._cap = cap_seconds
        self._sleep = sleep
        self._jitter = jitter

    def put(self, name: str, body: Sequence[Buffer]) -> None:
        """See Site.put and the class."""

        def attempt(again: bool) -> None:
            try:
                self.inner.put(name, body)
            except ObjectExistsError:
                if not (again and self._is_ours(name, body)):
                    raise

        self.tried(attempt)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See Site.get. Short reads are CorruptError and are not tried again."""
        return self.tried(lambda _: self.inner.get(name, offset, length))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See Site.list and the class."""
        last, failures = "", 0
        while True:
            try:
                for info in self.inner.list(prefix):
                    if info.name > last:
                        yield info
                        last, failures = info.name, 0
                return
            except SiteError as error:
                failures += 1
                self._wait(error, failures)

    def stat(self, name: str) -> ObjectInfo:
        """See Site.stat."""
        return self.tried(lambda _: self.inner.stat(name))

    def delete(self, name: str) -> None:
        """See Site.delete and the class."""

        def attempt(again: bool) -> None:
            try:
                self.inner.delete(name)
            except ObjectMissingError:
                if not again:
                    raise

        self.tried(attempt)

    def place(self) -> str:
        """See Site.place."""
        return self.inner.place()

    def close(self) -> None:
        """Close the site inside."""
        self.inner.close()

    def tried(self, attempt: Callable[[bool], T]) -> T:
        """Call `attempt(again)` until it succeeds, fails for good, or the attempts are used up."""
        failures = 0
        while True:
            try:
                return attempt(failures > 0)
            except SiteError as error:
                failures += 1
                self._wait(error, failures)

    def _wait(self, error: SiteError, failures: int) -> None:
        if failures >= self._attempts or not is_transient(error):
            raise error
        self._sleep(self._jitter() * min(self._cap, self._base * 2.0 ** (failures - 1)))

    def _is_ours(self, name: str, body: Sequence[Buffer]) -> bool:
        size = total_bytes(body)
        if self.stat(name).size_bytes != size:
            return False
        ours, theirs = hashlib.sha256(), hashlib.sha256()
        for part in body:
            ours.update(part)
        for start in range(0, size, _COMPARE_BYTES):
            theirs.update(self.get(name, start, min(_COMPARE_BYTES, size - start)))
        return ours.digest() == theirs.digest()


class Throttle:
    """Holds bytes put and got, together and over all threads, to `bytes_per_second`: a token bucket of `burst_bytes`.

    An object larger than the bucket goes through in one piece after the wait it costs: the mean holds, not the moment.
    """

    def __init__(
        self,
        inner: Site,
        bytes_per_second: float,
        *,
        burst_bytes: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if bytes_per_second <= 0:
            raise ValueError("bytes_per_second")
        self.name = inner.name
        self.inner = inner
        self._rate = float(bytes_per_second)
        self._burst = self._rate if burst_bytes is None else float(burst_bytes)
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._tokens = self._burst
        self._filled = clock()

    def put(self, name: str, body: Sequence[Buffer]) -> None:
        """See Site.put; waits before it writes."""
        self._take(total_bytes(body))
        self.inner.put(name, body)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See Site.get; waits after it has read, when the size is known."""
        data = self.inner.get(name, offset, length)
        self._take(len(data))
        return data

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See Site.list."""
        return self.inner.list(prefix)

    def stat(self, name: str) -> ObjectInfo:
        """See Site.stat."""
        return self.inner.stat(name)

    def delete(self, name: str) -> None:
        """See Site.delete."""
        self.inner.delete(name)

    def place(self) -> str:
        """See Site.place."""
        return self.inner.place()

    def close(self) -> None:
        """Close the site inside."""
        self.inner.close()

    def _take(self, size_bytes: int) -> None:
        """Take tokens, into debt if need be, and wait until the debt is paid; others wait behind it."""
        with self._lock:
            now = self._clock()
            self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate) - size_bytes
            self._filled = now
            debt = -self._tokens
        if debt > 0:
            self._sleep(debt / self._rate)


def innermost(site: Site) -> Site:
    """The driver inside wrappers."""
    while isinstance(site, Retry | Throttle):
        site = site.inner
    return site
