"""The configuration as frozen values: what was given, never this run's state. Lives as long as a command.

May import `imager.keys` and `core`.
"""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

import msgspec

from core.errors import ConfigError
from core.settings import DEFAULT_PATH, MAX_BYTES, example_text, read_settings
from imager.keys import check_recipient


class DiskConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A disk to image. `name` empty: taken from the path. `sector_bytes` 0: as the kernel says."""

    path: str
    name: str = ""
    sector_bytes: int = 0


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How an image is taken. `bandwidth`: bytes a second to each site; `pack_size`: bytes; `threads` 0: automatic."""

    level: int = 3
    threads: int = 0
    bandwidth: int = 0
    nice: int = 19
    io_class: str = "best-effort"
    pack_size: int = 32 << 20
    live: bool = False
    snapshot_share: int = 80
    freeze_seconds: int = 60
    hooks: str = "/etc/refloat/hooks"
    hook_seconds: int = 60
    tracking: bool = True
    keep_snapshot: bool = False
    audit: int = 1


class SiteConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A place that keeps images; `country` is ISO 3166-1 alpha-2. `token` is the path of a vault's token, `pin` the
    SHA-256 of its certificate. `secrets`, by name, come from a recovery kit only."""

    name: str
    country: str
    url: str
    token: str = ""
    pin: str = ""
    endpoint: str = ""
    region: str = ""
    credentials: str = ""
    profile: str = ""
    lock_days: int = 0
    lock_mode: str = "governance"
    mechanisms: tuple[str, ...] = ("repository",)
    secrets: dict[str, str] = {}


class PolicyConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator accepted, in words; empty: not accepted."""

    accept_same_country: str = ""
    accept_outside_eu: str = ""
    accept_single_site: str = ""


class RetentionConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Which images stay (`appliance.retention.policy`); `delay_days` passes before anything is deleted."""

    daily: int = 12
    monthly: int = 3
    yearly: int = 1
    minimum: int = 3
    copies: int = 2
    delay_days: int = 7


class KitConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where the recovery kit's receipt lies; empty: nowhere."""

    receipt: str = ""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything `refloat.toml` says."""

    server: str
    state: str
    recipients: tuple[str, ...] = ()
    disks: tuple[DiskConfig, ...] = ()
    image: ImageConfig = ImageConfig()
    sites: tuple[SiteConfig, ...] = ()
    retention: RetentionConfig = RetentionConfig()
    policy: PolicyConfig = PolicyConfig()
    kit: KitConfig = KitConfig()

    @property
    def state_path(self) -> Path:
        """The state folder."""
        return Path(self.state)

    def site(self, name: str) -> SiteConfig:
        """The site of that name. Raises ConfigError."""
        for site in self.sites:
            if site.name == name:
                return site
        raise ConfigError(
            f"no site is called {name!r}",
            hint=f"configured are: {', '.join(each.name for each in self.sites) or 'none'}",
        )


def parse_config(text: str) -> Config:
    """The configuration in this TOML text. Raises ConfigError."""
    values = read_settings(text)
    top = values[""]
    document = {**(top if isinstance(top, dict) else {}), **{key: value for key, value in values.items() if key}}
    document["disks"], document["sites"] = document.pop("disk"), document.pop("site")
    config = msgspec.convert(document, Config)
    for number, recipient in enumerate(config.recipients, 1):
        try:
            check_recipient(recipient)
        except ConfigError as error:
            raise ConfigError(f"recipients[{number}]: {error.message}", hint=error.hint) from error
    _unique("site.name", [site.name for site in config.sites])
    _unique("site.url", [f"{site.url.rstrip('/')} {site.endpoint}".rstrip() for site in config.sites])
    for site in config.sites:
        if 0 < site.lock_days < 7:  # renewed by nightly runs, of which some may fail
            raise ConfigError(
                f"site.lock_days: {site.lock_days} is too short to be renewed in time", hint="at least 7; 30 is usual"
            )
    _unique("disk.path", [os.path.normpath(disk.path) for disk in config.disks])
    _unique("disk.name", [disk.name for disk in config.disks if disk.name])
    _unique("recipients", list(config.recipients))
    return config


def load_config(path: Path | None = None) -> Config:
    """Read and check the file (default `/etc/refloat/refloat.toml`).

    Refuses one that everybody may write, or of another user: it names where images go and who can open them.
    """
    path = path or Path(DEFAULT_PATH)
    try:
        with path.open("rb") as file:
            _check_owner(path, os.fstat(file.fileno()))
            data = file.read(MAX_BYTES + 1)
        return parse_config(data.decode("utf-8"))
    except FileNotFoundError as error:
        hint = (
            f"`refloat config example > {shlex.quote(str(path))}` writes one to start from, or name one with --config"
        )
        raise ConfigError(f"there is no configuration at {path}", hint=hint) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", hint=error.hint, path=str(path)) from error


def example() -> str:
    """The commented example file."""
    return example_text()


def _check_owner(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError("not a regular file")
    if status.st_mode & stat.S_IWOTH:
        raise ConfigError("anybody can write it", hint=f"chmod o-w {path}")
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigError(f"it belongs to user {status.st_uid}", hint=f"chown root {path}")


def _unique(what: str, values: list[str]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise ConfigError(f"{what}: {value!r} is given twice")
