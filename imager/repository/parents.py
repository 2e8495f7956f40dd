"""What a site already has when a run begins: the newest image that can serve as parent, and what killed runs left
durable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import msgspec

from core.errors import CorruptError, ObjectMissingError, SiteError, TrustError, VersionError
from core.files import replace
from core.monitor import Monitor
from imager.keys import ServerKeys
from imager.repository.journal import Journal
from imager.repository.lineage import SiteState
from imager.repository.segments import Segment
from imager.repository.store import Repository, StoredImage

_FORMAT = "%Y%m%dT%H%M%SZ"


class _Seen(msgspec.Struct):
    """The newest image this server committed at a site, by its own memory."""

    image: str
    digest: str


_DECODE_ATTEMPTS = msgspec.json.Decoder(list[str])
_ATTEMPTS_KEPT = 32
#: A file in the state folder: see `adopt`.
ADOPT = "adopt"
_DECODE_SEEN = msgspec.json.Decoder(_Seen)  # sites are asked by a thread each; see `manifest`


def survey(
    repository: Repository, keys: ServerKeys, state: Path, journals: Sequence[Journal], monitor: Monitor
) -> SiteState:
    """Ask a site what it has. Damage and loss there only make the next image larger.

    SiteError when it cannot be asked, or is empty although this server committed there: a mount that is missing looks
    like that. TrustError when its prefix belongs to another server of the same name, or another server uses these keys.
    """
    site = repository.site.name
    rows = repository.images()
    names = [row.image for row in rows]
    seen = _read_seen(state, site)
    if seen is not None and not names:
        raise SiteError(
            f"site {site} is empty, but image {seen.image} was committed there",
            hint=f"is it mounted? If it was really lost or replaced, delete {_seen_path(state, site)} and run again",
        )
    if seen is not None and names[-1] < seen.image:
        monitor.warn(
            f"site {site} shows an older state than before: {seen.image} was committed there, its newest now is "
            f"{names[-1]}; it was rolled back or lost images"
        )
    parent, lost = _newest_usable(repository, keys, names, seen, monitor)
    if parent is not None and seen is not None:
        _refuse_another_writer(parent.manifest.image, seen.image, site, state)
    _check_card(repository, keys, monitor, known=parent is not None or seen is not None)
    found: list[tuple[Journal, frozenset[str]]] = []
    for journal in journals:
        if parent is not None and journal.key_id.hex() in parent.manifest.keys:
            continue  # that run was committed here; its journal has nothing to add
        # What came before the newest image and is in none may be taken away any moment (docs/keeping.md).
        since = max((row.received for row in rows), default=None)
        packs = frozenset(ref.hex for ref in journal.refs(site) if repository.has_pack(ref, since))
        if packs:
            found.append((journal, packs))
    return SiteState(site, repository, parent, found, tuple(names), lost, repository.site.place())


def _check_card(repository: Repository, keys: ServerKeys, monitor: Monitor, *, known: bool) -> None:
    """Whose prefix it is. Where this server has images (`known`), a wrong card is vandalism: no reason to stop."""
    try:
        card, signer = repository.card()
    except ObjectMissingError:
        return
    except (CorruptError, TrustError, VersionError) as error:
        monitor.warn(error.message)
        return
    if (card.id, signer) == (keys.server_id.hex(), keys.fingerprint):
        return
    problem = f"{repository.card_name} at site {repository.site.name} is of another server of this name ({signer})"
    if known:
        monitor.warn(problem)
    else:
        raise TrustError(
            problem,
            hint="give this server a name of its own (also when its keys were made anew: a name belongs to one key)",
        )


def _newest_usable(
    repository: Repository, keys: ServerKeys, names: Sequence[str], seen: _Seen | None, monitor: Monitor
) -> tuple[StoredImage | None, frozenset[bytes]]:
    """The newest image whose manifest and map are whole, and the digests of packs it names that are gone."""
    for image in reversed(names):
        try:
            stored = repository.load(image, keys.fingerprint)
            if stored.manifest.server_id != keys.server_id:
                raise TrustError("it was made under another server id")
            if seen is not None and seen.image == image and seen.digest != stored.digest:
                raise TrustError(
                    "it is signed by this server, but is not what this server committed; is the server cloned?"
                )
            for _ in _segments(repository, stored):
                pass
        except (CorruptError, TrustError, VersionError, ObjectMissingError) as error:
            monitor.warn(f"image {image} at site {repository.site.name} cannot serve as parent: {error.message}")
            continue
        lost = repository.lost(partial(_segments, repository, stored))
        if lost:
            monitor.warn(
                f"{len(lost)} packs of image {image} are gone at site {repository.site.name}: what they held is stored "
                "anew now; images before this one stay damaged there, `refloat verify` names them"
            )
        return stored, lost
    return None, frozenset()


def _segments(repository: Repository, stored: StoredImage) -> Iterator[Segment]:
    manifest = stored.manifest
    return (repository.segment(ref, manifest.server_id) for layer in manifest.layers for ref in layer)


def next_image_name(states: Sequence[SiteState], now: datetime) -> str:
    """A name for the image: the time, but later than every parent, so that a clock that jumped back does no harm.

    Of names that a site only lists, none is taken twice; that they come later says nothing, for a site can list any.
    """
    newest = max((state.parent.manifest.image for state in states if state.parent), default="")
    listed = {image for state in states for image in state.images}
    name = now.astimezone(UTC).strftime(_FORMAT)
    while name <= newest or name in listed:
        after = datetime.strptime(max(name, newest), _FORMAT).replace(tzinfo=UTC) + timedelta(seconds=1)
        name = after.strftime(_FORMAT)
    return name


def remember_commit(state: Path, site: str, image: str, digest: str) -> None:
    """Note what was committed where, to notice a site that shows less the next time."""
    folder = state / "sites"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for torn in folder.glob(f".{site}.json.*.new"):  # of a run that was killed here
        torn.unlink(missing_ok=True)
    replace(_seen_path(state, site), msgspec.json.encode(_Seen(image, digest)))


def remember_attempt(state: Path, image: str) -> None:
    """Note the name of an image before anything is frozen: the note is then in the image itself, so that a server
    restored from it knows the image for its own; and a run that was killed after its commit does, too."""
    for torn in state.glob(".attempts.json.*.new"):  # of a run that was killed here
        torn.unlink(missing_ok=True)
    tried = [*_attempts(state), image][-_ATTEMPTS_KEPT:]
    replace(state / "attempts.json", msgspec.json.encode(tried))
    (state / ADOPT).unlink(missing_ok=True)


def adopt(state: Path) -> None:
    """The next run goes on from whatever is newest at the sites: this server was restored, the old one is gone."""
    replace(state / ADOPT, b"")


def _refuse_another_writer(newest: str, seen: str, site: str, state: Path) -> None:
    """Images that this server's keys signed and this server did not make: a clone, or the old server still running."""
    if newest > seen and newest not in _attempts(state) and not (state / ADOPT).exists():
        raise TrustError(
            f"image {newest} at site {site} was made with this server's keys, but not by this server",
            hint="is the old server, or a clone, still running? Two must not write one history: stop it. If this "
            "server was restored from an older image: refloat release --adopt",
        )


def _attempts(state: Path) -> list[str]:
    try:
        return _DECODE_ATTEMPTS.decode((state / "attempts.json").read_bytes())
    except (OSError, msgspec.MsgspecError):
        return []


def _seen_path(state: Path, site: str) -> Path:
    return state / "sites" / f"{site}.json"


def _read_seen(state: Path, site: str) -> _Seen | None:
    try:
        return _DECODE_SEEN.decode(_seen_path(state, site).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError):
        return None  # a hint only; the site's own signed images decide


def sweep_cache(folder: Path, states: Sequence[SiteState]) -> None:
    """Drop cached map segments that no parent lists, and torn temporary files."""
    wanted = {ref.digest for each in states if each.parent for layer in each.parent.manifest.layers for ref in layer}
    for path in folder.iterdir():
        if path.name not in wanted:
            path.unlink(missing_ok=True)
