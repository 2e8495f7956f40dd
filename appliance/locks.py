"""Object Lock over time: renewed at commit for all that kept images need, and reported by `refloat verify`.

A lock that ends under an object still referenced protects nothing (docs/sites.md). A *pass* locks everything that
any image at the site needs for a whole term; one is due when the last is half a term old, so between passes no lock
of theirs falls below half, and most nights nothing needs to be asked. Its note is local: lost, the pass
is only made again. May import `appliance.catalog`, `imager`, `core`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import msgspec

from appliance.catalog import load_pinned
from appliance.kit import KitServer
from core.errors import PolicyError, RefloatError
from core.files import replace
from core.monitor import Monitor
from imager.keys import ServerKeys
from imager.repository.store import Repository
from imager.sites.s3lock import Locks, locks_of

_THREADS = 16
_BATCH = 1024


class _Note(msgspec.Struct, frozen=True):
    renewed: datetime
    days: int
    mode: str


def renew(repository: Repository, pin: KitServer, state: Path, monitor: Monitor) -> int:
    """Renew the locks at this site if that is due; how many objects were looked at. 0 where nothing is locked.

    SiteError when the store refuses or does not answer: the pass is then due again the next time.
    """
    locks = locks_of(repository.site)
    if locks is None:
        return 0
    repository.site.stat(repository.card_name)  # so that the store has told its time
    started, path = locks.now(), state / "locks" / f"{repository.site.name}.json"
    if not _is_due(path, locks, started):
        return 0
    count = 0
    missed: list[str] = []
    monitor.step(f"locks at site {repository.site.name} are renewed")
    with ThreadPoolExecutor(_THREADS, "lock") as pool:
        for batch in _batches(needed(repository, [pin], missed)):
            for _ in pool.map(locks.renew, batch):
                count += 1
    for each in missed:
        monitor.warn(f"locks at site {repository.site.name}: {each}")
    if missed:
        return count  # unknown is not locked: due again the next time
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace(path, msgspec.json.encode(_Note(started, locks.term.days, locks.mode)))
    return count


def needed(repository: Repository, pins: Sequence[KitServer], missed: list[str]) -> Iterator[str]:
    """The name of every object that the images at the site need, each once; memory: 8 bytes' hash for each pack.

    What an image that cannot be read needs besides is not known: why goes to `missed`.
    """
    yield repository.card_name
    seen: set[int] = set()
    for row in repository.images():
        yield repository.image_name(row.image)
        try:
            stored = load_pinned(repository, row.image, pins)
            refs = [ref for layer in stored.manifest.layers for ref in layer]
            for ref in refs:
                if _is_new(seen, ref.digest):
                    yield repository.map_name(ref.digest)
                    segment = repository.segment(ref, stored.manifest.server_id)
                    packs = set(segment.packs)
                    yield from (repository.pack_name(pack) for pack in packs if _is_new(seen, pack.hex))
        except RefloatError as error:
            missed.append(f"image {row.image}: {error.message}")
    for folder in ("receipts", "archives", "moved", "lineage"):
        yield from (info.name for info in repository.site.list(f"{repository.prefix}{folder}/"))


@dataclass
class LockReport:
    """Locks of one site as they were found: how many objects were asked, which have none (or one that ended), how many
    are below half their term, when the first ends; `missed`: images that could not be read."""

    site: str
    days: int
    checked: int = 0
    open: list[str] = field(default_factory=list)
    below_half: int = 0
    first_end: datetime | None = None
    missed: list[str] = field(default_factory=list)

    def add(self, name: str, until: datetime | None, now: datetime) -> None:
        """Count one object."""
        self.checked += 1
        if until is None or until <= now:
            self.open.append(name)
            return
        self.below_half += until - now < timedelta(days=self.days) / 2
        self.first_end = until if self.first_end is None else min(until, self.first_end)

    def describe(self) -> str:
        """The report in a line."""
        first = f"the first ends {self.first_end:%Y-%m-%d %H:%M} UTC" if self.first_end else "no lock was found"
        low = f", {self.below_half} below half of {self.days} days" if self.below_half else ""
        not_locked = f", {len(self.open)} not locked" if self.open else ""
        return f"locks at {self.site}: {self.checked} objects{not_locked}{low}; {first}"

    def raise_for_status(self) -> None:
        """PolicyError when something that is needed is not locked."""
        if self.open:
            raise PolicyError(
                f"{len(self.open)} objects at site {self.site} are not locked: {self.open[0]}",
                hint="the next `refloat image` locks them again; docs/sites.md, Object Lock",
            )


def report(repository: Repository, pins: Sequence[KitServer], monitor: Monitor) -> LockReport | None:
    """How long every object that the images need is still locked; None where nothing is to be locked."""
    locks = locks_of(repository.site)
    if locks is None:
        return None
    found = LockReport(repository.site.name, locks.term.days)
    monitor.step(f"locks at site {repository.site.name} are read")
    with ThreadPoolExecutor(_THREADS, "lock") as pool:
        for batch in _batches(needed(repository, pins, found.missed)):
            for name, until in zip(batch, pool.map(locks.until, batch), strict=True):
                found.add(name, until, locks.now())
    return found


def _batches(names: Iterable[str]) -> Iterator[list[str]]:
    them = iter(names)
    while batch := list(islice(them, _BATCH)):
        yield batch


def _is_new(seen: set[int], digest: str) -> bool:
    short = int(digest[:16], 16)
    new = short not in seen
    seen.add(short)
    return new


def _is_due(path: Path, locks: Locks, now: datetime) -> bool:
    try:
        note = msgspec.json.decode(path.read_bytes(), type=_Note)
    except (OSError, msgspec.MsgspecError):
        return True
    age = now - note.renewed.astimezone(UTC)
    # a day of grace: tomorrow's run may come late
    return (note.days, note.mode) != (locks.term.days, locks.mode) or not (
        -timedelta(days=1) <= age < locks.term / 2 - timedelta(days=1)
    )


def renew_all(repositories: Iterable[Repository], keys: ServerKeys, state: Path, monitor: Monitor) -> None:
    """Renew at each of these sites. An image is not worse for a lock that could not be renewed: that is warned of."""
    pin = KitServer(name=keys.name, id=keys.server_id.hex(), fingerprint=keys.fingerprint)
    for repository in repositories:
        try:
            renew(repository, pin, state, monitor)
        except RefloatError as error:
            monitor.warn(f"locks at site {repository.site.name} were not renewed: {error.message}")
