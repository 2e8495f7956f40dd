"""Writing an image: one pass over frozen sources feeds every site (`docs/design.md`, An image).

    sources → pieces → workers (read, digest, compare, seal) → packs and map → feeds → manifest

The calling thread decides and keeps order; workers do the bytes; each site has its feed. Memory is bounded by the
pool of pack buffers, the spans in flight and one segment a layer, whatever the size of the disks.
"""

from __future__ import annotations

import base64
import contextlib
import os
import sys
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import core
from core.errors import ObjectMissingError, RefloatError, SiteError
from core.layout import Layout
from core.monitor import Monitor, Task
from core.run import Runner
from imager.changes import Changes
from imager.keys import DataKey, ServerKeys, seal_key
from imager.reading import MapAhead, volume_pieces
from imager.repository.audit import Audit, audit, unread
from imager.repository.feed import Feed, Lease, Patience, Pool
from imager.repository.frames import SEALED_MAX, PackRef
from imager.repository.journal import JournalWriter
from imager.repository.lineage import Emit, Layers, Lineage, SiteState, group_sites
from imager.repository.manifest import (
    Manifest,
    ParentRef,
    SegmentRef,
    ServerCard,
    ServerRef,
    Totals,
    decode_manifest,
    seal_envelope,
)
from imager.repository.packs import OVERHEAD, PackBuilder
from imager.repository.segments import Item, SegmentBuilder, digest_of
from imager.repository.worker import SealedFrame, SpanResult, Workshop
from imager.source import Pace, Reader, Source, reading
from imager.spans import BLOCK_BYTES, Idle, Span
from imager.tap import Tap
from imager.volumes import Volume, volume_ids

#: Buffers beyond those that open packs hold: one being filled, the rest on their way.
_POOL_BUFFERS = 4
_SWITCH_SECONDS = 0.0005


@dataclass(frozen=True)
class Request:
    """What to image, and how. `image` is its name (TIME); `sources` belong to `layout`. `check` raises when the sources
    do not hold still any more; it is asked often, and with True once more before anything is committed. `frozen_ms`:
    how long filesystems stood still for it. `audit_share` (0 to 1) of the blocks that change tracking calls unchanged
    are read all the same. `taps` get every block that is read: with any, everything is read, for change tracking tells
    what changed since the night before, and not since what they compare with."""

    keys: ServerKeys
    recipients: tuple[str, ...]
    layout: Layout
    sources: tuple[Source, ...]
    image: str
    taken_at: datetime
    state: Path
    note: str = ""
    level: int = 3
    threads: int = 0
    pack_bytes: int = 32 << 20
    bandwidth: int = 0
    whole: frozenset[str] = frozenset()
    check: Callable[[bool], None] = lambda last: None
    audit_share: float = 0.001
    frozen_ms: int = 0
    taps: tuple[Tap, ...] = ()


@dataclass
class SiteResult:
    """How a site fared. `status`: `committed`, `lagging` (detached; can be gone on with) or `failed`."""

    name: str
    status: str
    parent: str | None
    digest: str = ""
    read_bytes: int = 0
    changed_bytes: int = 0
    stored_bytes: int = 0
    seconds: float = 0.0
    damaged: bool = False
    error: RefloatError | None = None


_Flight = tuple[Span, list[list[Item | None]], Future[SpanResult]] | tuple[Idle, list[Lineage]]


@dataclass
class _OpenPack:
    lease: Lease
    builder: PackBuilder
    items: list[Item] = field(default_factory=list)


