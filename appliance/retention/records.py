"""What the operator's side of a site says of a server's images: pins, leases, receipts, the trash, the site's clock
(`docs/format.md`). Parsing is hostile-input parsing. May import `imager`, `core`.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import msgspec

from core.errors import FormatError, ObjectMissingError, VersionError
from imager.repository.store import Repository, blamed
from imager.sites.base import ObjectInfo
from imager.volumes import TIME

OBJECT_MAX = 1 << 20
#: A lease holds no longer than this after the site received it, whatever it says: who may restore must not be able to
#: keep images for ever.
LEASE_MAX = timedelta(days=14)
ALL = "*"
_VERSION = 1


class _Record(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    refloat: str
    version: int


class Receipt(_Record, forbid_unknown_fields=True, frozen=True):
    """When a site received a manifest, and which; `received` is RFC 3339."""

    image: str
    digest: str
    received: str
    vault: str


class Keep(_Record, forbid_unknown_fields=True, frozen=True):
    """A pin."""

    image: str
    note: str = ""


class Lease(_Record, forbid_unknown_fields=True, frozen=True):
    """A restore under way; `until` is RFC 3339."""

    image: str
    until: str


class Going(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One image of a decision; `digest` is of its manifest object, empty where that could not be read. `dropped`: an
    operator named it, policy has no say."""

    image: str
    digest: str
    reason: str
    dropped: bool = False


class _Trash(_Record, forbid_unknown_fields=True, frozen=True):
    images: list[Going]


class Trash(msgspec.Struct, frozen=True):
    """A decision at a site: its object, when the site received it, what goes."""

    name: str
    received: datetime
    images: list[Going]


_R = TypeVar("_R", bound=_Record)
_RECEIPT, _LEASE = msgspec.json.Decoder(Receipt), msgspec.json.Decoder(Lease)
_TRASH, _KEEP = msgspec.json.Decoder(_Trash), msgspec.json.Decoder(Keep)


class Records:
    """The records of one server at one site. SiteError where the site does not answer."""

    def __init__(self, repository: Repository) -> None:
        self._repository, self._site, self._prefix = repository, repository.site, repository.prefix

    def clock(self) -> datetime:
        """What time the site has: it is given something, and asked when that came. Needs the right to write."""
        name = f"{self._prefix}clock/{secrets.token_hex(8)}"
        self._site.put(name, [b""])
        try:
            return self._site.stat(name).received
        finally:
            with contextlib.suppress(ObjectMissingError):
                self._site.delete(name)

    def pins(self) -> set[str]:
        """Images that stay; the name of the object alone decides."""
        return {stem for stem, _ in self._below("keep/")}

    def pin(self, image: str, note: str) -> None:
        """Keep an image. ObjectExistsError when it is kept already."""
        self._site.put(f"{self._prefix}keep/{image}.json", [msgspec.json.encode(Keep("keep", _VERSION, image, note))])

    def unpin(self, image: str) -> None:
        """Leave an image to the policy again. ObjectMissingError when it was not kept."""
        self._site.delete(f"{self._prefix}keep/{image}.json")

    def leases(self) -> dict[str, datetime]:
        """Image → until when a restore reads it. A lease that cannot be read holds every image (`ALL`)."""
        found: dict[str, datetime] = {}
        for _, info in self._below("leases/"):
            image, until = ALL, info.received + LEASE_MAX
            with contextlib.suppress(FormatError, VersionError):
                lease = self._read(info, _LEASE, "lease")
                moment = _moment(lease.until)
                image, until = lease.image, min(moment, until)
            found[image] = max(until, found.get(image, until))
        return found

    def lease(self, image: str, until: datetime) -> str:
        """Say that a restore reads an image; returns the lease's name."""
        body = msgspec.json.encode(Lease("lease", _VERSION, image, f"{until.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"))
        name = f"{self._prefix}leases/{secrets.token_hex(8)}.json"
        self._site.put(name, [body])
        return name

    def release(self, name: str) -> None:
        """Take a lease back. ObjectMissingError when it is over and gone."""
        self._site.delete(name)

    def receipts(self) -> dict[str, ObjectInfo]:
        """Image → its receipt's object, unread."""
        return dict(self._below("receipts/"))

    def receipt(self, info: ObjectInfo) -> tuple[str, datetime]:
        """(digest of the manifest, when it came). FormatError or VersionError."""
        found = self._read(info, _RECEIPT, "receipt")
        return found.digest, _moment(found.received)

    def trash(self) -> list[Trash]:
        """All decisions. FormatError or VersionError when one cannot be read: it is not ours to guess."""
        return [
            Trash(info.name, info.received, self._read(info, _TRASH, "trash").images)
            for info in self._site.list(f"{self._prefix}trash/")
        ]

    def throw(self, images: Sequence[Going], now: datetime) -> str:
        """Write a decision; returns its name."""
        name = f"{self._prefix}trash/{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}.json"
        self._site.put(name, [msgspec.json.encode(_Trash("trash", _VERSION, list(images)))])
        return name

    def _below(self, folder: str) -> Iterator[tuple[str, ObjectInfo]]:
        """(stem, object) of what lies in a folder; stems are checked where they must be times."""
        for info in self._site.list(f"{self._prefix}{folder}"):
            stem = info.name.rsplit("/", 1)[1].removesuffix(".json")
            if folder == "leases/" or TIME.fullmatch(stem):
                yield stem, info

    def _read(self, info: ObjectInfo, decoder: msgspec.json.Decoder[_R], kind: str) -> _R:
        with blamed(self._site, info.name):
            if info.size_bytes > OBJECT_MAX:
                raise FormatError(f"too large for a {kind}")
            try:
                found = decoder.decode(self._site.get(info.name))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise FormatError(f"not a {kind}: its JSON has a wrong form") from error
            if found.version != _VERSION:
                raise VersionError(f"{kind} version {found.version} is not known", hint="update this Refloat")
            if found.refloat != kind:
                raise FormatError(f"not a {kind}")
        return found


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is None:
            raise FormatError("a time without its zone")
        return found.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise FormatError("not a time") from error
