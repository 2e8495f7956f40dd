"""Opening a site with what it takes: from the configuration or a kit. Every command opens its sites here.

May import `appliance.{config,kit}`, `imager.sites`, `core`.
"""

from __future__ import annotations

from typing import Any

from appliance.config import SiteConfig
from appliance.kit import KitSite
from core.errors import ConfigError
from imager.sites import open_site
from imager.sites.base import Site
from imager.sites.wrap import Retry

#: The name under which a kit's credentials hold a vault's token.
TOKEN = "token"  # noqa: S105 - a name


def known(site: SiteConfig) -> KitSite:
    """A configured site as a kit would hold it, its token read from its file. Raises ConfigError."""
    return KitSite(
        name=site.name,
        country=site.country,
        url=site.url,
        pins=(site.pin,) if site.pin else (),
        credentials={TOKEN: _token(site)} if site.token else {},
    )


def connect(site: KitSite) -> Site:
    """The site, with transient faults retried. Nothing is asked before the first verb. Raises ConfigError."""
    options: dict[str, Any] = {}
    if site.url.lower().startswith("https:"):
        options = {"token": site.credentials.get(TOKEN, ""), "pins": site.pins, "addresses": site.addresses}
    return Retry(open_site(site.name, site.url, **options))


def open_configured(site: SiteConfig) -> Site:
    """A configured site, opened. Raises ConfigError."""
    return connect(known(site))


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
