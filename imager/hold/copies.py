"""Small volumes outside LVM, copied while they hold still: a frozen filesystem (/boot), or one that cannot be frozen
(the ESP) until two reads agree. The image is made of the copy, so that the freeze is as short as the disk allows.

Copies lie in a folder of the state, which the next run empties if this one is killed. Imports `core` and its
neighbours.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

from core.errors import SourceError
from core.sizes import format_size
from imager.hold.decide import Facts
from imager.hold.freeze import Ward, guarded

COPY_MAX_BYTES = 4 << 30
_PIECE_BYTES = 1 << 20
_AGREE_TRIES = 5
_ZEROS = bytes(_PIECE_BYTES)


@contextlib.contextmanager
def frozen_copy(facts: Facts, where: str, folder: Path, limit_seconds: float) -> Iterator[str]:
    """The path of a copy that was made while the filesystem at `where` was frozen. Raises SourceError, also when the
    time limit came first."""
    with _file(facts, folder) as handle:
        with guarded(Ward((where,), limit_seconds)) as guard:
            guard.freeze([where])
            _copy(facts, handle)
        if guard.late:
            raise SourceError(
                f"{facts.spec.name} could not be read within {limit_seconds:.0f} s while {where} was frozen",
                hint="raise image.freeze_seconds, or image it from the rescue environment",
            )
        yield str(folder / facts.spec.name)


@contextlib.contextmanager
def agreed_copy(facts: Facts, folder: Path) -> Iterator[str]:
    """The path of a copy that two reads in a row agreed on. Raises SourceError when none do."""
    with _file(facts, folder) as handle:
        os.sync()
        digest, tries = _copy(facts, handle), 0
        while (again := _copy(facts, handle)) != digest:
            digest, tries = again, tries + 1
            if tries == _AGREE_TRIES:
                raise SourceError(
                    f"{facts.spec.name} is written to all the time: no two of {tries + 2} reads agree",
                    hint="find out what writes to it, or unmount it",
                )
        yield str(folder / facts.spec.name)


@contextlib.contextmanager
def _file(facts: Facts, folder: Path) -> Iterator[int]:
    size = facts.spec.size_bytes
    if size > COPY_MAX_BYTES:
        raise SourceError(
            f"{facts.spec.name} ({format_size(size)}) is mounted, not on LVM, and too large to stay frozen so long",
            hint="unmount it, image it from the rescue environment, or give --live",
        )
    if shutil.disk_usage(folder).free < size + (64 << 20):
        raise SourceError(
            f"{folder} has no room for a copy of {facts.spec.name} ({format_size(size)}), which is mounted",
            hint="make room there, or unmount it",
        )
    path = folder / facts.spec.name
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        yield handle
    finally:
        os.close(handle)
        path.unlink()


def empty_folder(folder: Path) -> None:
    """Make the folder for copies, and take away what a killed run left there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()


def _copy(facts: Facts, target: int) -> bytes:
    """Copy, past the page cache where it may be stale; zeros become holes. The digest of all bytes."""
    digest = blake3()
    source = os.open(facts.path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    try:
        os.ftruncate(target, 0)
        os.ftruncate(target, facts.spec.size_bytes)
        with mmap.mmap(-1, _PIECE_BYTES) as memory, memoryview(memory) as buffer:
            for at in range(0, facts.spec.size_bytes, _PIECE_BYTES):
                with buffer[: min(_PIECE_BYTES, facts.spec.size_bytes - at)] as piece:
                    _fill(source, piece, facts.offset_bytes + at, facts)
                    digest.update(piece)
                    if piece != _ZEROS[: len(piece)]:
                        os.pwrite(target, piece, at)
    except OSError as error:
        raise SourceError(f"{facts.spec.name} could not be copied: {error.strerror}") from error
    finally:
        os.close(source)
    return digest.digest()


def _fill(source: int, piece: memoryview, at: int, facts: Facts) -> None:
    done = 0
    while done < len(piece):
        count = os.preadv(source, [piece[done:]], at + done)
        if not count:
            raise SourceError(f"{facts.path} ended at byte {at + done}")
        done += count
