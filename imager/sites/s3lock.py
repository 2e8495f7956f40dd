"""What a bucket protects: Object Lock renewed and read back, and probes that tell what these credentials could destroy.

Functions on an S3Site. May import core and `imager.sites`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from core.errors import ObjectExistsError, SiteError
from imager.sites.base import Site
from imager.sites.body import Body
from imager.sites.s3 import S3Site
from imager.sites.s3client import is_denied, is_unknown, refuses
from imager.sites.wrap import Retry, innermost

_PROBE = ".refloat/protection"
#: How long the probe's own lock holds: each `refloat check` leaves one small version behind for so long.
_PROBE_LOCK = timedelta(minutes=10)


@dataclass(frozen=True)
class Protection:
    """What was tried with these credentials. `create_only`: a second create-only put is refused; `overwrite`: so is one
    that does not ask for it, and a delete; `versions`: the bucket keeps them; `undeletable`: one that was put could
    not be removed; `lock`: Object Lock is on; None where it could not be asked."""

    create_only: bool
    overwrite: bool
    versions: bool
    undeletable: bool
    lock: bool | None

    @property
    def write_only(self) -> bool:
        """Whether nothing that these credentials can do takes an object away from a reader by version."""
        return (self.create_only and self.overwrite) or (self.versions and self.undeletable)


class Locks:
    """The locks of an object store, through the same retries as its site. See `locks_of`."""

    def __init__(self, site: S3Site, retry: Retry) -> None:
        self._site, self._retry = site, retry
        self.term = timedelta(days=site.lock_days)
        self.mode = site.lock_mode

    def now(self) -> datetime:
        """The store's time."""
        return self._site.client.now()

    def until(self, name: str) -> datetime | None:
        """When the object's lock ends; None: it has none, or these credentials may not see it."""
        return self._retry.tried(lambda _: _until(self._site.head(name)))

    def renew(self, name: str) -> None:
        """Lock it for a whole term from now, unless a lock holds it that ends later, or up to a day earlier."""
        self._retry.tried(lambda _: self._renew(name))

    def _renew(self, name: str) -> None:
        site, until = self._site, self._site.until()
        held = _until(site.head(name))
        if held is not None and held > until - timedelta(days=1):
            return
        wanted: dict[str, Any] = {"Mode": site.lock_mode.upper(), "RetainUntilDate": until}
        site.client.ask("put_object_retention", name, Key=site.key(name), **site.version(name), Retention=wanted)


def locks_of(site: Site) -> Locks | None:
    """The site's locks, when it is an object store whose objects are to be locked."""
    inner = innermost(site)
    if not isinstance(inner, S3Site) or not inner.lock_days:
        return None
    return Locks(inner, site if isinstance(site, Retry) else Retry(inner))


def protection(site: Site) -> Protection | None:
    """Try at an object store what an attacker with these credentials would; None for other sites.

    Only the driver's own keys below `.refloat/` are touched. SiteError when the store does not answer.
    """
    inner = innermost(site)
    if not isinstance(inner, S3Site):
        return None
    create_only = inner.is_create_only()
    lock = _lock_enabled(inner)
    key = inner.key(_PROBE)
    with Body([b"refloat: could this be overwritten or deleted?\n"]) as file:
        first = _put_probe(inner, file, lock)

        def overwrite() -> None:
            inner.put_key(_PROBE, file)

        overwritten = refuses(overwrite) and refuses(lambda: inner.client.ask("delete_object", _PROBE, Key=key))
    undeletable = bool(first) and refuses(lambda: _delete_version(inner, key, first, bool(lock)))
    return Protection(create_only, overwritten, inner.is_versioned(), undeletable, lock)


def _put_probe(site: S3Site, file: Body, lock: bool | None) -> str:
    """The version that the probe was put as; empty where there are none, or an earlier probe's is in the way."""
    more: dict[str, Any] = {}
    if lock and site.lock_days:
        more = {"ObjectLockMode": site.lock_mode.upper(), "ObjectLockRetainUntilDate": site.client.now() + _PROBE_LOCK}
    try:
        answer = site.put_key(_PROBE, file, **more)
    except SiteError as error:
        if not is_denied(error):
            raise
        try:  # a policy that wants every put create-only
            answer = site.put_key(_PROBE, file, IfNoneMatch="*", **more)
        except ObjectExistsError:
            return site.version(_PROBE).get("VersionId", "")
        except SiteError as again:
            if not is_denied(again):
                raise
            return ""
    return str(answer.get("VersionId", "")) if site.is_versioned() else ""


def _delete_version(site: S3Site, key: str, version: str, locked: bool) -> None:
    more = {"BypassGovernanceRetention": True} if locked else {}
    site.client.ask("delete_object", _PROBE, Key=key, VersionId=version, **more)


def _lock_enabled(site: S3Site) -> bool | None:
    try:
        answer = site.client.ask("get_object_lock_configuration", "")
    except SiteError as error:
        if is_unknown(error) or error.fields.get("status") == 404:
            return False
        if is_denied(error):
            return None
        raise
    return bool(answer.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled")


def _until(head: dict[str, Any]) -> datetime | None:
    until = head.get("ObjectLockRetainUntilDate")
    return until.astimezone(UTC) if isinstance(until, datetime) else None
