"""Which card takes whose place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import TargetError
from core.layout import Interface
from hardware.boot.nics import checked_map, map_nics
from hardware.machine import Nic

MACS = st.integers(1, 12).map(lambda number: f"52:54:00:00:00:{number:02X}")
OLD = st.builds(
    Interface,
    name=st.sampled_from(["eth0", "eth1", "bond0", "enp1s0"]),
    mac=st.one_of(MACS, st.just("")),
    driver=st.sampled_from(["a", "b"]),
    link=st.sampled_from([True, False, None]),
    addresses=st.sampled_from([(), ("192.0.2.7/24",)]),
)
NEW = st.builds(
    Nic, name=st.just("x"), mac=MACS, driver=st.sampled_from(["a", "b"]), link=st.sampled_from([True, False, None])
)


@given(st.lists(OLD, max_size=6), st.lists(NEW, max_size=6))
def test_any_machines(before: list[Interface], now: list[Nic]) -> None:
    found = map_nics(before, now)
    old, new = {each.mac.lower() for each in before if each.mac}, {each.mac.lower() for each in now}
    assert set(found) <= old and set(found.values()) <= new
    assert len(set(found.values())) == len(found) == min(len(old), len(new))
    assert all(found[mac] == mac for mac in old & new)


def card(mac: str, link: bool, driver: str = "e1000", addresses: tuple[str, ...] = ()) -> Interface:
    return Interface(name=f"nic{mac}", mac=mac, link=link, driver=driver, addresses=addresses)


def nic(mac: str, link: bool, driver: str = "igb") -> Nic:
    return Nic(name=f"new{mac}", mac=mac, link=link, driver=driver)


def test_link_goes_before_driver_and_driver_before_order() -> None:
    before = [card("0a", False), card("0b", True), card("0c", True, "ixgbe")]
    now = [nic("1a", True), nic("1b", False, "e1000"), nic("1c", True, "ixgbe")]
    assert map_nics(before, now) == {"0b": "1a", "0c": "1c", "0a": "1b"}


def test_used_cards_are_served_first_when_there_are_fewer_now() -> None:
    assert map_nics([card("0a", False), card("0b", False, addresses=("192.0.2.1/24",))], [nic("1a", True)]) == {
        "0b": "1a"
    }


@pytest.mark.parametrize("wanted", [{"0A": "1b"}, {"0b": "1a"}, {"0a": "1a", "0c": "1A"}])
def test_a_mapping_that_cannot_be_is_refused(wanted: dict[str, str]) -> None:
    with pytest.raises(TargetError):
        checked_map(wanted, [card("0a", True), card("0c", True)], [nic("1a", True)])


def test_a_mapping_is_taken_in_any_case() -> None:
    assert checked_map({"0A": "1A"}, [card("0a", True)], [nic("1a", True)]) == {"0a": "1a"}
