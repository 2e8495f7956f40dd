"""Every target under atheris for a moment, in a child whose memory and time are bounded; longer with
REFLOAT_FUZZ_SECONDS (for all targets together; `make soak` takes more)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
SECONDS = int(os.environ.get("REFLOAT_FUZZ_SECONDS", "300" if os.environ.get("REFLOAT_SOAK") == "full" else "10"))


@pytest.mark.fuzz
@pytest.mark.soak
@pytest.mark.parametrize("name", TARGETS)
def test_fuzz(name: str, tmp_path: Path) -> None:
    seconds = max(1, SECONDS // len(TARGETS))
    # A program counts as its own what the process that started it ever held (ru_maxrss outlives execve, getrusage(2)):
    # a shell in between, which forks, holds next to nothing, so that the limit is of the fuzzer alone.
    argv = ["sh", "-c", '"$@"; exit $?', "sh"]
    argv += [sys.executable, "-m", "tests.fuzz", name, str(seconds), str(tmp_path)]
    found = subprocess.run(
        argv, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, timeout=seconds * 3 + 60
    )
    log = (found.stdout + found.stderr).decode(errors="replace")  # tracebacks go to stdout, figures to stderr
    finds = [(path.name, path.read_bytes()[:2000]) for path in tmp_path.iterdir() if path.is_file()]
    assert found.returncode == 0, f"{finds}\n{log[-6000:]}"
    engine = r"stat::number_of_executed_units:\s*(\d+)" if find_spec("atheris") else r"plain mutations: (\d+) inputs"
    tried = re.search(engine, log)
    assert tried is not None and int(tried[1]) > 20, log[-2000:]
    print(
        f"{name}: {tried[1]} inputs in {seconds} s ({'atheris' if find_spec('atheris') else 'no atheris: mutations'})"
    )


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_are_taken(name: str) -> None:
    """A target that refuses its own seeds would fuzz the first check only: at least one of them is sound."""
    from core.errors import RefloatError

    good = 0
    for seed in TARGETS[name].seeds():
        try:
            TARGETS[name].parse(seed)
            good += 1
        except RefloatError:
            pass
    assert good
