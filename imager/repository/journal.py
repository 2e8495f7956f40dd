"""The journal: what a killed run left durable at which site, so that the next run counts it. Holds no secret.

One file a run, `state/journal/KEYID.journal`, appended and fsynced; a torn tail is ignored. A journal that cannot be
used only costs an upload. Records: magic, type, length, payload, first 8 bytes of SHA-256 over type and payload.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import os
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from core.errors import FormatError, VersionError
from core.files import state_errors, sync_folder
from imager.keys import DataKey
from imager.repository.frames import PackRef
from imager.repository.segments import Item, Segment

_RECORD = struct.Struct("<4sBI")
_MAGIC = b"RJRN"
_SUM_BYTES = 8
_START, _PACK, _DURABLE = 1, 2, 3
#: Older journals are not counted: gc at a site may take unreferenced packs after its delay (7 days, design.md).
MAX_AGE_SECONDS = 5 * 24 * 3600


class _Start(msgspec.Struct):
    server: str
    key_id: str
    sealed: bytes


class _Durable(msgspec.Struct):
    site: str
    pack: str


class JournalWriter:
    """Appends to the journal of a run; called from the capturing thread and from every site's feed."""

    def __init__(self, folder: Path, server_id: bytes, key: DataKey) -> None:
        self.path = folder / f"{key.key_id.hex()}.journal"
        self._lock = threading.Lock()
        with state_errors(self.path):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = open(self.path, "xb", buffering=0)
        try:
            self._append(_START, msgspec.msgpack.encode(_Start(server_id.hex(), key.key_id.hex(), key.sealed)))
            sync_folder(folder)
        except BaseException:
            self.sweep()
            raise

    def pack(self, need: int, segment: bytes) -> None:
        """A pack is complete: its items, as a map segment; `need` tells streams of packs apart."""
        self._append(_PACK, struct.pack("<I", need) + segment)

    def durable(self, site: str, pack: PackRef) -> None:
        """A site has the pack, durably."""
        self._append(_DURABLE, msgspec.msgpack.encode(_Durable(site, pack.hex)))

    def _append(self, kind: int, payload: bytes) -> None:
        record = _RECORD.pack(_MAGIC, kind, len(payload)) + payload + _sum(kind, payload)
        with self._lock, state_errors(self.path):
            self._file.write(record)
            os.fdatasync(self._file.fileno())

    def close(self) -> None:
        """Close the file; it stays until it is swept."""
        self._file.close()

    def sweep(self) -> None:
        """Delete the journal: every site has the image."""
        self.close()
        self.path.unlink(missing_ok=True)


@dataclass
class Journal:
    """A killed run's journal: where its pack records are, and what is durable where."""

    path: Path
    key_id: bytes
    sealed: bytes
    _packs: dict[str, tuple[int, int, int, int]] = field(default_factory=dict)
    durable: dict[str, set[str]] = field(default_factory=dict)

    def items(self, packs: set[str]) -> Iterator[Item]:
        """The items of these packs, sorted: within one need they were written in order, and needs never share a
        block."""
        needs = sorted({self._packs[name][0] for name in packs if name in self._packs})
        yield from heapq.merge(
            *(self._stream(need, packs) for need in needs), key=lambda item: (item.volume, item.block)
        )

    def refs(self, site: str) -> Iterator[PackRef]:
        """The packs that were durable at a site."""
        for name in sorted(self.durable.get(site, ())):
            if name in self._packs:
                yield PackRef(bytes.fromhex(name), self._packs[name][3])

    def _stream(self, need: int, packs: set[str]) -> Iterator[Item]:
        for name, (pack_need, offset, length, _) in self._packs.items():
            if pack_need == need and name in packs:
                with open(self.path, "rb") as file:
                    file.seek(offset)
                    yield from Segment(file.read(length)).items()


def _sum(kind: int, payload: bytes) -> bytes:
    return hashlib.sha256(bytes([kind]) + payload).digest()[:_SUM_BYTES]


def _records(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(type, offset of the payload, payload) up to the first record that is torn or broken."""
    with open(path, "rb") as file:
        while len(head := file.read(_RECORD.size)) == _RECORD.size:
            magic, kind, length = _RECORD.unpack(head)
            offset = file.tell()
            payload = file.read(length) if magic == _MAGIC and length < 64 << 20 else b""
            if len(payload) != length or file.read(_SUM_BYTES) != _sum(kind, payload):
                return
            yield kind, offset, payload


def _load(path: Path, server_id: bytes) -> Journal | None:
    journal: Journal | None = None
    for kind, offset, payload in _records(path):
        if kind == _START:
            start = msgspec.msgpack.decode(payload, type=_Start)
            if start.server != server_id.hex():
                return None
            journal = Journal(path, bytes.fromhex(start.key_id), start.sealed)
        elif journal is None:
            return None
        elif kind == _PACK:
            segment = Segment(payload[4:])
            (need,) = struct.unpack_from("<I", payload)
            for ref in segment.packs:
                journal._packs[ref.hex] = (need, offset + 4, len(payload) - 4, ref.size_bytes)
        elif kind == _DURABLE:
            mark = msgspec.msgpack.decode(payload, type=_Durable)
            journal.durable.setdefault(mark.site, set()).add(mark.pack)
    return journal


def load_journals(folder: Path, server_id: bytes) -> tuple[list[Journal], list[Path]]:
    """Usable journals, oldest first, and the paths of those that are of no use (too old, foreign, broken)."""
    usable: list[Journal] = []
    stale: list[Path] = []
    paths = sorted(folder.glob("*.journal"), key=lambda path: path.stat().st_mtime) if folder.is_dir() else []
    for path in paths:
        journal = None
        if time.time() - path.stat().st_mtime < MAX_AGE_SECONDS:
            with contextlib.suppress(FormatError, VersionError, msgspec.MsgspecError, ValueError, OSError):
                journal = _load(path, server_id)
        if journal is None:
            stale.append(path)
        else:
            usable.append(journal)
    return usable, stale