class Capture:
    """One run. Made, run once with `run()`, thrown away."""

    def __init__(self, request: Request, sites: Sequence[SiteState], runner: Runner, monitor: Monitor) -> None:
        self._request, self._runner, self._monitor = request, runner, monitor
        self._server_id = request.keys.server_id
        self._key = DataKey.draw(self._server_id, request.recipients)
        self._ids = volume_ids(tuple(source.spec for source in request.sources))
        self._journal = JournalWriter(request.state / "journal", self._server_id, self._key)
        self._pool = Pool(_POOL_BUFFERS, request.pack_bytes + SEALED_MAX + OVERHEAD)
        self._feeds = {site.name: Feed(site.name, self._pool) for site in sites}
        self._patience = Patience(list(self._feeds.values()), self._pool)
        self._lineages = group_sites(sites, self._server_id, self._emitter)
        self._packs: dict[int, _OpenPack] = {}
        self._workshop = Workshop(self._key, self._server_id, request.keys.digest_key, request.level, request.taps)
        self._pace = Pace(request.bandwidth)
        self._read_bytes = 0
        self._stored = dict.fromkeys(self._feeds, 0)
        self._volumes: list[Volume] = []
        #: By volume, the blocks that were read, and are zeros only because their free pages are taken as zeros.
        self.zeros: dict[str, array[int]] = {}

    @property
    def volumes(self) -> list[Volume]:
        """What was imaged, and how; complete after `run`."""
        return self._volumes

    def run(self) -> list[SiteResult]:
        """Image everything. Raises what concerns all sites (a source that cannot be read, a map that turns out void);
        what concerns one site is in its result. Nothing is committed when this raises."""
        # While this thread keeps the books, the workers need the GIL for microseconds, often: let them have it soon.
        interval = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_SECONDS)
        try:
            self._read_everything()
            for need in list(self._packs):
                self._close_pack(need)
            self._request.check(True)
            digests = self._commit()
        except BaseException:
            for feed in self._feeds.values():
                feed.detached = True
            raise
        finally:
            sys.setswitchinterval(interval)
            for feed in self._feeds.values():
                feed.finish()
            self._journal.close()
        results = [self._result(lineage, site, digests) for lineage in self._lineages for site in lineage.sites]
        if all(result.status == "committed" for result in results):
            self._journal.sweep()
        return results

    # -- reading ----------------------------------------------------------------------------------------------------

    def _read_everything(self) -> None:
        request = self._request
        sources = sorted(request.sources, key=lambda source: self._ids[source.spec.name])
        threads = request.threads or (os.cpu_count() or 1) + 1
        total = sum(source.size_bytes for source in sources)
        with (
            contextlib.ExitStack() as stack,
            ThreadPoolExecutor(threads, thread_name_prefix="image") as pool,
            self._monitor.task(f"image {request.image}", total) as task,
        ):
            maps = MapAhead(sources, self._runner, request.whole, self._monitor, stack)
            for source in sources:
                self._read_volume(source, maps, pool, threads, task)
            maps.finish()

    def _read_volume(self, source: Source, maps: MapAhead, pool: ThreadPoolExecutor, threads: int, task: Task) -> None:
        volume = self._ids[source.spec.name]
        flying: deque[_Flight] = deque()
        used = maps.next(source)
        used_bytes = read_bytes = 0
        zeros = self.zeros[source.spec.name] = array("Q")
        with reading(source, self._pace) as reader:
            changes, audited = self._audited(source, volume, reader)
            for piece in volume_pieces(source, used):
                if isinstance(piece, Idle):
                    for tap in self._request.taps:
                        tap.idle(source.spec.name, piece)
                    flying.append((piece, [each for each in self._lineages if each.idle_changed(volume, piece)]))
                    task.advance(piece.count * BLOCK_BYTES)
                else:
                    used_bytes += len(piece.masks) * BLOCK_BYTES
                    known = [lineage.known(volume, piece) for lineage in self._lineages]
                    for span, parts in unread(piece, known, changes):
                        read_bytes += len(span.masks) * BLOCK_BYTES
                        job = pool.submit(self._workshop.process, reader, source.spec.name, volume, span, parts)
                        flying.append((span, parts, job))
                    task.advance(len(piece.masks) * BLOCK_BYTES)
                while len(flying) > 4 * threads:
                    self._land(volume, flying.popleft(), zeros)
                self._need_a_site()
                self._request.check(False)
            while flying:
                self._land(volume, flying.popleft(), zeros)
            unreadable = reader.unreadable
        self._read_bytes += read_bytes
        method = "live" if source.live else "whole" if used is None else "used"
        self._volumes.append(
            Volume(
                id=volume, spec=source.spec, method=method, used_bytes=used_bytes, unreadable=unreadable,
                held=source.held, tracked="" if changes is None else source.tracked_by, read_bytes=read_bytes,
                audited=audited.read, audit_missed=audited.missed,
            )
        )  # fmt: skip

    def _audited(self, source: Source, volume: int, reader: Reader) -> tuple[Changes | None, Audit]:
        """The changes that may be relied on (None: read everything), after a look whether they can be."""
        name, changes, result = source.spec.name, source.changed, Audit()
        if changes is None:
            return None, result
        if self._request.taps:
            self._monitor.step(f"{name} is read in full: an archive is compared with its own full")
            return None, result
        if not all(lineage.can_be_tracked for lineage in self._lineages):
            self._monitor.step(f"{name} is read in full: a site has packs of a run that was killed")
            return None, result
        for lineage in self._lineages:
            result += audit(
                reader, volume, lineage.parent_items(volume), changes,
                share=self._request.audit_share, digest_key=self._request.keys.digest_key,
            )  # fmt: skip
        if result.missed:
            self._monitor.warn(
                f"audit: {result.missed} of {result.read} blocks of {name} that change tracking ({source.tracked_by}) "
                "calls unchanged have changed; it is not believed, and the volume is read in full. Images since it was "
                "last read in full may lack changes"
            )
            return None, result
        return changes, result

    def _land(self, volume: int, flight: _Flight, zeros: array[int]) -> None:
        """In order: what became of a piece goes into packs and maps."""
        if len(flight) == 2:
            idle, changed = flight
            for lineage in changed:
                lineage.add_idle(volume, idle)
                lineage.delta.flush()
            return
        span, known, job = flight
        result = job.result()
        for index, digest in enumerate(result.digests):
            if digest is None and span.masks[index]:
                zeros.append(span.block + index)
        for sealed in result.frames:
            self._store_frame(sealed, volume, span, result)
        for number, lineage in enumerate(self._lineages):
            lineage.add_span(volume, span, known[number], result, 1 << number)
            lineage.delta.flush()

    def _need_a_site(self) -> None:
        if not any(feed.open for feed in self._feeds.values()):
            errors = [feed.error for feed in self._feeds.values() if feed.error is not None]
            for error in errors:
                if not isinstance(error, RefloatError):
                    raise error
            raise errors[0] if errors else SiteError("no site is left to feed")

    # -- packs ------------------------------------------------------------------------------------------------------

    def _store_frame(self, sealed: SealedFrame, volume: int, span: Span, result: SpanResult) -> None:
        pack = self._packs.get(sealed.need)
        if pack is not None and not pack.builder.has_room(len(sealed.sealed)):
            self._close_pack(sealed.need)
            pack = None
        if pack is None:
            lease = self._pool.take(self._make_room)
            pack = self._packs[sealed.need] = _OpenPack(lease, PackBuilder(lease.view, self._request.pack_bytes))
        pack.builder.add(sealed.frame, sealed.sealed)
        for slot, index in enumerate(sealed.places):
            digest = result.digests[index]
            assert digest is not None  # noqa: S101 - zero blocks are never in a frame
            pack.items.append(Item(volume, span.block + index, 1, 0, slot, span.masks[index], digest, sealed.frame))

    def _make_room(self) -> None:
        """No buffer is free: wait for a site, or, when open packs hold them all, close the fullest."""
        if all(feed.idle for feed in self._feeds.values()) and self._packs:
            self._close_pack(max(self._packs, key=lambda need: self._packs[need].builder.size))
            return
        self._patience.wait()
        self._need_a_site()

    def _close_pack(self, need: int) -> None:
        pack = self._packs.pop(need)
        ref = pack.builder.finish()
        segment = SegmentBuilder(self._server_id)
        for item in pack.items:
            segment.add(item)
        self._journal.pack(need, segment.build())
        takers = [
            site
            for number, lineage in enumerate(self._lineages)
            if need >> number & 1
            for site in lineage.sites
            if self._feeds[site.name].open
        ]
        pack.lease.share(len(takers))
        for site in takers:
            self._feeds[site.name].give(partial(self._put_pack, site, ref, pack.builder.body), pack.lease)

    def _put_pack(self, site: SiteState, ref: PackRef, body: memoryview) -> None:
        if site.repository.put_named(site.repository.pack_name(ref), [body]):
            self._stored[site.name] += ref.size_bytes
        self._journal.durable(site.name, ref)

    # -- commit -----------------------------------------------------------------------------------------------------

    def _emitter(self, sites: Sequence[SiteState]) -> Emit:
        def emit(ref: SegmentRef, data: bytes) -> None:
            sites[0].repository.remember(ref.digest, data)
            for site in sites:
                self._feeds[site.name].give(partial(self._put_segment, site, ref, data))

        return emit

    def _put_segment(self, site: SiteState, ref: SegmentRef, data: bytes) -> None:
        if site.repository.put_named(site.repository.map_name(ref.digest), [data]):
            self._stored[site.name] += len(data)

    def _commit(self) -> dict[str, str]:
        """Queue the manifest of every site behind its packs and segments; returns name → digest, filled as they
        commit."""
        digests: dict[str, str] = {}
        sealed_digest_key = seal_key(
            self._request.keys.digest_key,
            kind="digest",
            key_id=bytes(16),
            server_id=self._server_id,
            recipients=self._request.recipients,
        )
        for lineage in self._lineages:
            layers, key_ids = lineage.finish()
            for site in lineage.sites:
                sealed = self._sealed_keys(site, key_ids)
                self._feeds[site.name].give(
                    partial(self._put_manifest, site, lineage, layers, sealed, sealed_digest_key, digests)
                )
        return digests

    def _sealed_keys(self, site: SiteState, key_ids: set[bytes]) -> dict[str, str]:
        known = dict(site.parent.manifest.keys) if site.parent else {}
        for journal, _ in site.journals:
            known[journal.key_id.hex()] = _b64(journal.sealed)
        known[self._key.key_id.hex()] = _b64(self._key.sealed)
        return {key_id: known[key_id] for key_id in sorted(each.hex() for each in key_ids)}

    def _put_manifest(
        self,
        site: SiteState,
        lineage: Lineage,
        layers: Layers,
        sealed: dict[str, str],
        digest_key: bytes,
        digests: dict[str, str],
    ) -> None:
        request, keys = self._request, self._request.keys
        parent = site.parent
        order = [source.spec.name for source in request.sources]
        manifest = Manifest(
            server=ServerRef(name=keys.name, id=self._server_id.hex()),
            image=request.image,
            taken_at=_rfc3339(request.taken_at),
            finished_at=_rfc3339(datetime.now(UTC)),
            agent=core.__version__,
            parent=ParentRef(image=parent.manifest.image, digest=parent.digest) if parent else None,
            note=request.note,
            state="damaged" if self._damaged else "complete",
            digest_key=_b64(digest_key),
            keys=sealed,
            layout=request.layout,
            volumes=tuple(sorted(self._volumes, key=lambda volume: order.index(volume.spec.name))),
            layers=layers,
            totals=Totals(
                read_bytes=self._read_bytes,
                changed_bytes=lineage.changed_blocks * BLOCK_BYTES,
                stored_bytes=self._stored[site.name],
                frozen_ms=request.frozen_ms,
            ),
        )
        self._put_card(site)
        data = seal_envelope("image", manifest, keys.public_key, keys.sign)
        decode_manifest(data, image=request.image, pin=keys.fingerprint)  # what no reader takes is never committed
        site.repository.put_named(site.repository.image_name(request.image), [data])
        digests[site.name] = digest_of(data)

    @property
    def _damaged(self) -> bool:
        return any(volume.unreadable for volume in self._volumes)

    def _put_card(self, site: SiteState) -> None:
        keys = self._request.keys
        card = ServerCard(name=keys.name, id=self._server_id.hex(), created_at=_rfc3339(self._request.taken_at))
        name = site.repository.card_name
        try:
            site.repository.site.stat(name)
        except ObjectMissingError:
            site.repository.put_named(name, [seal_envelope("server", card, keys.public_key, keys.sign)])

    def _result(self, lineage: Lineage, site: SiteState, digests: dict[str, str]) -> SiteResult:
        feed = self._feeds[site.name]
        if feed.error is not None and not isinstance(feed.error, RefloatError):
            raise feed.error
        status = "committed" if site.name in digests else "failed" if feed.error is not None else "lagging"
        return SiteResult(
            name=site.name,
            status=status,
            parent=site.parent.manifest.image if site.parent else None,
            digest=digests.get(site.name, ""),
            read_bytes=self._read_bytes,
            changed_bytes=lineage.changed_blocks * BLOCK_BYTES,
            stored_bytes=self._stored[site.name],
            seconds=round(feed.seconds, 3),
            damaged=self._damaged,
            error=feed.error,
        )


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
