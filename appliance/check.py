"""Does the set-up keep the promise? Findings are the one form in which checks speak, to CLI, JSON and pages alike.

`check_policy` is pure; `reach_sites` asks the sites. May import `appliance.config`, `imager.sites.base`, `core`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from urllib.parse import unquote, urlsplit

import msgspec

from appliance.config import Config, SiteConfig
from core.errors import RefloatError
from imager.sites.base import Site
from imager.sites.s3lock import Protection, locks_of, protection

#: Member states, <https://european-union.europa.eu/principles-countries-history/eu-countries_en> (27 since 2020-02-01).
EU = frozenset("AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK".split())
#: With them the EEA, where the GDPR holds too: EEA Joint Committee Decision No 154/2018 of 6 July 2018.
EEA = EU | frozenset("IS LI NO".split())


class Status(StrEnum):
    """`warn`: it works and is less than was promised; `fail`: it does not work, or breaks the promise."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at; `hint` says what to do when it is not ok."""

    status: Status
    subject: str
    message: str
    hint: str = ""


def ok(subject: str, message: str) -> Finding:
    """Nothing to do."""
    return Finding(Status.OK, subject, message)


def warn(subject: str, message: str, hint: str = "") -> Finding:
    """Less than was promised."""
    return Finding(Status.WARN, subject, message, hint)


def fail(subject: str, message: str, hint: str = "") -> Finding:
    """It does not work, or breaks the promise."""
    return Finding(Status.FAIL, subject, message, hint)


def failed(findings: Iterable[Finding]) -> bool:
    """Whether one of them is `fail`."""
    return any(each.status is Status.FAIL for each in findings)


def check_policy(config: Config) -> list[Finding]:
    """The promise against what is configured: places, countries, who can open images, what is not protected."""
    return [
        *_places(config),
        *_countries(config),
        *_outside(config),
        *_overlaps(config.sites),
        *_recipients(config),
        *_exposed(config.sites),
        _mechanisms(config),
        _disks(config),
    ]


def _places(config: Config) -> list[Finding]:
    if len(config.sites) >= 2:
        return [ok("sites", f"{len(config.sites)} sites: {', '.join(site.name for site in config.sites)}")]
    if config.sites and config.policy.accept_single_site:
        return [
            warn("sites", "one site only, accepted in the configuration", "whatever takes that site takes every image")
        ]
    count = "one site" if config.sites else "no site"
    return [
        fail("sites", f"{count} is configured; images must go to at least two", "add a [[site]] in another EU country")
    ]


def _countries(config: Config) -> list[Finding]:
    countries = sorted({site.country for site in config.sites})
    if len(countries) >= 2:
        return [ok("countries", f"in {', '.join(countries)}")]
    if len(config.sites) < 2:
        return []
    if config.policy.accept_same_country:
        return [warn("countries", f"all sites are in {countries[0]}, accepted in the configuration")]
    return [fail("countries", f"all sites are in {countries[0]}", "one of them must stand in another EU country")]


def _outside(config: Config) -> list[Finding]:
    found = []
    for site in config.sites:
        if site.country in EEA:
            continue
        where = f"{site.country} is outside the EU and EEA"
        if config.policy.accept_outside_eu:
            found.append(warn(f"site {site.name}", f"{where}, accepted in the configuration"))
        else:
            found.append(fail(f"site {site.name}", where, "GDPR: choose a site in the EU or EEA (Greece is GR)"))
    return found


def _overlaps(sites: Sequence[SiteConfig]) -> list[Finding]:
    """Two names for one place are one place."""
    found = []
    for first, second in itertools.combinations(sites, 2):
        if first.endpoint.rstrip("/") != second.endpoint.rstrip("/"):
            continue
        one, other = _place(first.url), _place(second.url)
        if one[:2] == other[:2] and (_below(one[2], other[2]) or _below(other[2], one[2])):
            message = f"{first.name} and {second.name} are the same place, or one holds the other"
            found.append(fail("sites", message, "two sites must not share a folder"))
    return found


def _place(url: str) -> tuple[str, str, tuple[str, ...]]:
    try:
        parts = urlsplit(url)
    except ValueError:
        return url, "", ()
    folders = tuple(part for part in unquote(parts.path).split("/") if part not in ("", "."))
    return parts.scheme, parts.netloc.lower(), folders


