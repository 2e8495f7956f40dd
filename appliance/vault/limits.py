"""Failed tokens are counted by address: after a few, that address waits. In memory; imports no other room."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: So many failures within so many seconds. An address is forgotten when that time has passed without one.
FAILURES, WITHIN_SECONDS = 5, 60.0
#: Addresses that are remembered at once; beyond it the one that failed longest ago is forgotten.
_REMEMBERED = 10_000


class FailureLimit:
    """Safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failed: dict[str, list[float]] = {}

    def wait_seconds(self, address: str) -> float:
        """How long this address has to wait before it is listened to; 0: it need not."""
        with self._lock:
            times = self._recent(address)
            return max(times[-FAILURES] + WITHIN_SECONDS - self._clock(), 0.0) if len(times) >= FAILURES else 0.0

    def failed(self, address: str) -> None:
        """Count a failure."""
        with self._lock:
            times = [*self._recent(address), self._clock()][-FAILURES:]
            self._failed.pop(address, None)
            self._failed[address] = times  # last in the order of the dict: the first is the oldest
            while len(self._failed) > _REMEMBERED:
                del self._failed[next(iter(self._failed))]

    def _recent(self, address: str) -> list[float]:
        since = self._clock() - WITHIN_SECONDS
        return [each for each in self._failed.get(address, ()) if each > since]
