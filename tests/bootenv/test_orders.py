"""Orders: only the kit makes one, only the named machine takes one, and only once."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from appliance.kit import KitSite, new_identity, new_kit
from appliance.restore import RestoreOptions
from bootenv.live.unattended import check_order_fits, restore_options
from bootenv.orders import Order, OrderBook, Then, check_order, new_order, open_order, order_key, placed, seal_order
from core.errors import ConfigError, CorruptError, RefloatError, SiteError, TargetError, TrustError
from core.layout import Crypt, Disk, Layout
from imager.sites.memory import MemorySite

NOW = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
UUID = "4c4c4544-0042-4d10-8054-b7c04f334432"
KIT = new_kit([new_identity(), new_identity()], now=NOW)
KEY = order_key(KIT)


def _order(**options: str | bool | tuple[str, ...]) -> Order:
    return new_order("web1/20261122T020000Z", UUID.upper(), ["vda=SERIAL1"], options, Then.POWER_OFF, NOW)


def test_an_order_comes_back_as_it_was_made() -> None:
    order = _order(grow="last", hold_network=True)
    assert open_order(seal_order(order, KEY), KEY) == order
    check_order(order, order.nonce, UUID, NOW + timedelta(days=6))


def test_another_kit_s_order_is_not_believed() -> None:
    other = order_key(new_kit([new_identity()], now=NOW))
    with pytest.raises(TrustError):
        open_order(seal_order(_order(), other), KEY)


def test_the_key_does_not_depend_on_the_order_of_identities() -> None:
    turned = msgspec.structs.replace(KIT, identities=KIT.identities[::-1], recipients=KIT.recipients[::-1])
    assert order_key(turned) == KEY


def test_no_changed_byte_is_accepted() -> None:
    sealed = seal_order(_order(), KEY)
    for place in range(len(sealed)):
        changed = sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :]
        with pytest.raises((TrustError, CorruptError)):
            open_order(changed, KEY)


@pytest.mark.parametrize(
    ("nonce", "uuid", "days", "kind"),
    [
        ("0" * 32, UUID, 0, TrustError),
        ("", "4c4c4544-0042-4d10-8054-b7c04f334433", 0, TargetError),
        ("", "", 0, TargetError),
        ("", UUID, 8, TargetError),
        ("", UUID, -1, TargetError),
    ],
)
def test_every_doubt_stops_it(nonce: str, uuid: str, days: int, kind: type[RefloatError]) -> None:
    order = _order()
    with pytest.raises(kind):
        check_order(order, nonce or order.nonce, uuid, NOW + timedelta(days=days))


def test_an_order_is_used_once_whichever_site_is_asked() -> None:
    sites = [MemorySite("de"), MemorySite("fr")]
    order = _order()
    assert OrderBook(sites).record(order, KEY) == ["de", "fr"]
    assert OrderBook(sites).find(order.nonce, KEY) == order
    assert OrderBook(sites).use(order, UUID) == ["de", "fr"]
    for again in (sites, sites[:1], sites[1:]):
        with pytest.raises(TargetError, match="carried out already"):
            OrderBook(again).use(order, UUID)


def test_a_use_that_one_site_alone_remembers_counts() -> None:
    sites = [MemorySite("de"), MemorySite("fr")]
    order = _order()
    OrderBook(sites).record(order, KEY)
    OrderBook(sites).use(order, UUID)
    sites[0].delete(f"orders/{order.nonce}/used.json")  # rolled back, or lying
    with pytest.raises(TargetError, match="site fr"):
        OrderBook(sites).use(order, UUID)


class Unwritable(MemorySite):
    """A site that takes no record of a use."""

    def put(self, name: str, body: object) -> None:
        if name.endswith("used.json"):
            raise SiteError("read-only")
        super().put(name, body)  # type: ignore[arg-type]


def test_a_use_that_cannot_be_recorded_stops_it() -> None:
    site = Unwritable("de")
    order = _order()
    OrderBook([site]).record(order, KEY)
    with pytest.raises(SiteError, match="read-only"):
        OrderBook([site]).use(order, UUID)
    with pytest.raises(SiteError, match="no site could record"):
        OrderBook([MemorySite("empty")]).use(order, UUID)


def test_a_forged_order_does_not_hide_the_real_one() -> None:
    order, good, bad = _order(), MemorySite("good"), MemorySite("bad")
    OrderBook([good]).record(order, KEY)
    forged = seal_order(msgspec.structs.replace(order, to=("OTHER",)), b"x" * 32)
    bad.put(f"orders/{order.nonce}/order.json", [forged])
    assert OrderBook([bad, good]).find(order.nonce, KEY) == order
    with pytest.raises(TrustError):
        OrderBook([bad]).find(order.nonce, KEY)


def test_options_are_those_of_a_restore() -> None:
    options = restore_options(_order(grow="last", only=("vda",), hold_network=True))
    plain = RestoreOptions(to=("vda=SERIAL1",))
    expected = dataclasses.replace(
        plain, grow="last", only=("vda",), repair=dataclasses.replace(plain.repair, hold_network=True)
    )
    assert options == expected
    for wrong in ({"to": "x"}, {"scratch": "/tmp"}, {"force": True}, {"grow": True}):
        with pytest.raises(ConfigError):
            restore_options(_order(**wrong))


@pytest.mark.parametrize(
    "options",
    [
        {"grow": "nosuch"},
        {"only": ("vda-part9",)},
        {"recreate": ("x",)},
        {"firmware": "UEFI"},
        {"unused": "burn"},
        {"clone_as": "Bad Name!"},
    ],
)
def test_what_cannot_be_is_not_ordered(options: dict[str, str | bool | tuple[str, ...]]) -> None:
    layout = Layout(disks=(Disk(name="vda", size_bytes=1 << 30, sector_bytes=512),))
    check_order_fits(_order(grow="last", recreate=("all",), retire=("OLD",)), layout)
    with pytest.raises(RefloatError):
        check_order_fits(_order(**options), layout)


def test_what_needs_a_person_is_not_ordered() -> None:
    crypt = Crypt(name="vault", node="vda", uuid="u", version=2, header_bytes=1 << 24, size_bytes=1 << 29)
    layout = Layout(disks=(Disk(name="vda", size_bytes=1 << 30, sector_bytes=512),), crypts=(crypt,))
    with pytest.raises(ConfigError, match="vault"):
        check_order_fits(_order(), layout)
    with pytest.raises(ConfigError, match="nodisk"):
        other = new_order("web1/20261122T020000Z", UUID, ["nodisk=S1"], {}, Then.POWER_OFF, NOW)
        check_order_fits(other, msgspec.structs.replace(layout, crypts=()))


def test_sites_that_moved() -> None:
    sites = (KitSite(name="de", country="DE", url="file:///a"), KitSite(name="fr", country="FR", url="file:///b"))
    assert [each.url for each in placed(sites, ["fr=file:///mnt/fr"])] == ["file:///a", "file:///mnt/fr"]
    with pytest.raises(ConfigError, match="no site 'us'"):
        placed(sites, ["us=file:///c"])
