"""Writing one archive to one site, fed with blocks by whoever reads the frozen devices (`imager.tap`).

    blocks → differ from the full's list? → tar → zstd → age → parts → site; SHA256SUMS last

A writer lives as long as the run. Its own failure never raises in `blocks`: it ends itself and keeps `error`. May
import `imager` (not `imager.repository`), `core`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

import core
from core.errors import ObjectMissingError, RefloatError, StateError
from core.layout import Layout, VolumeSpec
from core.run import pipeline
from imager.archive import members
from imager.archive.description import DIFFERENTIAL, FULL, ArchiveServer, Base, Description, geometry
from imager.archive.digests import (
    ENTRY_BYTES,
    ZERO,
    DigestList,
    FullRecord,
    list_path,
    load_record,
    next_name,
    save_record,
    sweep_lists,
)
from imager.archive.parts import Parts
from imager.archive.sums import DESCRIPTION, README, SIGNATURE, SUMS, format_sums, parse_sums, sign_sums
from imager.archive.texts import first_members, readme_at_site
from imager.keys import ServerKeys
from imager.sites.base import Site
from imager.spans import BLOCK_BYTES, Idle
from imager.volumes import Volume

#: As imager.repository.feed: a site that keeps everybody waiting has this long in all, and a share of the run so far.
GRACE_SECONDS = 2.0
GRACE_SHARE = 0.05


@dataclass(frozen=True)
class ArchiveRequest:
    """What to archive. `image` is its TIME, or the earliest it may have; `dumps` are layout dumps by file name; `level`
    is zstd's; `patient`: nobody else waits for it, so a slow site may take its time."""

    keys: ServerKeys
    recipients: tuple[str, ...]
    layout: Layout
    specs: tuple[VolumeSpec, ...]
    image: str
    taken_at: datetime
    state: Path
    dumps: Mapping[str, bytes] = field(default_factory=dict)
    note: str = ""
    level: int = 1
    threads: int = 0
    part_bytes: int = 32 << 20
    patient: bool = False


@dataclass(frozen=True)
class ArchiveResult:
    """A committed archive."""

    site: str
    image: str
    kind: str
    base: str | None
    data_bytes: int
    stored_bytes: int
    seconds: float


class LateError(Exception):
    """The site could not keep up with the others, and was left behind."""


def archives_prefix(server: str) -> str:
    """Where the archives of a server lie at a site."""
    return f"servers/{server}/archives/"


