"""Small durable files on the local machine: created or replaced whole, never half. Imports `core.errors` only."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from core.errors import StateError


@contextlib.contextmanager
def state_errors(path: Path) -> Iterator[None]:
    """OSErrors of writing below the state folder, told as StateError; FileExistsError passes, for it is an answer."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise StateError(
            f"{path} cannot be written: {error.strerror}",
            hint="make room on its disk, or make it writable; nothing was committed by this step",
        ) from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Alone with the file `path` (made when it is not there); others wait. The kernel lets go when the process dies."""
    with state_errors(path), path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sync_folder(folder: Path) -> None:
    """fsync a folder, so that names made in it survive a power failure."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_temporary(path: Path, data: bytes, mode: int) -> str:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
    try:
        os.fchmod(handle, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        os.unlink(temporary)
        raise
    return temporary


def write_new(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Create `path` with `data`, durable on return. FileExistsError when it is there already."""
    with state_errors(path):
        temporary = _write_temporary(path, data, mode)
        try:
            os.link(temporary, path)
        finally:
            os.unlink(temporary)
        sync_folder(path.parent)


def replace(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Create or replace `path` with `data` in one step, durable on return."""
    with state_errors(path):
        temporary = _write_temporary(path, data, mode)
        try:
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        sync_folder(path.parent)
