"""Asking for addresses, in a network namespace with a neighbour in another; nothing leaves them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence

import pytest

from core.layout import Interface
from core.run import Result, SystemRunner
from hardware.alive import who_answers
from hardware.machine import Nic

pytestmark = pytest.mark.block


class _In(SystemRunner):
    """Every tool in a namespace."""

    def __init__(self, name: str) -> None:
        self._name = name

    def run(
        self,
        argv: Sequence[str],
        *,
        purpose: str,
        ok: Sequence[int] = (0,),
        timeout: float = 120,
        stdin: bytes | None = None,
    ) -> Result:
        return super().run(
            ["ip", "netns", "exec", self._name, *argv], purpose=purpose, ok=ok, timeout=timeout, stdin=stdin
        )


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@pytest.fixture
def here() -> Iterator[_In]:
    """A rescued machine's namespace, and beside it the old server's with 192.0.2.7 and 2001:db8::7."""
    names = ("refloat-here", "refloat-old")
    try:
        for name in names:
            _ip("netns", "add", name)
        _ip("link", "add", "rescue0", "netns", names[0], "type", "veth", "peer", "name", "old0", "netns", names[1])
        _ip("-n", names[1], "link", "set", "old0", "address", "52:54:00:aa:bb:cc")
        for name, link in zip(names, ("rescue0", "old0"), strict=True):
            _ip("-n", name, "link", "set", link, "up")
        _ip("-n", names[1], "address", "add", "192.0.2.7/24", "dev", "old0")
        _ip("-n", names[1], "address", "add", "2001:db8::7/64", "dev", "old0", "nodad")
        _ip("-n", names[0], "address", "add", "fe80::99/64", "dev", "rescue0", "nodad")
        yield _In(names[0])
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


def test_the_old_server_answers_and_nobody_else(here: _In) -> None:
    addresses = ("192.0.2.7/24", "192.0.2.8/24", "2001:db8::7/64", "2001:db8::8/64")
    before = [Interface(name="eth0", mac="52:54:00:00:00:01", addresses=addresses)]
    cards = [Nic(name="rescue0", mac="52:54:00:00:00:02", link=True), Nic(name="none0", mac="", link=False)]
    survey = who_answers(before, cards, here)
    assert {(each.address, each.mac) for each in survey.answers} == {
        ("192.0.2.7", "52:54:00:aa:bb:cc"),
        ("2001:db8::7", "52:54:00:aa:bb:cc"),
    }
    assert survey.unasked == ()


def test_what_cannot_be_asked_for_is_said(here: _In) -> None:
    tagged = Interface(name="bond0.42", addresses=("192.0.2.7/24",))
    cards = [Nic(name="rescue0", mac="", link=True)]
    assert who_answers([tagged], cards, here).unasked == ("192.0.2.7",)
    plain = Interface(name="eth0", addresses=("192.0.2.7/24",))
    assert who_answers([plain], [Nic(name="rescue0", mac="", link=False)], here).unasked == ("192.0.2.7",)
