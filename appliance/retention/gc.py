"""Space: the trash emptied after its delay, what nobody names deleted, packs that are mostly dead repacked.

Without keys. What is alive follows from the manifests that stay and their maps; one that cannot be read stops
everything, for what it names is not known. Order is what makes a kill harmless: a manifest goes before what only it
names, so that no image is ever there and not whole. May import `appliance`, `imager`, `core`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from appliance.config import RetentionConfig
from appliance.retention.holdings import Held, Holdings, digest_at
from appliance.retention.policy import State, guarded
from appliance.retention.prune import Prune, due
from appliance.retention.records import ALL, LEASE_MAX, Records
from core.errors import CorruptError, ObjectMissingError, RefloatError
from core.monitor import Monitor
from imager.repository.frames import PackRef
from imager.repository.live import Ages, Live
from imager.repository.moved import digest_in
from imager.repository.repack import find_victims, repack
from imager.repository.segments import Segment
from imager.repository.store import Repository
from imager.sites.base import ObjectInfo

#: Packs repacked in one run, the deadest first: bounds its memory (their frames), time, and the room it needs.
VICTIMS_MAX = 1024


@dataclass
class GcReport:
    """What went, or with `applied` False would go. `young`: named by nobody, but not old enough yet."""

    server: str
    site: str
    applied: bool
    images: list[str] = field(default_factory=list)
    packs: int = 0
    maps: int = 0
    records: int = 0
    deleted_bytes: int = 0
    young: int = 0
    live_packs: int = 0
    live_bytes: int = 0
    half_dead: int = 0
    repacked: int = 0
    written: int = 0
    copied_bytes: int = 0


class Collection:
    """One garbage collection of one server at one site."""

    def __init__(self, prune: Prune, repository: Repository, config: RetentionConfig, monitor: Monitor) -> None:
        self._prune, self._repository, self._config, self._monitor = prune, repository, config, monitor
        self._site, self._records = repository.site, Records(repository)
        self._held: Holdings = prune.found[repository.site.name]
        self._leases = self._records.leases()
        self._spared: set[str] = set()

    def run(self, *, apply: bool) -> GcReport:
        """Derive, delete, repack. CorruptError when something that stays cannot be read: nothing is deleted then."""
        now = self._records.clock() if apply else datetime.now(UTC)
        report = GcReport(self._repository.server, self._site.name, apply)
        while True:
            report.images = self._due(now)
            stay = [each for each in self._held.images if each.image not in report.images]
            live = self._count(stay)
            if not self._was_called_back(report.images):
                break
        known = [each for each in stay if each.candidate.state is not State.DOUBTFUL]
        committed = max((each.arrived for each in known), default=None)
        ages = Ages(now, timedelta(days=self._config.delay_days).total_seconds(), committed)
        report.live_packs, report.live_bytes = sum(live.packs.named), sum(live.live_bytes)
        victims = live.victims(VICTIMS_MAX)
        report.half_dead = len(victims)
        if apply:
            self._delete_images(report.images)
        listed = {ref.digest for each in stay for ref in each.segments}
        for info in self._garbage(live, listed, {each.image for each in stay}, ages, report):
            if apply:
                with contextlib.suppress(ObjectMissingError):  # another collection was first
                    self._site.delete(info.name)
            report.deleted_bytes += info.size_bytes
        if apply and victims:
            done = repack(self._repository, find_victims(live, victims, self._segments(stay)), self._monitor)
            report.repacked, report.written, report.copied_bytes = done.moved, done.written, done.copied_bytes
        return report

    def _due(self, now: datetime) -> list[str]:
        verdicts = {each.image: each for each in self._prune.verdicts(self._site.name, now)}
        guards = guarded(self._held.candidates, 1, now) | dict.fromkeys(self._spared, "called back")
        held = Holdings([self._with_digest(each) for each in self._held.images], self._held.trash)
        return due(held, verdicts, guards, now - timedelta(days=self._config.delay_days))

    def _with_digest(self, held: Held) -> Held:
        """An unreadable manifest is known by the bytes it has."""
        if held.digest:
            return held
        return Held(held.candidate, digest_at(self._repository, held.image), held.arrived, error=held.error)

    def _count(self, stay: list[Held]) -> Live:
        with self._monitor.task(f"gc {self._site.name}") as task:
            live = Live(self._repository)
            for segment in self._segments(stay):
                live.count(segment)
                task.advance(1)
        return live

    def _segments(self, stay: list[Held]) -> Iterator[Segment]:
        """Every map segment that an image names which stays, once."""
        for each in stay:
            if each.error is not None and not each.server_id:
                raise _stopped(each.error)
        refs = {ref.digest: (ref, each.server_id) for each in stay for ref in each.segments}
        for ref, server_id in refs.values():
            try:
                yield self._repository.segment(ref, server_id)
            except (CorruptError, ObjectMissingError) as error:
                raise _stopped(error) from error

    def _was_called_back(self, going: list[str]) -> bool:
        """Whether an image that goes was pinned or leased while the maps were read, which takes hours where there is
        much: then it stays, and all is counted again."""
        pins, leases = self._records.pins(), self._records.leases()
        fresh = {image for image, until in leases.items() if self._leases.get(image, until) != until}
        fresh |= leases.keys() - self._leases.keys()
        back = {each for each in going if each in pins or each in fresh or ALL in fresh}
        self._spared |= back
        self._leases = leases
        return bool(back)

    def _delete_images(self, images: list[str]) -> None:
        for image in images:
            # The manifest first: from then on there is no such image. A receipt without one is nothing.
            for name in (self._repository.image_name(image), f"{self._repository.prefix}receipts/{image}.json"):
                with contextlib.suppress(ObjectMissingError):
                    self._site.delete(name)

    def _garbage(
        self, live: Live, listed: set[str], images: set[str], ages: Ages, report: GcReport
    ) -> Iterator[ObjectInfo]:
        """Everything that goes, listed before it is deleted: folder by folder, in bounded memory."""
        prefix = self._repository.prefix
        for info in self._site.list(f"{prefix}packs/"):
            digest = digest_in(info.name)
            if digest is None or live.packs.is_named(digest):
                continue
            if ages.is_over(info.received) and self._moved_long_ago(digest, live, ages):
                report.packs += 1
                yield info
            else:
                report.young += 1
        for info in self._site.list(f"{prefix}maps/"):
            digest = digest_in(info.name)
            if digest is not None and digest.hex() not in listed:
                if ages.is_over(info.received):
                    report.maps += 1
                    yield info
                else:
                    report.young += 1
        for info in self._records_over(live, images, ages):
            report.records += 1
            yield info

    def _moved_long_ago(self, digest: bytes, live: Live, ages: Ages) -> bool:
        """A pack whose frames were moved stays for a delay: who began to read it can end."""
        if live.tables.find(digest) < 0:
            return True
        try:
            return ages.is_past(self._site.stat(self._repository.moved.table_name(PackRef(digest, 1))).received)
        except ObjectMissingError:
            return True

    def _records_over(self, live: Live, images: set[str], ages: Ages) -> Iterator[ObjectInfo]:
        """Tables that nothing goes through, leases and clocks that are over, receipts of no image, trash that is
        emptied."""
        prefix = self._repository.prefix
        for info in self._site.list(f"{prefix}moved/"):
            digest = digest_in(info.name, ".json")
            if digest is not None and not live.tables.is_named(digest) and ages.is_past(info.received):
                yield info
        for info in self._site.list(f"{prefix}leases/"):
            if info.received + LEASE_MAX <= ages.now:
                yield info
        for info in self._site.list(f"{prefix}clock/"):
            if ages.is_past(info.received):
                yield info
        for info in self._site.list(f"{prefix}receipts/"):
            if info.name.rsplit("/", 1)[1].removesuffix(".json") not in images and ages.is_past(info.received):
                yield info
        for trash in self._held.trash:
            if ages.is_past(trash.received):
                yield ObjectInfo(trash.name, 0, trash.received)


def _stopped(error: RefloatError) -> CorruptError:
    return CorruptError(
        f"nothing is deleted, for what is alive is not known: {error.message}",
        hint="bring it back from another site (`refloat verify` names what is damaged), or take the image away with "
        "`refloat prune --drop` and wait out the delay",
    )
