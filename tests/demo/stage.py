"""Shows a command, runs it, and cleans up behind it. Lives as long as the demo."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_BOLD, _DIM, _OFF = ("\x1b[1m", "\x1b[2m", "\x1b[0m") if sys.stdout.isatty() else ("", "", "")
_STARTED = time.monotonic()


def say(text: str) -> None:
    """A step of the story, with the seconds since the start."""
    print(f"\n{_BOLD}[{time.monotonic() - _STARTED:3.0f} s] {text}{_OFF}", flush=True)


def note(text: str) -> None:
    """A finding."""
    print(f"  {text}", flush=True)


def tool(*argv: str | Path, stdin: str | None = None) -> str:
    """Run a system tool quietly and give what it printed; CalledProcessError with its words when it fails."""
    done = subprocess.run([str(each) for each in argv], input=stdin, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout, done.stderr, file=sys.stderr)
        done.check_returncode()
    return done.stdout


class Program:
    """`refloat` with the demo's configuration."""

    def __init__(self) -> None:
        self._path = Path(sys.executable).with_name("refloat")

    def show(self, *argv: str | Path) -> None:
        """Run it for people: the command line, then what it prints."""
        words = [str(each) for each in argv]
        print(f"{_DIM}$ refloat {' '.join(words)}{_OFF}", flush=True)
        subprocess.run([self._path, *words], check=True)

    def ask(self, *argv: str | Path) -> dict[str, object]:
        """Run it for its JSON; the command line is shown, its answer and progress are not."""
        words = [*(str(each) for each in argv), "--json"]
        print(f"{_DIM}$ refloat {' '.join(words)}{_OFF}", flush=True)
        done = subprocess.run([self._path, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        if done.returncode:
            print(done.stdout, file=sys.stderr)
            done.check_returncode()
        answer = json.loads(done.stdout)
        assert isinstance(answer, dict)
        return answer


@contextlib.contextmanager
def attached(image: Path) -> Iterator[Path]:
    """A disk: a loop device over a file; gone again whatever happens."""
    node = Path(tool("losetup", "--find", "--show", image).strip())
    try:
        yield node
    finally:
        tool("losetup", "--detach", node)


@contextlib.contextmanager
def partitioned(image: Path) -> Iterator[Path]:
    """A disk with nodes for its partitions, whose table is there already."""
    with attached(image) as node:
        # Not losetup --partscan: partx reads the table itself, and so works on kernels built without GPT support.
        tool("partx", "--update", node)
        try:
            yield node
        finally:
            tool("partx", "--delete", node)


def partition(disk: Path, number: int) -> Path:
    """The node of a partition."""
    return Path(f"{disk}p{number}")


@contextlib.contextmanager
def mounted(node: Path, folder: Path, *options: str) -> Iterator[Path]:
    """A mounted filesystem; unmounted whatever happens."""
    folder.mkdir(exist_ok=True)
    tool("mount", *(("-o", ",".join(options)) if options else ()), node, folder)
    try:
        yield folder
    finally:
        tool("umount", folder)
        os.rmdir(folder)
