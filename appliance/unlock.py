"""What opens images and says whom to trust: from a recovery kit, or from the configuration and an identity file.

An Unlock lives as long as a command and is never written anywhere. May import `appliance.kit`, `appliance.config`,
`imager.keys`, `core`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from appliance.config import Config
from appliance.kit import Kit, KitServer, KitSite, open_kit, parse_server
from appliance.places import kit_site
from appliance.seal import TEXT_MAX
from core.errors import ConfigError, KeyMissingError, TrustError
from imager.keys import Identities, ServerKeys

_PASSPHRASE_MAX = 4096


@dataclass(frozen=True)
class UnlockOptions:
    """What the command line said. `servers` are pins `NAME:ID:FINGERPRINT`, `sites` places `NAME=URL`."""

    kit: Path | None = None
    identity: Path | None = None
    passphrase_file: Path | None = None
    passphrase_fd: int | None = None
    servers: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unlock:
    """Identities (None: data cannot be opened, only checked), trusted servers, and the sites to look at."""

    identities: Identities | None = field(repr=False)
    servers: tuple[KitServer, ...]
    sites: tuple[KitSite, ...]

    def trusted(self, server: str) -> tuple[KitServer, ...]:
        """The pins of this server, at least one. Raises TrustError."""
        found = tuple(pin for pin in self.servers if pin.name == server)
        if not found:
            known = ", ".join(sorted({pin.name for pin in self.servers})) or "none"
            raise TrustError(
                f"no signing key is pinned for server {server!r} (pinned are: {known})",
                hint="use a kit that holds the server, or --server-pin NAME:ID:FINGERPRINT",
            )
        return found

    def site(self, name: str) -> KitSite:
        """The site of that name. Raises ConfigError."""
        for site in self.sites:
            if site.name == name:
                return site
        raise ConfigError(
            f"no site is called {name!r}", hint=f"known are: {', '.join(each.name for each in self.sites) or 'none'}"
        )


def open_unlock(
    options: UnlockOptions, config: Callable[[], Config | None], *, need_identity: bool, ask: Callable[[], str]
) -> Unlock:
    """Read the kit or the identity file; `config` gives the configuration, `ask` the passphrase when no option does.

    Raises KeyMissingError when `need_identity` and there is none.
    """
    if options.kit is not None and options.identity is not None:
        raise ConfigError("--kit and --identity exclude each other", hint="the kit holds its own identities")
    kit = read_kit(options.kit, read_passphrase(options, ask)) if options.kit is not None else None
    given = config()
    identities = kit.keys() if kit else _identities(options.identity)
    if identities is None and need_identity:
        raise KeyMissingError("nothing was given that opens the images", hint="give --kit FILE, or --identity FILE")
    servers = tuple(parse_server(text) for text in options.servers)
    sites = _merge(kit.sites if kit else (), _sites_of(given))
    return Unlock(
        identities, (*(kit.servers if kit else ()), *_own(given, kit), *servers), _placed(sites, options.sites)
    )


def read_kit(path: Path, passphrase: str) -> Kit:
    """The kit in a file."""
    return open_kit(read_text(path, "recovery kit"), passphrase)


def read_passphrase(options: UnlockOptions, ask: Callable[[], str]) -> str:
    """The first line of the given file or descriptor, else what `ask` returns."""
    if options.passphrase_file is not None and options.passphrase_fd is not None:
        raise ConfigError("the passphrase is given twice: as a file and as a descriptor")
    if options.passphrase_file is not None:
        return read_text(options.passphrase_file, "passphrase", _PASSPHRASE_MAX).partition("\n")[0].removesuffix("\r")
    if options.passphrase_fd is not None:
        return _read_descriptor(options.passphrase_fd)
    return ask()


def read_text(path: Path, what: str, limit: int = TEXT_MAX) -> str:
    """A small text file. Raises ConfigError naming `what` it should have been."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise ConfigError(f"{path} is larger than {limit} bytes: not a {what}")
        return data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the {what} {path} cannot be read: {error}") from error


def _read_descriptor(descriptor: int) -> str:
    data = b""
    try:
        while b"\n" not in data and len(data) <= _PASSPHRASE_MAX and (more := os.read(descriptor, 1024)):
            data += more
        return data.decode("utf-8").partition("\n")[0].removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"no passphrase can be read from descriptor {descriptor}: {error}") from error


def _identities(path: Path | None) -> Identities | None:
    return None if path is None else Identities.parse(read_text(path, "identity"))


def _own(config: Config | None, kit: Kit | None) -> tuple[KitServer, ...]:
    """On the server itself, without a kit, its own key is the one to trust. A kit's pins stand alone."""
    if config is None or kit is not None or not ServerKeys.path(config.state_path).exists():
        return ()
    keys = ServerKeys.load(config.state_path)
    return (KitServer(name=keys.name, id=keys.server_id.hex(), fingerprint=keys.fingerprint),)


def _sites_of(config: Config | None) -> tuple[KitSite, ...]:
    return tuple(kit_site(site) for site in config.sites) if config else ()


def _merge(first: Sequence[KitSite], then: Sequence[KitSite]) -> tuple[KitSite, ...]:
    """The later ones stand for earlier ones of their name, but keep the credentials that they do not give."""
    found = {site.name: site for site in first}
    for site in then:
        old = found.get(site.name)
        if old is not None and old.url == site.url:  # never to another place than they were given for
            site = msgspec.structs.replace(site, credentials={**old.credentials, **site.credentials})
        found[site.name] = site
    return tuple(found.values())


def _placed(sites: Sequence[KitSite], places: Sequence[str]) -> tuple[KitSite, ...]:
    """The sites with `NAME=URL` places put in; an unknown name is a new site, of unknown country (`ZZ`, which
    ISO 3166-1 leaves to users)."""
    found = {site.name: site for site in sites}
    for text in places:
        name, equals, url = text.partition("=")
        if not (name and equals and "://" in url):
            raise ConfigError(f"not a site's place: {text[:120]!r}", hint="write it as NAME=file:///FOLDER")
        old = found.get(name, KitSite(name=name, country="ZZ", url=url))
        found[name] = KitSite(
            name=name, country=old.country, url=url, addresses=old.addresses, pins=old.pins, credentials=old.credentials
        )
    return tuple(found.values())
