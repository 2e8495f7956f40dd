"""A kit's receipt: what it holds, without a secret, so that servers can say when the kit has become too old.

Written beside the kit; a copy lies on each server. Values and pure functions; may import `appliance.kit`,
`appliance.check`, `appliance.config`, `core`.
"""

from __future__ import annotations

import hashlib
from datetime import datetime

import msgspec

from appliance.check import Finding, fail, ok, warn
from appliance.config import Config
from appliance.kit import Kit, KitServer, KitSite, Line, Name, Time, stamp
from core.errors import FormatError, VersionError

VERSION = 1
_SUBJECT = "recovery kit"


class SiteFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A site in the kit. `tokens`: each credential's name and the start of its SHA-256."""

    name: Name
    country: str
    url: Line
    addresses: tuple[Line, ...] = ()
    pins: tuple[Line, ...] = ()
    tokens: dict[Line, Line] = {}

    def without_secrets(self) -> KitSite:
        """As much of the kit's entry as a receipt tells."""
        return KitSite(name=self.name, country=self.country, url=self.url, addresses=self.addresses, pins=self.pins)


class Receipt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`kit_digest`: SHA-256 of the kit file's text; `opened_at`: when somebody last proved to know the passphrase."""

    refloat: str = "kit-receipt"
    version: int = VERSION
    kit_digest: str
    created_at: Time
    updated_at: Time
    opened_at: Time | None = None
    recipients: tuple[Line, ...] = ()
    servers: tuple[KitServer, ...] = ()
    sites: tuple[SiteFacts, ...] = ()


class _Head(msgspec.Struct):
    refloat: str
    version: int


def receipt_of(kit: Kit, text: str, *, opened: datetime | None = None) -> Receipt:
    """The receipt of a kit that lies sealed in `text`."""
    return Receipt(
        kit_digest=hashlib.sha256(text.encode()).hexdigest(),
        created_at=kit.created_at,
        updated_at=kit.updated_at,
        opened_at=stamp(opened) if opened else None,
        recipients=kit.recipients,
        servers=kit.servers,
        sites=tuple(
            SiteFacts(
                name=site.name,
                country=site.country,
                url=site.url,
                addresses=site.addresses,
                pins=site.pins,
                tokens={name: token_id(secret) for name, secret in site.credentials.items()},
            )
            for site in kit.sites
        ),
    )


def token_id(secret: str) -> str:
    """What a credential is called in public: enough to see that it changed, useless to use it."""
    return hashlib.sha256(secret.encode()).hexdigest()[:16]


def encode_receipt(receipt: Receipt) -> bytes:
    """The receipt file: indented JSON."""
    return msgspec.json.format(msgspec.json.encode(receipt), indent=1) + b"\n"


def decode_receipt(data: bytes) -> Receipt:
    """The receipt in a file. FormatError or VersionError."""
    try:
        head = msgspec.json.decode(data, type=_Head)
        if head.refloat != "kit-receipt":
            raise FormatError(
                "not a recovery kit's receipt", hint="it is the file KIT.receipt that `refloat kit new` writes"
            )
        if head.version != VERSION:
            raise VersionError(
                f"a kit receipt of version {head.version}", hint="use the Refloat that made it, or a later one"
            )
        return msgspec.json.decode(data, type=Receipt)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"the kit's receipt has a wrong form: {error}") from error


def compare_kit(receipt: Receipt, config: Config, server: KitServer | None) -> list[Finding]:
    """Whether the kit holds everything this server's restore would need. `server` None: it has no keys yet."""
    found = [*_recipients(receipt, config), *_sites(receipt, config)]
    if server is not None and server not in receipt.servers:
        found.append(
            fail(
                _SUBJECT,
                f"older than this server's keys ({server.fingerprint})",
                f"refloat kit add KIT --server {server}",
            )
        )
    if receipt.opened_at is None:
        hint = "`refloat kit open KIT` once, where the passphrase is kept, and copy KIT.receipt here again"
        found.append(warn(_SUBJECT, "nobody has opened it since it was written", hint))
    return found or [ok(_SUBJECT, f"of {receipt.updated_at}, opened {receipt.opened_at}: holds what a restore needs")]


def _recipients(receipt: Receipt, config: Config) -> list[Finding]:
    missing = [each for each in config.recipients if each not in receipt.recipients]
    if config.recipients and len(missing) == len(config.recipients):
        hint = "put the kit's recipient into the configuration, or name the receipt of the right kit"
        return [fail(_SUBJECT, "it opens none of the images: it is older than every recipient configured", hint)]
    return [warn(_SUBJECT, f"it does not hold recipient {each}", "fine if another kit does") for each in missing]


def _sites(receipt: Receipt, config: Config) -> list[Finding]:
    found = []
    held = {site.name: site for site in receipt.sites}
    for site in config.sites:
        known = held.get(site.name)
        if known is None:
            found.append(fail(_SUBJECT, f"older than site {site.name}", "refloat kit add KIT --config FILE"))
        elif (known.url, known.country) != (site.url, site.country):
            message = f"site {site.name} has moved: {known.url} ({known.country}) → {site.url} ({site.country})"
            found.append(fail(_SUBJECT, message, "refloat kit add KIT --config FILE"))
    return found
