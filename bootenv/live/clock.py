"""The machine's clock, compared with servers' `Date` headers and corrected, before TLS fails on it.

A dead machine's battery is often dead too. The header is believed without TLS: it moves nothing but this clock, and
what is restored is trusted by pinned keys. May import `core`.
"""

from __future__ import annotations

import contextlib
import email.utils
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

TOLERANCE_SECONDS = 60.0
#: No server's clock is believed that is older than this program.
_EARLIEST = datetime(2025, 1, 1, tzinfo=UTC).timestamp()


@dataclass(frozen=True)
class Reading:
    """What a server said: `ahead_seconds` by which it is ahead of this machine."""

    url: str
    ahead_seconds: float


def read_clock(url: str, now: Callable[[], float] = time.time, timeout: float = 5) -> Reading | None:
    """One server's clock against ours; None when it does not answer, or says no time."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the certificate is judged by the clock
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - http and https only, see correct_clock
    try:
        before = now()
        with urllib.request.urlopen(request, timeout=timeout, context=context) as answer:  # noqa: S310
            date = answer.headers.get("Date", "")
    except urllib.error.HTTPError as error:
        date = error.headers.get("Date", "")
    except (OSError, ValueError):
        return None
    middle = (before + now()) / 2
    with contextlib.suppress(ValueError, TypeError):
        return Reading(url, email.utils.parsedate_to_datetime(date).timestamp() + 0.5 - middle)
    return None


def correction(readings: Sequence[Reading], now: float) -> float | None:
    """Seconds to move the clock by: the middle reading's, None when it is right enough or nobody knows. Of servers that
    contradict each other the middle one is nearest to the truth."""
    sound = sorted(each.ahead_seconds for each in readings if now + each.ahead_seconds > _EARLIEST)
    if not sound:
        return None
    middle = sound[(len(sound) - 1) // 2]
    return middle if abs(middle) > TOLERANCE_SECONDS else None


def correct_clock(urls: Sequence[str], set_time: Callable[[float], None] | None = None) -> tuple[int, float]:
    """Ask all http(s) ones, move the clock if it is off. Gives (servers that answered, seconds it was moved)."""
    asked = [url for url in dict.fromkeys(urls) if url.startswith(("http://", "https://"))]
    readings = [reading for url in asked if (reading := read_clock(url)) is not None]
    move = correction(readings, time.time())
    if move is not None:
        (set_time or _set_time)(time.time() + move)
    return len(readings), move or 0.0


def _set_time(seconds: float) -> None:
    time.clock_settime(time.CLOCK_REALTIME, seconds)
