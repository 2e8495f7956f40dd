"""What a site holds of a server, as the policy needs it: each image with the time the site received it, and whether it
can be counted on. Without keys. May import `appliance`, `imager`, `core`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from appliance.catalog import load_pinned
from appliance.kit import KitServer
from appliance.retention.policy import Candidate, State
from appliance.retention.records import ALL, Records, Trash
from core.errors import CorruptError, ObjectMissingError, RefloatError, TrustError, VersionError
from imager.repository.manifest import MANIFEST_MAX, SegmentRef
from imager.repository.segments import digest_of
from imager.repository.store import ImageRow, Repository, StoredImage

#: What is wrong with an object; any other error is of the site, and ends what was begun.
WRONG = (CorruptError, ObjectMissingError, TrustError, VersionError)


@dataclass(frozen=True)
class Held:
    """One image at a site. `digest` of its manifest object, empty where that cannot be read; `error` why it cannot be
    used; `arrived` when the site got the object, `candidate.received` what the receipt says."""

    candidate: Candidate
    digest: str
    arrived: datetime
    server_id: bytes = b""
    segments: tuple[SegmentRef, ...] = ()
    error: RefloatError | None = None

    @property
    def image(self) -> str:
        return self.candidate.image


@dataclass(frozen=True)
class Holdings:
    """All of a server at a site."""

    images: list[Held]
    trash: list[Trash] = field(default_factory=list)

    @property
    def candidates(self) -> list[Candidate]:
        return [each.candidate for each in self.images]

    @property
    def newest_good(self) -> datetime | None:
        """When the newest good image was received."""
        return max((each.received for each in self.candidates if each.state is State.GOOD), default=None)

    def thrown(self) -> Iterator[tuple[Trash, str, str, bool]]:
        """(decision, image, digest, dropped) of every image in the trash, oldest decision first."""
        for trash in sorted(self.trash, key=lambda each: each.received):
            for going in trash.images:
                yield trash, going.image, going.digest, going.dropped


def holdings(repository: Repository, pins: Sequence[KitServer]) -> Holdings:
    """Ask a site. `pins`: who may have signed; none: who signed `server.json`, which a server cannot exchange."""
    records = Records(repository)
    kept, leases, receipts = records.pins(), records.leases(), records.receipts()
    trash = records.trash()
    rows = repository.images()
    sizes = {info.name.rsplit("/", 1)[1]: info.size_bytes for info in repository.site.list(f"{repository.prefix}maps/")}
    signer = None if pins or not rows else _signer(repository)
    found = []
    for row in rows:
        stored, error = _judge(repository, row.image, pins, signer)
        received = row.received
        if stored is not None and row.image in receipts:
            try:
                digest, received = records.receipt(receipts[row.image])
                if digest != stored.digest:
                    raise TrustError(f"the receipt of image {row.image} is of another manifest")
            except WRONG as wrong:
                error, received = error or wrong, row.received
        if stored is None:
            found.append(Held(_candidate(row, received, State.DOUBTFUL, kept, leases), "", row.received, error=error))
            continue
        refs = tuple(ref for layer in stored.manifest.layers for ref in layer)
        whole = stored.manifest.state == "complete" and all(sizes.get(ref.digest) == ref.size_bytes for ref in refs)
        state = State.DOUBTFUL if error else State.GOOD if whole else State.DAMAGED
        candidate = _candidate(row, received, state, kept, leases)
        found.append(Held(candidate, stored.digest, row.received, stored.manifest.server_id, refs, error))
    return Holdings(found, trash)


def _judge(
    repository: Repository, image: str, pins: Sequence[KitServer], signer: str | None
) -> tuple[StoredImage | None, RefloatError | None]:
    """An image and what speaks against it. One that somebody else signed is read all the same: what it names is not
    to be deleted for that, for it may be the pin that is wrong."""
    try:
        return (load_pinned(repository, image, pins) if pins else repository.load(image, signer)), None
    except WRONG as error:
        try:
            return repository.load(image, None), error
        except WRONG:
            return None, error


def digest_at(repository: Repository, image: str) -> str:
    """The digest of whatever lies at an image's name; empty where it cannot be read."""
    try:
        name = repository.image_name(image)
        return "" if repository.site.stat(name).size_bytes > MANIFEST_MAX else digest_of(repository.site.get(name))
    except (CorruptError, ObjectMissingError):
        return ""


def _candidate(
    row: ImageRow, received: datetime, state: State, kept: set[str], leases: dict[str, datetime]
) -> Candidate:
    until = max((leases[each] for each in (row.image, ALL) if each in leases), default=None)
    return Candidate(row.image, received, state, row.image in kept, until)


def _signer(repository: Repository) -> str:
    return repository.card()[1]