def _below(path: tuple[str, ...], folder: tuple[str, ...]) -> bool:
    return path[: len(folder)] == folder


def _recipients(config: Config) -> list[Finding]:
    if not config.recipients:
        hint = "put the age1… line that `refloat kit new` prints into the configuration"
        return [fail("recipients", "nobody could open an image: there are no recipients", hint)]
    if len(config.recipients) == 1:
        hint = "make a second kit (`refloat kit new`), keep it elsewhere, and add its recipient"
        return [warn("recipients", "a single recipient: when its kit is lost, so is every image", hint)]
    return [ok("recipients", f"{len(config.recipients)} recipients can open images")]


def _exposed(sites: Sequence[SiteConfig]) -> list[Finding]:
    hint = "keep a second copy where this server has no write access, such as a pull by the site"
    return [
        warn(f"site {site.name}", "not write-only: root on this server can alter and delete what is there", hint)
        for site in sites
        if site.url.startswith("file:")
    ]


def _mechanisms(config: Config) -> Finding:
    used = sorted({each for site in config.sites for each in site.mechanisms})
    if len(used) >= 2:
        return ok("mechanisms", ", ".join(used))
    hint = 'mechanisms = ["repository", "archive"] at one site adds the second: docs/archive.md'
    return warn("mechanisms", "one format only: a fault in our software could take every copy", hint)


def _disks(config: Config) -> Finding:
    if config.disks:
        return ok("disks", ", ".join(disk.path for disk in config.disks))
    return warn(
        "disks", "no disk is configured: each run must be given --disk", "add a [[disk]] for each disk of this server"
    )


def reach_sites(sites: Iterable[tuple[str, Callable[[], Site]]]) -> list[Finding]:
    """Ask each (name, what opens it) for its first object, and an object store for what it protects. A site that
    answers wrongly is a finding, never an exception."""
    found = []
    places: dict[str, str] = {}
    for name, opened in sites:
        try:
            site = opened()
            try:
                first = next(iter(site.list("servers/")), None)
                other = places.setdefault(site.place(), name)
                if other != name:
                    hint = "a link or a bind mount leads one to the other; give each site a place of its own"
                    found.append(fail("sites", f"{other} and {name} are one and the same place", hint))
                found += check_store(name, site)
            finally:
                site.close()
        except RefloatError as error:
            # Drivers say which site; here the subject does.
            found.append(fail(f"site {name}", error.message.removeprefix(f"{name}: "), error.hint or ""))
        else:
            found.append(ok(f"site {name}", "reachable" if first else "reachable, and empty"))
    return found


def check_store(name: str, site: Site) -> list[Finding]:
    """What an object store protects, tried with this server's own credentials; nothing for other sites."""
    told = protection(site)
    if told is None:
        return []
    locks = locks_of(site)
    return [_write_only(name, told), *_create_only(name, told), _locking(name, told, locks.term.days if locks else 0)]


def _write_only(name: str, told: Protection) -> Finding:
    if told.write_only:
        how = "versions cannot be removed" if told.undeletable else "nothing can be overwritten or deleted"
        return ok(f"site {name}", f"write-only for these credentials: {how}")
    hint = "turn on Object Lock (site.lock_days), or forbid deletes and puts that are not create-only: docs/sites.md"
    return warn(f"site {name}", "not write-only: whoever has this server's credentials can destroy what is there", hint)


def _create_only(name: str, told: Protection) -> list[Finding]:
    if told.create_only:
        return []
    hint = "keep to one writer; Refloat asks before each put, which no race stops"
    return [warn(f"site {name}", "the store ignores create-only puts (If-None-Match)", hint)]


def _locking(name: str, told: Protection, days: int) -> Finding:
    if days and told.lock is False:
        hint = "make a bucket with Object Lock, or take site.lock_days out"
        return fail(f"site {name}", "site.lock_days is set, but the bucket has no Object Lock", hint)
    if days:
        return ok(f"site {name}", f"objects are locked for {days} days, and longer while they are needed")
    return warn(f"site {name}", "no Object Lock", "set site.lock_days (docs/sites.md); it is allowed without")
