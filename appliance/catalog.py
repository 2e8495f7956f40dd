"""What images there are, across sites; and opening one for reading. May import `imager`, `core`.

An image is named `SERVER/TIME`, or just `TIME` or `latest` where one server is known. The same TIME at two sites is
one image. An archive, of the second mechanism, is named `SERVER/archives/TIME`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from appliance.kit import KitServer
from appliance.places import open_place
from appliance.unlock import Unlock
from core.errors import ConfigError, KeyMissingError, ObjectMissingError, RefloatError, SiteError, TrustError
from core.monitor import Monitor
from imager.archive.reader import OpenArchive
from imager.archive.store import ArchiveShelf, StoredArchive
from imager.repository.reader import OpenImage
from imager.repository.store import Repository, StoredImage
from imager.sites.wrap import Retry
from imager.volumes import TIME


@dataclass
class ImageEntry:
    """One image of a server. `sites` maps site name → when the site received it; `stored` is a checked manifest."""

    server: str
    image: str
    sites: dict[str, datetime] = field(default_factory=dict)
    stored: StoredImage | None = None
    trouble: list[str] = field(default_factory=list)


@dataclass
class ArchiveEntry:
    """One archive of a server; as ImageEntry."""

    server: str
    image: str
    sites: dict[str, datetime] = field(default_factory=dict)
    stored: StoredArchive | None = None
    trouble: list[str] = field(default_factory=list)


class Catalog:
    """Sites of an Unlock, opened; lives as long as a command. Sites that cannot be reached are warned of and
    skipped."""

    def __init__(self, unlock: Unlock, monitor: Monitor, only: Sequence[str] = ()) -> None:
        self._unlock, self._monitor = unlock, monitor
        chosen = [unlock.site(name) for name in only] if only else list(unlock.sites)
        if not chosen:
            raise ConfigError("no site is known", hint="give --kit, a configuration with sites, or --site NAME=URL")
        self.sites = [Retry(open_place(each)) for each in chosen]

    def servers(self) -> list[str]:
        """Names of the servers that are pinned."""
        return sorted({pin.name for pin in self._unlock.servers})

    def images(self, server: str, *, load: bool = True) -> list[ImageEntry]:
        """All images of a server, oldest first. With `load` each manifest is checked, and what is wrong noted."""
        found: dict[str, ImageEntry] = {}
        answered = 0
        for site in self.sites:
            repository = Repository(site, server)
            try:
                rows = repository.images()
                answered += 1
            except RefloatError as error:
                self._monitor.warn(_with_site(site.name, error))
                continue
            for row in rows:
                entry = found.setdefault(row.image, ImageEntry(server, row.image))
                entry.sites[site.name] = row.received
                if load:
                    self._load(repository, entry)
        if not answered:
            raise SiteError(
                "no site can be reached", hint="check the network and the sites' addresses; `refloat check`"
            )
        return sorted(found.values(), key=lambda each: each.image)

    def _load(self, repository: Repository, entry: ImageEntry) -> None:
        try:
            entry.stored = self.load(repository, entry.image)
        except RefloatError as error:
            entry.trouble.append(error.message)

    def load(self, repository: Repository, image: str) -> StoredImage:
        """The manifest of an image at a site, signed by one of the server's pinned keys."""
        return load_pinned(repository, image, self._unlock.trusted(repository.server))

    def require(self, server: str, image: str) -> None:
        """ObjectMissingError when no site that answers has the image; the hint names the newest ones."""
        known = [entry.image for entry in self.images(server, load=False)]
        if image not in known:
            raise _missing(server, image, known)

    def resolve(self, name: str) -> tuple[str, str]:
        """(server, TIME) of `SERVER/TIME`, `SERVER/latest`, `SERVER`, `TIME` or `latest`. ConfigError when it is
        ambiguous."""
        server, slash, image = name.rpartition("/")
        if not slash and name in self.servers():
            server, image = name, "latest"
        if not server:
            servers = self.servers()
            if len(servers) != 1:
                raise ConfigError(
                    f"{name!r} does not say which server", hint=f"write SERVER/{image}; known are: {', '.join(servers)}"
                )
            server = servers[0]
        self._unlock.trusted(server)
        if image == "latest":
            entries = self.images(server, load=False)
            if not entries:
                raise ObjectMissingError(
                    f"there is no image of {server} at any site", hint="`refloat images` lists what there is"
                )
            return server, entries[-1].image
        if TIME.fullmatch(image) is None:
            raise ConfigError(f"not an image: {name!r}", hint="write SERVER/YYYYMMDDTHHMMSSZ, or SERVER/latest")
        return server, image

    def find(self, name: str) -> tuple[list[Repository], StoredImage]:
        """The image's checked manifest, and every site that has this image, the best one first.

        When none has it whole: ObjectMissingError if it is at none, else the first other error.
        """
        server, image = self.resolve(name)
        good: list[Repository] = []
        stored: StoredImage | None = None
        failures: list[RefloatError] = []
        for site in self.sites:
            repository = Repository(site, server)
            try:
                loaded = self.load(repository, image)
            except RefloatError as error:
                failures.append(error)
                self._monitor.warn(_with_site(site.name, error))
                continue
            if stored is None:
                stored = loaded
            # The same run may have been stored against another parent elsewhere: packs of one are then no help to
            # the other.
            if loaded.manifest.keys.keys() & stored.manifest.keys.keys():
                good.append(repository)
        if stored is None:
            for failure in failures:
                if not isinstance(failure, ObjectMissingError):
                    raise failure
            self.require(server, image)
            raise failures[0]
        return good, stored

    def open(self, name: str) -> OpenImage:
        """The image, ready to be read. KeyMissingError when no identity was given or none fits."""
        if self._unlock.identities is None:
            raise KeyMissingError("nothing was given that opens the image", hint="give --kit FILE, or --identity FILE")
        sites, stored = self.find(name)
        return OpenImage(sites, stored, self._unlock.identities)

    # -- archives ---------------------------------------------------------------------------------------------------

    def archives(self, server: str, *, load: bool = True) -> list[ArchiveEntry]:
        """All archives of a server, oldest first. Sites that cannot be reached are warned of by `images`."""
        found: dict[str, ArchiveEntry] = {}
        for site in self.sites:
            shelf = ArchiveShelf(site, server)
            try:
                rows = shelf.archives()
            except RefloatError:
                continue
            for row in rows:
                entry = found.setdefault(row.image, ArchiveEntry(server, row.image))
                entry.sites[site.name] = row.received
                try:
                    entry.stored = self._load_archive(shelf, row.image) if load else None
                except RefloatError as error:
                    entry.trouble.append(error.message)
        return sorted(found.values(), key=lambda each: each.image)

    def open_any(self, name: str) -> OpenImage | OpenArchive:
        """An image, or an archive: `SERVER/archives/TIME`, `SERVER/archives/latest`, or a TIME that only an archive
        has. Raises as `open`."""
        head, _, time = name.rpartition("/")
        if head.endswith("/archives"):
            return self._open_archive(head.removesuffix("/archives"), time)
        try:
            return self.open(name)
        except ObjectMissingError:
            server, _, time = name.rpartition("/")
            if server and any(each.image == time for each in self.archives(server, load=False)):
                return self._open_archive(server, time)
            raise

    def _open_archive(self, server: str, time: str) -> OpenArchive:
        if self._unlock.identities is None:
            raise KeyMissingError(
                "nothing was given that opens the archive", hint="give --kit FILE, or --identity FILE"
            )
        known = [each.image for each in self.archives(server, load=False)]
        time = known[-1] if known and time == "latest" else time
        if time not in known:
            raise ObjectMissingError(
                f"there is no archive {server}/archives/{time} at any site", hint="`refloat images` lists what there is"
            )
        stored, shelves = self._find_archive(server, time, "")
        base = stored.description.base
        if base is None:
            return OpenArchive(shelves, stored, None, self._unlock.identities)
        full, more = self._find_archive(server, base.image, base.sums)
        named = {each.site.name: each for each in [*shelves, *more]}
        return OpenArchive(list(named.values()), stored, full, self._unlock.identities)

    def _find_archive(self, server: str, time: str, digest: str) -> tuple[StoredArchive, list[ArchiveShelf]]:
        """The archive and the sites that have it, one and the same (of this digest, where one is given)."""
        stored: StoredArchive | None = None
        good, failures = [], list[RefloatError]()
        for site in self.sites:
            shelf = ArchiveShelf(site, server)
            try:
                found = self._load_archive(shelf, time)
            except RefloatError as error:
                failures.append(error)
                continue
            if found.digest == (digest or (stored.digest if stored else found.digest)):
                stored = stored or found
                good.append(shelf)
        if stored is None:
            telling = [each for each in failures if not isinstance(each, ObjectMissingError)]
            raise (telling or failures or [_missing_full(server, time)])[0]
        return stored, good

    def _load_archive(self, shelf: ArchiveShelf, image: str) -> StoredArchive:
        failures: list[TrustError] = []
        for pin in self._unlock.trusted(shelf.server):
            try:
                stored = shelf.load(image, pin.fingerprint)
            except TrustError as error:
                failures.append(error)
                continue
            if stored.description.server.id == pin.id:
                return stored
            failures.append(TrustError(f"archive {image} at site {shelf.site.name} is of another server of that name"))
        raise failures[0]


