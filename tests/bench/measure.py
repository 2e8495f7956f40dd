"""Times one command: wall and processor seconds, and the peak memory of each program it starts.

Everything dirty is written out before the clock starts; commands sync what they wrote themselves, within their time.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Sample:
    """One timed command. `rss` is the peak resident size in bytes by program name; `output` what it printed."""

    seconds: float
    cpu_seconds: float
    rss: dict[str, int] = field(default_factory=dict)
    output: str = ""


def timed(command: str, env: Mapping[str, str] | None = None) -> Sample:
    """Run a shell command (pipes are what the peers are made of) and measure it. CalledProcessError when it fails."""
    subprocess.run(["sync"], check=True)
    before, start = os.times(), time.monotonic()
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**os.environ, **(env or {})},
        text=True,
    )
    watch = _Watch(process.pid)
    watch.start()
    output, _ = process.communicate()
    seconds = time.monotonic() - start
    after = os.times()
    watch.stop()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, output)
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Sample(seconds, cpu, watch.peaks, output)


class _Watch(threading.Thread):
    """Reads VmHWM (proc(5): peak resident set) of a process and all below it, 20 times a second. A peak only grows, so
    what is missed is at most the growth of a program's last 50 ms."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peaks: dict[str, int] = {}
        self._pid, self._done = pid, threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.05):
            for pid in _tree(self._pid):
                self._look(pid)

    def stop(self) -> None:
        self._done.set()
        self.join()

    def _look(self, pid: int) -> None:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return
        name = re.search(r"^Name:\t(.+)$", status, re.MULTILINE)
        peak = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        if name and peak:
            self.peaks[name[1]] = max(self.peaks.get(name[1], 0), int(peak[1]) << 10)


def _tree(pid: int) -> list[int]:
    found, todo = [], [pid]
    while todo:
        each = todo.pop()
        found.append(each)
        for task in Path(f"/proc/{each}/task").glob("*"):
            try:
                todo += [int(child) for child in (task / "children").read_text().split()]
            except OSError:
                continue
    return found


def stored_bytes(folder: Path) -> int:
    """Sum of the sizes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
