"""The kit as files: FILE, FILE.receipt and FILE.html, made and changed together. Secrets pass through memory only.

May import `appliance` (kit, receipt, page, config), `imager.keys`, `core`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from appliance.config import Config, load_config
from appliance.kit import (
    Kit,
    KitServer,
    KitSite,
    check_passphrase,
    extend,
    new_identity,
    new_kit,
    open_kit,
    parse_server,
    seal_kit,
)
from appliance.kitpage import printable
from appliance.receipt import decode_receipt, encode_receipt, receipt_of
from appliance.unlock import read_text
from core.errors import ConfigError, RefloatError
from core.files import replace, write_new
from imager.keys import ServerKeys


@dataclass(frozen=True)
class AdditionOptions:
    """What the command line said: `NAME:ID:FINGERPRINT`, `SITE=ADDRESS`, `SITE=PIN`, `SITE:KEY=FILE`."""

    identity: Path | None = None
    configs: tuple[Path, ...] = ()
    servers: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    pins: tuple[str, ...] = ()
    credentials: tuple[str, ...] = ()


@dataclass(frozen=True)
class Additions:
    """What goes into a kit; `sites` are whole, `details` change sites by name (`addresses`, `pins`, `credentials`)."""

    identities: tuple[str, ...] = ()
    servers: tuple[KitServer, ...] = ()
    sites: tuple[KitSite, ...] = ()
    addresses: tuple[tuple[str, str], ...] = ()
    pins: tuple[tuple[str, str], ...] = ()
    credentials: tuple[tuple[str, str, str], ...] = ()

    @classmethod
    def gather(cls, given: AdditionOptions) -> Additions:
        """Read what the options name. Raises ConfigError."""
        read = [load_config(path) for path in given.configs]
        return cls(
            identities=_identities(given.identity),
            servers=(*map(parse_server, given.servers), *(server for config in read for server in _own(config))),
            sites=tuple(
                KitSite(name=site.name, country=site.country, url=site.url, pins=(site.pin,) if site.pin else ())
                for config in read
                for site in config.sites
            ),
            addresses=tuple(_pair(text, "SITE=ADDRESS") for text in given.addresses),
            pins=tuple(_pair(text, "SITE=PIN") for text in given.pins),
            credentials=tuple(_credential(text) for text in given.credentials),
        )


def refuse_existing(file: Path) -> None:
    """ConfigError when the kit or one of the files beside it exists: a kit is never overwritten by a new one."""
    for path in (file, *_beside(file)):
        if path.exists() or path.is_symlink():
            raise ConfigError(
                f"{path} exists already", hint="`refloat kit add` changes a kit; a new one needs another name"
            )


def create(file: Path, additions: Additions, passphrase: str, now: datetime) -> Kit:
    """Make the kit and write the three files (0600). Raises ConfigError when one exists or cannot be written."""
    check_passphrase(passphrase)
    identities = additions.identities or (new_identity(),)
    kit = _detailed(new_kit(identities, servers=additions.servers, sites=additions.sites, now=now), additions)
    text = seal_kit(kit, passphrase)
    receipt = receipt_of(kit, text)
    contents = (text.encode(), encode_receipt(receipt), printable(text, receipt).encode())
    for path, data in zip((file, *_beside(file)), contents, strict=True):
        try:
            write_new(path, data)
        except FileExistsError as error:
            raise ConfigError(
                f"{path} exists", hint="a kit is never overwritten; `refloat kit add` extends one"
            ) from error
    return kit


def add(file: Path, additions: Additions, passphrase: str, now: datetime) -> Kit:
    """Open, extend and replace the kit and the files beside it; each is replaced in one step, the kit first."""
    old = open_kit(read_text(file, "recovery kit"), passphrase)
    sites = tuple(_kept(old, site) for site in additions.sites)
    kit = extend(old, identities=additions.identities, servers=additions.servers, sites=sites, now=now)
    kit = _detailed(kit, additions)
    text = seal_kit(kit, passphrase)
    receipt = receipt_of(kit, text, opened=now)
    contents = (text.encode(), encode_receipt(receipt), printable(text, receipt).encode())
    for path, data in zip((file, *_beside(file)), contents, strict=True):
        replace(path, data)
    return kit


def note_opened(file: Path, kit: Kit, now: datetime) -> bool:
    """Write into the receipt that the kit was opened; False when there is none of this kit, or it is read-only."""
    path = _beside(file)[0]
    try:
        text = read_text(file, "recovery kit")
        receipt = receipt_of(kit, text, opened=now)
        if decode_receipt(path.read_bytes()).kit_digest != receipt.kit_digest:
            return False
        replace(path, encode_receipt(receipt))
    except (OSError, RefloatError):
        return False
    return True


def _beside(file: Path) -> tuple[Path, Path]:
    return file.with_name(file.name + ".receipt"), file.with_name(file.name + ".html")


def _identities(path: Path | None) -> tuple[str, ...]:
    lines = read_text(path, "identity").splitlines() if path else []
    found = tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    if path and not found:
        raise ConfigError(f"{path} holds no identity", hint="each line begins with AGE-SECRET-KEY-1")
    return found


def _own(config: Config) -> Iterable[KitServer]:
    """The keys of the server the configuration is of, when this is that server."""
    if not ServerKeys.path(config.state_path).exists():
        return ()
    keys = ServerKeys.load(config.state_path)
    if keys.name != config.server:
        return ()
    return (KitServer(name=keys.name, id=keys.server_id.hex(), fingerprint=keys.fingerprint),)


def _kept(kit: Kit, site: KitSite) -> KitSite:
    """A site read from a configuration again keeps what only the kit knows."""
    for old in kit.sites:
        if old.name == site.name:
            pins = tuple(dict.fromkeys((*site.pins, *old.pins)))
            return msgspec.structs.replace(old, country=site.country, url=site.url, pins=pins)
    return site


def _detailed(kit: Kit, additions: Additions) -> Kit:
    """The kit with addresses, pins and credentials put to their sites."""
    sites = {site.name: site for site in kit.sites}
    for name, address in additions.addresses:
        site = _site(sites, name)
        sites[name] = msgspec.structs.replace(site, addresses=tuple(dict.fromkeys((*site.addresses, address))))
    for name, pin in additions.pins:
        site = _site(sites, name)
        sites[name] = msgspec.structs.replace(site, pins=tuple(dict.fromkeys((*site.pins, pin))))
    for name, key, secret in additions.credentials:
        site = _site(sites, name)
        sites[name] = msgspec.structs.replace(site, credentials={**site.credentials, key: secret})
    return msgspec.structs.replace(kit, sites=tuple(sites.values()))


def _site(sites: dict[str, KitSite], name: str) -> KitSite:
    if name not in sites:
        raise ConfigError(f"the kit has no site {name!r}", hint="add it with --config first")
    return sites[name]


def _pair(text: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ConfigError(f"not {form}: {text[:120]!r}")
    return name, value


def _credential(text: str) -> tuple[str, str, str]:
    place, path = _pair(text, "SITE:KEY=FILE")
    name, colon, key = place.partition(":")
    if not (name and colon and key):
        raise ConfigError(f"not SITE:KEY=FILE: {text[:120]!r}")
    return name, key, read_text(Path(path), "credential").strip()