def _missing_full(server: str, image: str) -> ObjectMissingError:
    return ObjectMissingError(
        f"the full {server}/archives/{image} that the archive needs is at no site, or another one has its name",
        hint="take another archive or image; `refloat images` lists them",
    )


def load_pinned(repository: Repository, image: str, pins: Sequence[KitServer]) -> StoredImage:
    """The manifest of an image, signed by one of these keys and of the server that is pinned with it.

    TrustError when it is by none of them.
    """
    failures: list[TrustError] = []
    for pin in pins:
        try:
            stored = repository.load(image, pin.fingerprint)
            _require_id(stored, pin, repository)
            return stored
        except TrustError as error:
            failures.append(error)
    raise failures[0]


def _missing(server: str, image: str, known: Sequence[str]) -> ObjectMissingError:
    newest = ", ".join(f"{server}/{each}" for each in known[:-4:-1])
    return ObjectMissingError(
        f"there is no image {server}/{image} at any site",
        hint=f"the newest are {newest}; `refloat images` lists all" if newest else f"no site has any of {server}",
        server=server,
        image=image,
    )


def _with_site(name: str, error: RefloatError) -> str:
    """The error's message, told with the site; many say it themselves."""
    said = error.message.startswith((f"{name}:", f"site {name}:")) or f"at site {name}:" in error.message
    return error.message if said else f"site {name}: {error.message}"


def _require_id(stored: StoredImage, pin: KitServer, repository: Repository) -> None:
    """A pin is a key and an id: keys may be copied to a clone, which then is another server."""
    found, name = stored.manifest.server.id, repository.image_name(stored.manifest.image)
    if found != pin.id:
        raise TrustError(
            f"{name} at site {repository.site.name}: it is of the server with id {found}, {pin.id} is pinned",
            hint="compare `refloat keys show` on the server with the kit; a pin is copied whole, never put together",
            site=repository.site.name,
            object=name,
            problem=f"it is of the server with id {found}, {pin.id} is pinned",
        )
