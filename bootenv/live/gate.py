"""The one-time PIN between the network and the console's pages. In memory; imports no other room."""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections.abc import Callable

DIGITS = 8
#: Wrong tries before the PIN is replaced, and how long nobody is let in then: at most 5 guesses a minute at 10^8.
TRIES, LOCK_SECONDS = 5, 60.0


class PinGate:
    """Admits whoever types the PIN shown on the machine's own screen; each PIN admits once.

    `changed` is called with every new PIN, from whatever thread made it new.
    """

    def __init__(self, changed: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._changed, self._clock = changed, clock
        self._lock = threading.Lock()
        self._wrong, self._locked_until = 0, 0.0
        self._draw()

    def admit(self, pin: str) -> bool:
        """Whether this is the PIN; it is then used up. While locked nothing is right."""
        with self._lock:
            if self._clock() < self._locked_until:
                return False
            typed = "".join(pin.split()).replace("-", "").encode("utf-8", "replace")
            if hmac.compare_digest(typed, self._pin.encode()):
                self._draw()
                return True
            self._wrong += 1
            if self._wrong >= TRIES:
                self._locked_until = self._clock() + LOCK_SECONDS
                self._draw()
            return False

    @property
    def locked(self) -> bool:
        """Whether too many wrong ones came just now."""
        return self._clock() < self._locked_until

    def _draw(self) -> None:
        self._wrong = 0
        self._pin = f"{secrets.randbelow(10**DIGITS):0{DIGITS}}"
        self._changed(self._pin)
