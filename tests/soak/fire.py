"""Starting the process that is killed, and drawing where. Part of the soak."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FULL = os.environ.get("REFLOAT_SOAK") == "full"


@dataclass(frozen=True)
class Pilot:
    """A run that nobody killed: how often each kind of call came, and how long it took from `go` (seconds)."""

    counts: dict[str, int]
    seconds: float


def amount(sample: int, full: int) -> int:
    """How many of something: the sample, or all of it under `make soak`."""
    return full if FULL else sample


def start(work: str, folder: Path, point: str) -> subprocess.Popen[str]:
    """The child, as far as its `go`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [sys.executable, "-m", "tests.soak.child", work, str(folder), point]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    assert child.stdout is not None and child.stdout.readline() == "go\n"
    return child


def pilot(work: str, folder: Path) -> Pilot:
    """Run it through, and count."""
    with start(work, folder, "none") as child:
        began = time.monotonic()
        out, _ = child.communicate(timeout=120)
        assert child.returncode == 0
        return Pilot(json.loads(out), time.monotonic() - began)


def shoot(work: str, folder: Path, point: str, after: float = 0.0) -> bool:
    """Run it until it kills itself at `point`, or, when that is `none`, is killed `after` seconds. False when it
    outlived that."""
    with start(work, folder, point) as child:
        if point == "none":
            time.sleep(after)
            child.kill()
        child.communicate(timeout=120)
        assert child.returncode in (0, -signal.SIGKILL), f"{work} failed by itself at {point}"
        return child.returncode != 0


def draw(rng: random.Random, kind: str, seen: Pilot, share: float = 1.0) -> tuple[str, float]:
    """A point of that kind (`NAME MODE`, `time` or `between`), within the first `share` of the run: what to tell the
    child, and after how many seconds to kill it from outside. A kind that this run does not have becomes `time`."""
    name, _, mode = kind.partition(" ")
    if name == "between":
        return "between 1 before", 0.0
    count = seen.counts.get(name, 0)
    if not count:
        return "none", rng.uniform(0, seen.seconds * share)
    return f"{name} {rng.randint(1, max(1, int(count * share)))} {mode}", 0.0
