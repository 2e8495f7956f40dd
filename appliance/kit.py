"""The recovery kit: one passphrase-sealed file that opens a whole fleet's images when nothing else is left.

It holds the identities, the servers' signing fingerprints (restores trust these over anything a site says) and the
sites with what is needed to read from them. Values and pure functions; may import `appliance.seal`, `imager.keys`,
`core`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import msgspec
import pyrage

from appliance.seal import TEXT_MAX, WORK, armor, dearmor, normal, seal, unseal
from core.errors import ConfigError, FormatError, KeyMissingError, VersionError
from core.settings import NAME_PATTERN
from imager.keys import Identities

VERSION = 1
PASSPHRASE_MIN = 12

Name = Annotated[str, msgspec.Meta(pattern=f"^{NAME_PATTERN}\\Z")]
Time = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")]
ServerId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
Fingerprint = Annotated[str, msgspec.Meta(pattern=r"^SHA256:[A-Za-z0-9+/]{43}\Z")]
Line = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f]{0,1000}\Z")]


class KitServer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A server whose signature is trusted: its name, its id (hex) and its signing key's fingerprint."""

    name: Name
    id: ServerId
    fingerprint: Fingerprint

    def __str__(self) -> str:
        return f"{self.name}:{self.id}:{self.fingerprint}"


class KitSite(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A site: where it is (`addresses` for when names do not resolve), what it must prove (`pins` of its CA or
    key), and the credentials that read from it."""

    name: Name
    country: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{2}\Z")]
    url: Line
    addresses: tuple[Line, ...] = ()
    pins: tuple[Line, ...] = ()
    credentials: dict[Line, Line] = {}


class Kit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is sealed. `recipients` are the public halves of `identities`, in order; times are UTC."""

    refloat: str = "kit"
    version: int = VERSION
    created_at: Time
    updated_at: Time
    identities: tuple[Line, ...]
    recipients: tuple[Line, ...]
    servers: tuple[KitServer, ...] = ()
    sites: tuple[KitSite, ...] = ()

    def keys(self) -> Identities:
        """The identities, ready to open sealed keys."""
        return Identities.parse("\n".join(self.identities))


class _Version(msgspec.Struct):
    refloat: str
    version: int


def new_identity() -> str:
    """A fresh age identity (`AGE-SECRET-KEY-1…`)."""
    return str(pyrage.x25519.Identity.generate())


def new_kit(
    identities: Sequence[str], *, servers: Sequence[KitServer] = (), sites: Sequence[KitSite] = (), now: datetime
) -> Kit:
    """A kit with these identities. Raises KeyMissingError when one is none."""
    return extend(
        Kit(created_at=stamp(now), updated_at=stamp(now), identities=(), recipients=()),
        identities=identities, servers=servers, sites=sites, now=now,
    )  # fmt: skip


def extend(
    kit: Kit,
    *,
    identities: Sequence[str] = (),
    servers: Sequence[KitServer] = (),
    sites: Sequence[KitSite] = (),
    now: datetime,
) -> Kit:
    """The kit with these added. A site of the same name is replaced; a server of the same name with other keys stands
    beside the old one, whose images it must still open."""
    secrets = tuple(dict.fromkeys((*kit.identities, *identities)))
    by_name = {site.name: site for site in kit.sites} | {site.name: site for site in sites}
    return msgspec.structs.replace(
        kit,
        updated_at=stamp(now),
        identities=secrets,
        recipients=recipients_of(secrets),
        servers=tuple(dict.fromkeys((*kit.servers, *servers))),
        sites=tuple(by_name.values()),
    )


def recipients_of(identities: Sequence[str]) -> tuple[str, ...]:
    """The public halves, in order. KeyMissingError when one is no identity."""
    return tuple(str(secret.to_public()) for text in identities for secret in Identities.parse(text).secrets)


def seal_kit(kit: Kit, passphrase: str, *, work: int = WORK) -> str:
    """The kit file's text; it has been opened again (by another implementation of age) before this returns."""
    check_passphrase(passphrase)
    text = armor(seal(msgspec.json.encode(kit), passphrase, work=work))
    if len(text) > TEXT_MAX:
        raise ConfigError("the recovery kit would be larger than 1 MiB", hint="make one kit for each part of the fleet")
    if open_kit(text, passphrase) != kit:
        raise FormatError(
            "the sealed recovery kit does not read back as it was", hint="nothing was written; please report it"
        )
    return text


def open_kit(text: str, passphrase: str) -> Kit:
    """The kit in this text. FormatError, VersionError, or KeyMissingError on a wrong passphrase."""
    return decode_kit(unseal(dearmor(text), passphrase))


def decode_kit(plain: bytes) -> Kit:
    """The kit in this JSON; everything in it is checked. FormatError or VersionError."""
    try:
        head = msgspec.json.decode(plain, type=_Version)
        if head.refloat != "kit":
            raise FormatError("sealed, but not a recovery kit")
        if head.version != VERSION:
            raise VersionError(
                f"a recovery kit of version {head.version}", hint="use the Refloat that made it, or a later one"
            )
        kit = msgspec.json.decode(plain, type=Kit)
        if not kit.identities or recipients_of(kit.identities) != kit.recipients:
            raise FormatError("the recovery kit's recipients are not those of its identities")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"the recovery kit has a wrong form: {error}") from error
    except KeyMissingError as error:
        raise FormatError("the recovery kit holds something that is no identity") from error
    return kit


def check_passphrase(passphrase: str) -> str:
    """The passphrase, if it is long enough to withstand guessing with the file in hand. Raises ConfigError."""
    if len(normal(passphrase)) < PASSPHRASE_MIN:
        raise ConfigError(
            f"the passphrase is shorter than {PASSPHRASE_MIN} characters",
            hint="take five random words; whoever has the file can guess",
        )
    return passphrase


def gaps(kit: Kit) -> list[str]:
    """What a kit that was just made lacks for a restore from it alone, in words."""
    lacks = []
    if not kit.sites:
        lacks.append(
            "the kit names no site: it will not say where the images are; `refloat kit add --config` adds them"
        )
    if not kit.servers:
        lacks.append("the kit pins no server: it will trust no image; `refloat kit add --server` adds each")
    return lacks


def parse_server(text: str) -> KitServer:
    """A `NAME:ID:FINGERPRINT` as `refloat keys show` prints it. Raises ConfigError."""
    parts = text.strip().split(":", 2)
    try:
        return msgspec.convert(dict(zip(("name", "id", "fingerprint"), parts, strict=False)), KitServer)
    except msgspec.ValidationError as error:
        hint = "it is NAME:ID:SHA256:…, as `refloat keys show` prints it on the server"
        raise ConfigError(f"not a server's pin: {text[:120]!r}", hint=hint) from error


def stamp(now: datetime) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
