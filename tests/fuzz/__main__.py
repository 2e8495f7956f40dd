"""Fuzz one target under atheris, or, where that is not installed, with plain mutations of its seeds.

Arguments: target, seconds, a folder for corpus and finds. Memory and time of an input are bounded; the last line says
which engine ran and how many inputs it tried.
"""

from __future__ import annotations

import random
import resource
import sys
import time
from importlib.util import find_spec
from pathlib import Path

INPUT_SECONDS = 2
RSS_MB = 600
INPUT_MAX = 1 << 16


def under_atheris(name: str, seconds: int, folder: Path) -> None:
    """libFuzzer does the rest: -timeout for an input, -rss_limit_mb for memory."""
    import atheris

    # What stands in our rooms is instrumented, so that branches guide the search; libraries are not.
    with atheris.instrument_imports(include=["core", "imager", "appliance"]):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(target.seeds()):
        (corpus / str(number)).write_bytes(seed)
    options = [
        f"-max_total_time={seconds}", f"-timeout={INPUT_SECONDS}", f"-rss_limit_mb={RSS_MB}", f"-max_len={INPUT_MAX}",
        f"-artifact_prefix={folder}/", "-print_final_stats=1",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(corpus)], target)
    atheris.Fuzz()


def by_mutation(name: str, seconds: int) -> None:
    """Seeds with bytes changed, cut, doubled; the draw is seeded, the time is not."""
    from tests.fuzz.targets import TARGETS

    target, rng = TARGETS[name], random.Random(1)
    seeds = target.seeds()
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
    tried, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 8)):
            at = rng.randrange(len(data) + 1)
            size = rng.randint(0, 8)
            data[at : at + size] = rng.choice((rng.randbytes(size), data[:size], b"", b"\xff" * size, b"99999999999"))
        began = time.monotonic()
        target(bytes(data))
        assert time.monotonic() - began < INPUT_SECONDS, f"slow: {bytes(data)!r}"
        tried += 1
    print(f"plain mutations: {tried} inputs", file=sys.stderr)


if __name__ == "__main__":
    if find_spec("atheris") is None:
        by_mutation(sys.argv[1], int(sys.argv[2]))
    else:
        under_atheris(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
