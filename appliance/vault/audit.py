"""Who did what: a line of JSON for every put, delete, refusal and change of a token, a file a day. Lives as long as the
vault; imports `core`."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from core.files import state_errors


class Audit:
    """Files `YYYY-MM-DD.jsonl` in `folder`. A line is one write, appended, so that lines never mix."""

    def __init__(self, folder: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._folder, self._now = folder, now
        self._lock = threading.Lock()

    def write(self, what: str, **fields: object) -> None:
        """Note one deed. Raises StateError."""
        now = self._now()
        line = json.dumps({"time": now.isoformat(timespec="milliseconds"), "what": what, **fields}, default=str)
        path = self._folder / f"{now:%Y-%m-%d}.jsonl"
        with state_errors(path), self._lock:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                os.write(handle, f"{line}\n".encode())
            finally:
                os.close(handle)