class ArchiveWriter:
    """Made (which asks the site for the full), fed, then finished or aborted; always closed."""

    def __init__(self, site: Site, request: ArchiveRequest) -> None:
        self._folder = request.state / "archive"
        request = replace(request, image=next_name(self._folder, site.name, request.image))
        self.site, self._request = site, request
        self.error: Exception | None = None
        self._prefix = f"{archives_prefix(request.keys.name)}{request.image}/"
        self._sizes = {spec.name: spec.size_bytes for spec in request.specs}
        self._geometry = geometry(request.keys.name, request.specs, request.layout)
        self._moment = int(request.taken_at.timestamp())
        self._lock = threading.Lock()
        self._started, self._waited = time.monotonic(), 0.0
        self._data_bytes = 0
        self._closing = contextlib.ExitStack()
        self.base, self._list = self._choose()
        self._closing.callback(self._list.close)
        try:
            purpose = f"write the archive for site {site.name}"
            self._pipeline = self._closing.enter_context(pipeline([self._zstd(), self._age()], purpose=purpose))
        except BaseException:
            self._closing.close()
            raise
        self._out = self._pipeline.stdin.fileno()
        os.set_blocking(self._out, False)
        self._parts = Parts(site, self._prefix, request.part_bytes, self._pipeline.kill)
        self._parts.start(self._pipeline.stdout)
        for name, data in first_members(
            request.layout, request.specs, self.base.sums if self.base else None, request.dumps
        ):
            self._guarded(self._member, name, [memoryview(data)] if data else [])

    # -- which kind -------------------------------------------------------------------------------------------------

    def _choose(self) -> tuple[FullRecord | None, DigestList]:
        """The full to be different from, and its list; or None and a new list, for a full of its own."""
        request = self._request
        record = load_record(self._folder, self.site.name)
        if record is not None and self._usable(record):
            with contextlib.suppress(StateError):
                path = list_path(self._folder, self.site.name, record.image)
                return record, DigestList(path, request.specs, create=False)
        sweep_lists(self._folder, self.site.name, record.image if record else "")
        path = list_path(self._folder, self.site.name, request.image)
        return None, DigestList(path, request.specs, create=True)

    def _usable(self, record: FullRecord) -> bool:
        """Of this month, of these volumes, and whole at the site."""
        if record.image[:6] != self._request.image[:6] or record.geometry != self._geometry:
            return False
        folder = f"{archives_prefix(self._request.keys.name)}{record.image}/"
        try:
            sums = self.site.get(f"{folder}{SUMS}")
        except ObjectMissingError:
            return False
        there = {each.name.rsplit("/", 1)[1] for each in self.site.list(folder)}
        return hashlib.sha256(sums).hexdigest() == record.sums and set(parse_sums(sums)) <= there

    def _zstd(self) -> list[str]:
        return ["zstd", "-q", "--no-check", f"-{self._request.level}", f"-T{self._request.threads}", "-c"]

    def _age(self) -> list[str]:
        return ["age", "--encrypt", *(word for each in self._request.recipients for word in ("--recipient", each))]

    # -- being fed --------------------------------------------------------------------------------------------------

    @property
    def open(self) -> bool:
        """Whether it still takes part."""
        return self.error is None and self._parts.error is None

    def blocks(self, volume: str, block: int, view: memoryview, digests: Sequence[bytes | None]) -> None:
        """See Tap.blocks."""
        self._guarded(self._blocks, volume, block, view, digests)

    def idle(self, volume: str, idle: Idle) -> None:
        """See Tap.idle. What is unused is no part of an archive; a run of zeros is, where the full has none."""
        if not idle.unused:
            self._guarded(self._zeros, volume, idle.block, idle.count)

    def _guarded(self, work: Callable[..., None], *words: object) -> None:
        if not self.open:
            return
        try:
            work(*words)
        except Exception as error:  # noqa: BLE001 - kept, and judged at the end; the others go on
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        with self._lock:
            self.error = self.error or self._parts.error or error
        self._parts.cancelled = True
        self._pipeline.kill()

    def _blocks(self, volume: str, block: int, view: memoryview, digests: Sequence[bytes | None]) -> None:
        entries = [ZERO if each is None else each[:ENTRY_BYTES] for each in digests]
        wanted = self._wanted(volume, block, entries)
        index = 0
        while index < len(entries):
            start, zero = index, entries[index] == ZERO
            if not wanted[index]:
                index += 1
                continue
            while index < len(entries) and wanted[index] and (entries[index] == ZERO) == zero:
                index += 1
            offset = (block + start) * BLOCK_BYTES
            size = min((index - start) * BLOCK_BYTES, self._sizes[volume] - offset)
            if zero:
                self._member(members.zero_name(volume, offset, size), [])
            else:
                self._member(
                    members.data_name(volume, offset), [view[start * BLOCK_BYTES : start * BLOCK_BYTES + size]]
                )

    def _wanted(self, volume: str, block: int, entries: Sequence[bytes]) -> list[bool]:
        if self.base is None:
            self._list.write(volume, block, b"".join(entries))
            return [True] * len(entries)
        known = self._list.read(volume, block, len(entries))
        return [known[at * ENTRY_BYTES : (at + 1) * ENTRY_BYTES] != each for at, each in enumerate(entries)]

    def _zeros(self, volume: str, block: int, count: int) -> None:
        for start in range(block, block + count, 1 << 16):
            self._zero_run(volume, start, min(1 << 16, block + count - start))

    def _zero_run(self, volume: str, block: int, count: int) -> None:
        at = 0
        wanted = self._wanted(volume, block, [ZERO] * count)
        while at < count:
            start = at
            while at < count and wanted[at]:
                at += 1
            if at > start:
                offset = (block + start) * BLOCK_BYTES
                size = min((at - start) * BLOCK_BYTES, self._sizes[volume] - offset)
                self._member(members.zero_name(volume, offset, size), [])
            at += 1

    def _member(self, name: str, body: Sequence[memoryview]) -> None:
        size = sum(len(each) for each in body)
        with self._lock:
            self._write(members.header(name, size, self._moment))
            for each in body:
                self._write(each)
            self._write(members.padding(size))
            self._data_bytes += size

    def _write(self, data: bytes | memoryview) -> None:
        """All of it into the pipe; LateError when everybody has waited for this site long enough."""
        view, done = memoryview(data), 0
        poll = select.poll()
        poll.register(self._out, select.POLLOUT)
        while done < len(view):
            try:
                done += os.write(self._out, view[done:])
            except BlockingIOError:
                before = time.monotonic()
                poll.poll(200)
                if self._parts.stalled and not self._request.patient:
                    self._wait_no_longer_than(time.monotonic() - before)

    def _wait_no_longer_than(self, seconds: float) -> None:
        self._waited += seconds
        if self._waited > GRACE_SECONDS + GRACE_SHARE * (time.monotonic() - self._started):
            raise LateError(f"site {self.site.name} could not keep up")

    # -- the end ----------------------------------------------------------------------------------------------------

    def finish(self, volumes: Sequence[Volume], given_up: Callable[[], bool] = lambda: False) -> ArchiveResult:
        """End the stream, wait for the site, and commit. Raises what went wrong with this archive."""
        self._guarded(self._end_stream)
        if self.open:
            self._parts.finish(given_up)
        self._raise()
        self._pipeline.finish()
        if self.base is None:
            self._list.sync()
        return self._commit(volumes)

    def _end_stream(self) -> None:
        with self._lock:
            self._write(members.END)
            self._pipeline.stdin.close()

    def _raise(self) -> None:
        failure = self._parts.error or self.error
        if isinstance(failure, BrokenPipeError):  # whoever broke it says why
            self._pipeline.finish(60)
        if failure is not None:
            raise failure

    def _commit(self, volumes: Sequence[Volume]) -> ArchiveResult:
        request, keys = self._request, self._request.keys
        readme = readme_at_site(keys, request.image, self.base.image if self.base else None)
        description = msgspec.json.encode(self._describe(volumes))
        sums = format_sums({README: _sha256(readme), DESCRIPTION: _sha256(description), **self._parts.sums})
        rest = {README: readme, DESCRIPTION: description, SIGNATURE: sign_sums(sums, keys.public_key, keys.sign)}
        with ThreadPoolExecutor(len(rest)) as pool:  # a put waits for a disk or for the other end of a continent
            list(pool.map(lambda name: self.site.put(f"{self._prefix}{name}", [rest[name]]), rest))
        self.site.put(f"{self._prefix}{SUMS}", [sums])
        if self.base is None:
            save_record(
                self._folder, self.site.name,
                FullRecord(image=request.image, sums=_sha256(sums), geometry=self._geometry),
            )  # fmt: skip
        return ArchiveResult(
            self.site.name, request.image, FULL if self.base is None else DIFFERENTIAL,
            self.base.image if self.base else None, self._data_bytes, sum(self._parts.sizes),
            round(time.monotonic() - self._started, 3),
        )  # fmt: skip

    def _describe(self, volumes: Sequence[Volume]) -> Description:
        request, keys = self._request, self._request.keys
        order = {spec.name: number for number, spec in enumerate(request.specs)}
        return Description(
            refloat="archive", version=1, server=ArchiveServer(name=keys.name, id=keys.server_id.hex()),
            image=request.image, taken_at=_rfc3339(request.taken_at), finished_at=_rfc3339(datetime.now(UTC)),
            agent=core.__version__, kind=FULL if self.base is None else DIFFERENTIAL,
            base=Base(image=self.base.image, sums=self.base.sums) if self.base else None, note=request.note,
            state="damaged" if any(each.unreadable for each in volumes) else "complete", layout=request.layout,
            volumes=tuple(sorted(volumes, key=lambda each: order[each.spec.name])),
            part_bytes=tuple(self._parts.sizes), data_bytes=self._data_bytes,
        )  # fmt: skip

    def close(self) -> None:
        """Release everything; what was not finished is lost."""
        if self.error is None:
            self.error = RefloatError("closed")
        self._parts.cancelled = True
        self._pipeline.kill()
        self._closing.close()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
