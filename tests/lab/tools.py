"""Processes of the lab: run to the end, or started and always ended by their own id. May import nothing of the lab."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

Word = str | Path


class LabError(Exception):
    """The lab itself, or what it proves, failed; the message says what."""


class GuestCrash(LabError):
    """A guest's kernel crashed in the middle of itself.

    Under multi-threaded TCG this happens to sound kernels, rarely, when one processor runs the code that another is
    patching (static keys, `text_poke`); seen with Debian's 6.12 and QEMU 7.2. Nothing a guest's programs do causes it.
    """


def tool(*argv: Word, stdin: bytes | None = None, timeout: float = 900, env: Mapping[str, str] | None = None) -> str:
    """Run to the end and give stdout; raises LabError with the end of what it printed when it fails."""
    words = [str(each) for each in argv]
    closed = subprocess.DEVNULL if stdin is None else None
    merged = {**os.environ, **(env or {})}
    done = subprocess.run(words, input=stdin, stdin=closed, capture_output=True, timeout=timeout, env=merged)
    if done.returncode:
        tail = (done.stderr[-2000:] + done.stdout[-2000:]).decode("utf-8", "replace").strip()
        raise LabError(f"{' '.join(words)[:300]}: exit {done.returncode}: {tail}")
    return done.stdout.decode("utf-8", "replace")


@contextmanager
def background(*argv: Word, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended, by its id, when the block is left, and by the kernel when the lab is killed; what it
    prints goes to `log`."""
    words = ["setpriv", "--pdeathsig", "KILL", *(str(each) for each in argv)]
    with log.open("ab") as file:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes], patience: float = 5) -> None:
    """Terminate, then kill; always reaped."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
