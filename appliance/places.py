"""From what configuration and kit say of a site to the site itself. Pure but for `open_site`, which connects to
nothing.

May import `appliance.config`, `appliance.kit`, `imager.sites`, `core`.
"""

from __future__ import annotations

from typing import Any

from appliance.config import SiteConfig
from appliance.kit import KitSite
from core.errors import ConfigError
from imager.sites import open_site
from imager.sites.base import Site

#: What an object store is reached with; in a kit these are credentials by name: `refloat kit add --credential`.
_ACCESS = ("endpoint", "region", "credentials", "profile")
_SECRETS = ("access_key_id", "secret_access_key", "session_token")
_LOCK = ("lock_days", "lock_mode")
#: The name under which a kit's credentials hold a vault's token.
TOKEN = "token"  # noqa: S105 - a name


def open_place(entry: SiteConfig | KitSite) -> Site:
    """The site, not connected to yet. ConfigError when its URL or what belongs to it is wrong."""
    return open_site(entry.name, entry.url, **_options(entry))


def kit_site(site: SiteConfig) -> KitSite:
    """The configured site in the form that a kit has."""
    if _is_vault(site):
        secrets = {TOKEN: _token(site)} if site.token else site.secrets
        pins = (site.pin,) if site.pin else ()
        return KitSite(name=site.name, country=site.country, url=site.url, pins=pins, credentials=secrets)
    said = {key: str(getattr(site, key)) for key in (*_ACCESS, *_LOCK)} if _is_s3(site) else {}
    return KitSite(
        name=site.name,
        country=site.country,
        url=site.url,
        credentials={**{key: value for key, value in said.items() if value not in ("", "0")}, **site.secrets},
    )


def config_site(site: KitSite) -> SiteConfig:
    """A kit's site in the form of the configuration."""
    said = dict(site.credentials)
    given: dict[str, Any] = {key: said.pop(key) for key in (*_ACCESS, "lock_mode") if key in said}
    if "lock_days" in said:
        given["lock_days"] = _days(site, said.pop("lock_days"))
    if _is_vault(site) and site.pins:
        given["pin"] = site.pins[0]
    return SiteConfig(name=site.name, country=site.country, url=site.url, secrets=said, **given)


def _options(entry: SiteConfig | KitSite) -> dict[str, Any]:
    if _is_vault(entry):
        known = entry if isinstance(entry, KitSite) else kit_site(entry)
        return {"token": known.credentials.get(TOKEN, ""), "pins": known.pins, "addresses": known.addresses}
    if not _is_s3(entry):
        return {}
    site = config_site(entry) if isinstance(entry, KitSite) else entry
    found = {key: str(getattr(site, key)) for key in _ACCESS} | {
        key: site.secrets[key] for key in _SECRETS if key in site.secrets
    }
    return {**found, "lock_days": site.lock_days, "lock_mode": site.lock_mode}


def _is_s3(entry: SiteConfig | KitSite) -> bool:
    return entry.url.lower().startswith("s3:")


def _is_vault(entry: SiteConfig | KitSite) -> bool:
    return entry.url.lower().startswith("https:")


def _token(site: SiteConfig) -> str:
    try:
        with open(site.token, encoding="utf-8") as file:
            return file.readline(1000).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"site {site.name}: its token {site.token} cannot be read: {error}",
            hint="`refloat vault add-server` at the vault prints it",
            site=site.name,
        ) from error


def _days(site: KitSite, text: str) -> int:
    if not text.isdecimal() or len(text) > 5:
        raise ConfigError(f"site {site.name}: lock_days is {text[:20]!r}, not a number of days")
    return int(text)
