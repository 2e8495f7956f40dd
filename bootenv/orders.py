"""Orders: unattended restores, recorded at the sites by whoever holds the kit (docs/rescue.md, "Orders").

Values and pure functions, and an OrderBook over open sites. What comes from a site is hostile until its MAC is checked.
May import `appliance.kit`, `imager.sites`, `core`.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from appliance.kit import Kit, KitSite, Line, Time, stamp
from core.errors import (
    ConfigError,
    FormatError,
    ObjectExistsError,
    ObjectMissingError,
    RefloatError,
    SiteError,
    TargetError,
    TrustError,
)
from imager.sites.base import Site

VERSION = 1
DAYS = 7
_MAX_BYTES = 64 << 10
Nonce = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]


class Then(StrEnum):
    """What the machine does after a restore that went well."""

    POWER_OFF = "poweroff"
    REBOOT = "reboot"
    STAY = "stay"


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be done: `image` as SERVER/TIME, `uuid` the machine's DMI UUID (lower case), `to` as `refloat restore
    --to`, `options` fields of appliance.restore.RestoreOptions."""

    nonce: Nonce
    image: Line
    uuid: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")]
    to: Annotated[tuple[Line, ...], msgspec.Meta(min_length=1)]
    options: dict[Line, Line | bool | tuple[Line, ...]] = {}
    then: Then = Then.POWER_OFF
    created_at: Time
    expires_at: Time


