"""Progress as a parameter: a Monitor is handed down, tasks begin, advance, warn and finish.

Hot loops only count (`task.advance`); sinks poll. Warnings are kept as values so that a result can carry them.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

from core.sizes import format_size


@dataclass
class Task:
    """One stretch of work: `done` of `total` bytes (total 0: unknown). Finish is guaranteed by `Monitor.task`."""

    name: str
    total_bytes: int = 0
    done_bytes: int = 0
    started: float = field(default_factory=time.monotonic)
    finished: float | None = None

    def advance(self, size_bytes: int) -> None:
        """Count bytes. Called from several threads; a lost update costs only a slightly wrong bar."""
        self.done_bytes += size_bytes


class Monitor:
    """The silent monitor, and the base of the others: keeps tasks and warnings, shows nothing."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.warnings: list[str] = []

    @contextlib.contextmanager
    def task(self, name: str, total_bytes: int = 0) -> Iterator[Task]:
        """Begin a task; it is finished when the block is left, however it is left."""
        task = Task(name, total_bytes)
        self.tasks.append(task)
        self.begun(task)
        try:
            yield task
        finally:
            task.finished = time.monotonic()
            self.ended(task)

    def warn(self, message: str) -> None:
        """Record and show a warning."""
        self.warnings.append(message)

    def step(self, message: str) -> None:
        """Say what is being done now."""

    def begun(self, task: Task) -> None:
        """Hook for sinks: a task began."""

    def ended(self, task: Task) -> None:
        """Hook for sinks: a task ended."""


class StreamMonitor(Monitor):
    """Shows progress on a stream (stderr): a line that is rewritten on a terminal, else one line a step."""

    def __init__(self, stream: IO[str] | None = None, *, as_json: bool = False, every_seconds: float = 0.5) -> None:
        super().__init__()
        self._stream = stream or sys.stderr
        self._json = as_json
        self._every = every_seconds
        self._stop = threading.Event()
        self._live: list[Task] = []
        self._thread: threading.Thread | None = None

    def warn(self, message: str) -> None:
        super().warn(message)
        self._emit("warning", message)

    def step(self, message: str) -> None:
        self._emit("step", message)

    def begun(self, task: Task) -> None:
        self._live.append(task)
        if self._thread is None and (self._json or self._stream.isatty()):
            self._stop.clear()
            self._thread = threading.Thread(target=self._poll, name="progress", daemon=True)
            self._thread.start()

    def ended(self, task: Task) -> None:
        self._live.remove(task)
        if not self._live and self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None
        if self._json:
            self._emit("done", task.name, done_bytes=task.done_bytes)
        else:
            seconds = max((task.finished or 0) - task.started, 1e-6)
            rate = f", {format_size(task.done_bytes / seconds)}/s" if task.done_bytes else ""
            self._line(f"{task.name}: {format_size(task.done_bytes)} in {seconds:.1f} s{rate}")

    def _poll(self) -> None:
        while not self._stop.wait(self._every):
            for task in self._live[-1:]:
                self._progress(task)

    def _progress(self, task: Task) -> None:
        if self._json:
            self._emit("progress", task.name, done_bytes=task.done_bytes, total_bytes=task.total_bytes)
            return
        seconds = max(time.monotonic() - task.started, 1e-6)
        rate = task.done_bytes / seconds
        share = f" {100 * task.done_bytes / task.total_bytes:3.0f} %" if task.total_bytes else ""
        left = f", {(task.total_bytes - task.done_bytes) / rate:.0f} s left" if task.total_bytes and rate else ""
        self._stream.write(f"\r\x1b[K{task.name}:{share} {format_size(task.done_bytes)}, {format_size(rate)}/s{left}")
        self._stream.flush()

    def _emit(self, kind: str, message: str, **fields: object) -> None:
        if self._json:
            self._stream.write(json.dumps({"event": kind, "message": message, **fields}) + "\n")
            self._stream.flush()
        else:
            self._line(f"warning: {message}" if kind == "warning" else message)

    def _line(self, text: str) -> None:
        clear = "\r\x1b[K" if self._stream.isatty() else ""
        self._stream.write(f"{clear}{text}\n")
        self._stream.flush()
