"""The digest list of a full, kept by the server: what a differential is computed against, and nothing else is.

A file of 16 bytes a block beside a small JSON that names the full it belongs to; the JSON is replaced when the full is
committed, so a list is only ever believed for the very archive that it was written with. A list that is lost or does
not fit costs a new full. May import `core`, `imager.spans`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from core.errors import StateError
from core.files import replace, state_errors
from core.layout import VolumeSpec
from imager.spans import BLOCK_BYTES
from imager.volumes import TIME

ENTRY_BYTES = 16
_FORMAT = "%Y%m%dT%H%M%SZ"
UNUSED = bytes(ENTRY_BYTES)
ZERO = bytes(ENTRY_BYTES - 1) + b"\1"


class FullRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The last full at a site, as the server remembers it: its TIME, the SHA-256 of its SHA256SUMS, its geometry."""

    image: str
    sums: str
    geometry: str


def load_record(folder: Path, site: str) -> FullRecord | None:
    """What is remembered of a site; None when nothing is, or not rightly: a new full is then made."""
    try:
        found = msgspec.json.decode((folder / f"{site}.json").read_bytes(), type=FullRecord)
    except (OSError, ValueError):
        return None
    return found if list_path(folder, site, found.image).is_file() else None


def list_path(folder: Path, site: str, image: str) -> Path:
    """Where the list of a full lies."""
    return folder / f"{site}-{image}.list"


def save_record(folder: Path, site: str, record: FullRecord) -> None:
    """Believe another full from now on; the lists of older ones go. StateError when it cannot be written."""
    replace(folder / f"{site}.json", msgspec.json.encode(record))
    sweep_lists(folder, site, record.image)


def sweep_lists(folder: Path, site: str, keep: str) -> None:
    """Remove every list of a site but that of one full."""
    for path in folder.glob(f"{site}-????????T??????Z.list"):
        if path != list_path(folder, site, keep):
            path.unlink(missing_ok=True)


def next_name(folder: Path, site: str, image: str) -> str:
    """The TIME of the next archive: this one, or a second after the last that was begun, of which parts may lie there.
    It is noted before anything is put. StateError when it cannot be."""
    path = folder / f"{site}.last"
    with state_errors(path):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        last = path.read_text() if path.exists() else ""
    if TIME.fullmatch(last) and image <= last:
        image = (datetime.strptime(last, _FORMAT).replace(tzinfo=UTC) + timedelta(seconds=1)).strftime(_FORMAT)
    replace(path, image.encode())
    return image


class DigestList:
    """An open list, read or written at any place from several threads."""

    def __init__(self, path: Path, specs: Sequence[VolumeSpec], *, create: bool) -> None:
        self._path, self._starts = path, {}
        at = 0
        for spec in sorted(specs, key=lambda each: each.key):
            self._starts[spec.name] = at
            at += -(-spec.size_bytes // BLOCK_BYTES) * ENTRY_BYTES
        with state_errors(path):
            if create:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                path.unlink(missing_ok=True)
                self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                os.ftruncate(self._fd, at)
            else:
                self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        if os.fstat(self._fd).st_size != at:
            os.close(self._fd)
            raise StateError(f"{path} has another size than the volumes ask for", hint="a new full will be made")

    def read(self, volume: str, block: int, count: int) -> bytes:
        """The entries of `count` blocks. A short read raises StateError: unknown is never taken as unchanged."""
        data = os.pread(self._fd, count * ENTRY_BYTES, self._starts[volume] + block * ENTRY_BYTES)
        if len(data) != count * ENTRY_BYTES:
            raise StateError(f"{self._path} ended early", hint="the next archive is a full")
        return data

    def write(self, volume: str, block: int, entries: bytes) -> None:
        """Put entries from `block` on."""
        with state_errors(self._path):
            done, at = 0, self._starts[volume] + block * ENTRY_BYTES
            while done < len(entries):
                done += os.pwrite(self._fd, entries[done:], at + done)

    def sync(self) -> None:
        """Durable on return."""
        with state_errors(self._path):
            os.fsync(self._fd)

    def close(self) -> None:
        """Release the handle."""
        with contextlib.suppress(OSError):
            os.close(self._fd)