class _Sealed(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    refloat: str = "order"
    version: int = VERSION
    mac: str
    order: str


def new_order(
    image: str,
    uuid: str,
    to: Sequence[str],
    options: dict[str, str | bool | tuple[str, ...]],
    then: Then,
    now: datetime,
) -> Order:
    """An order with a fresh nonce, good for a week. Raises TargetError when a field has a wrong form."""
    made = Order(
        nonce=secrets.token_hex(16), image=image, uuid=uuid.lower(), to=tuple(to), options=options, then=then,
        created_at=stamp(now), expires_at=stamp(now + timedelta(days=DAYS)),
    )  # fmt: skip
    try:
        return msgspec.json.decode(msgspec.json.encode(made), type=Order)
    except msgspec.MsgspecError as error:
        raise TargetError(f"that cannot be ordered: {error}") from error


def order_key(kit: Kit) -> bytes:
    """What authenticates orders: derived from the kit's identities, so known to who can open the kit only."""
    secret = "\n".join(sorted(kit.identities)).encode()
    return HKDF(SHA256(), 32, None, b"refloat order 1").derive(secret)


def seal_order(order: Order, key: bytes) -> bytes:
    """The object `order.json`."""
    text = msgspec.json.encode(order).decode()
    return msgspec.json.encode(_Sealed(mac=hmac.digest(key, text.encode(), "sha256").hex(), order=text))


def open_order(data: bytes, key: bytes) -> Order:
    """The order in these bytes. TrustError when it was not made with this kit, FormatError when it is none."""
    try:
        sealed = msgspec.json.decode(data, type=_Sealed)
        if (sealed.refloat, sealed.version) != ("order", VERSION):
            raise FormatError("not an order, or of another version")
        text = sealed.order.encode()
        if not hmac.compare_digest(hmac.digest(key, text, "sha256").hex().encode(), sealed.mac.encode()):
            raise TrustError("the order was not made with this recovery kit")
        return msgspec.json.decode(text, type=Order)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise FormatError(f"an order has a wrong form: {error}") from error


def check_order(order: Order, nonce: str, uuid: str, now: datetime) -> None:
    """TargetError unless it is the order asked for, of this machine, and good at this time."""
    if order.nonce != nonce:
        raise TrustError("the site shows another order under this name")
    if not uuid or order.uuid != uuid.lower():
        raise TargetError(
            f"the order is for the machine {order.uuid}, this is {uuid or 'one without a UUID'}",
            hint="make an order for this machine",
        )
    if not order.created_at <= stamp(now + timedelta(minutes=5)) or not stamp(now) <= order.expires_at:
        raise TargetError(
            f"the order is good from {order.created_at} until {order.expires_at}, it is {stamp(now)} here",
            hint="make a new order; or is this machine's clock wrong?",
        )


class OrderBook:
    """The orders at these sites. An order counts as used when any site says so."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self._sites = sites

    def record(self, order: Order, key: bytes) -> list[str]:
        """Put it at every site; the names of those that took it. Raises the first failure when none did."""
        return self._put_everywhere(self._sites, f"orders/{order.nonce}/order.json", seal_order(order, key))

    def find(self, nonce: str, key: bytes) -> Order:
        """The order, from the first site with an authentic one. ObjectMissingError when none has it."""
        failures: list[RefloatError] = []
        for site in self._sites:
            try:
                return open_order(_get(site, f"orders/{nonce}/order.json"), key)
            except RefloatError as error:
                failures.append(error)
        real = [error for error in failures if not isinstance(error, ObjectMissingError)]
        raise (real or failures or [ObjectMissingError("no site is known, so none has the order")])[0]

    def use(self, order: Order, machine: str) -> list[str]:
        """Record that it is being carried out, before the first write. TargetError when it was already, anywhere.

        Raises too when a site that has the order cannot take the record: unrecorded is not unused."""
        name = f"orders/{order.nonce}/used.json"
        having = [site for site in self._sites if _has(site, f"orders/{order.nonce}/order.json")]
        for site in self._sites:
            if _has(site, name):
                raise _used(order, site)
        data = msgspec.json.encode({"refloat": "order-used", "version": VERSION, "machine": machine})
        for site in having:
            try:
                site.put(name, [data])
            except ObjectExistsError as error:
                raise _used(order, site) from error
        if not having:
            raise SiteError("no site could record that the order is being carried out", hint="are the sites there?")
        return [site.name for site in having]

    def report(self, order: Order, result: dict[str, object]) -> list[str]:
        """Put how it went beside the order; the names of the sites that took it (none is no error)."""
        data = msgspec.json.encode({"refloat": "order-result", "version": VERSION, **result}, enc_hook=str)
        try:
            return self._put_everywhere(self._sites, f"orders/{order.nonce}/result.json", data)
        except RefloatError:
            return []

    @staticmethod
    def _put_everywhere(sites: Sequence[Site], name: str, data: bytes) -> list[str]:
        took: list[str] = []
        failures: list[RefloatError] = []
        for site in sites:
            try:
                site.put(name, [data])
                took.append(site.name)
            except RefloatError as error:
                failures.append(error)
        if not took and failures:
            raise failures[0]
        return took


def _get(site: Site, name: str) -> bytes:
    if site.stat(name).size_bytes > _MAX_BYTES:
        raise FormatError(f"{name} at site {site.name} is larger than any order")
    return site.get(name)


def _has(site: Site, name: str) -> bool:
    """SiteError when it cannot be told: a site that does not answer may hold the record."""
    try:
        site.stat(name)
    except ObjectMissingError:
        return False
    return True


def _used(order: Order, site: Site) -> TargetError:
    return TargetError(
        f"the order {order.nonce} was carried out already, says site {site.name}",
        hint="an order works once; make a new one",
    )


def placed(sites: Sequence[KitSite], places: Sequence[str]) -> tuple[KitSite, ...]:
    """The kit's sites, with those of `NAME=URL` somewhere else. ConfigError for a name the kit does not have."""
    given = dict(text.split("=", 1) for text in places if "=" in text)
    if strange := sorted(set(given) - {site.name for site in sites}):
        raise ConfigError(f"the kit has no site {strange[0]!r}", hint="the names are those in the kit")
    return tuple(msgspec.structs.replace(site, url=given.get(site.name, site.url)) for site in sites)


def utc_now() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)
