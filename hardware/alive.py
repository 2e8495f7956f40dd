"""Whether somebody on the network still answers at a server's addresses: ARP (RFC 5227) and neighbour discovery.

Asks, and changes nothing; the probes carry no sender address, so that no cache on the network is misled. Imports `core`
and `hardware.machine`; the tools are iputils-arping and ndisc6.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from core.layout import Interface
from core.run import Runner, find_tool
from hardware.machine import Nic

#: A host has this long to answer; two questions are asked in it.
_SECONDS = 2
_MAC = re.compile(r"\b(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}\b")


@dataclass(frozen=True)
class Answer:
    """Somebody answers at `address`, with the hardware address `mac`, on this machine's card `nic`."""

    address: str
    mac: str
    nic: str

    def describe(self) -> str:
        """For people."""
        return f"{self.address} is alive: {self.mac} answers on {self.nic}"


@dataclass(frozen=True)
class Survey:
    """Who answers, and which addresses could not be asked for (no card with link, no tool, a tagged network)."""

    answers: tuple[Answer, ...]
    unasked: tuple[str, ...]


def who_answers(interfaces: Sequence[Interface], nics: Sequence[Nic], runner: Runner) -> Survey:
    """Ask for every address of the layout's interfaces on every card with link. Addresses behind a VLAN tag are not
    asked for: this machine's cards are not in that network."""
    cards = [nic.name for nic in nics if nic.link]
    own = {nic.mac for nic in nics}
    answers: list[Answer] = []
    unasked: list[str] = []
    for interface in interfaces:
        tagged = "." in interface.name or interface.name.startswith("vlan")
        for text in interface.addresses:
            address = text.partition("/")[0]
            if tagged or not cards or find_tool(_tool(address)) is None:
                unasked.append(address)
                continue
            for card in cards:
                mac = _ask(address, card, runner)
                if mac and mac not in own:
                    answers.append(Answer(address, mac, card))
    return Survey(tuple(answers), tuple(unasked))


def _tool(address: str) -> str:
    return "arping" if ipaddress.ip_address(address).version == 4 else "ndisc6"


def _ask(address: str, card: str, runner: Runner) -> str:
    """The hardware address that answers, or nothing."""
    if _tool(address) == "arping":
        # arping(8), -D: duplicate address detection; the sender's protocol address is 0.0.0.0
        argv = ["arping", "-D", "-c", "2", "-w", str(_SECONDS), "-I", card, address]
    else:
        argv = ["ndisc6", "-q", "-1", "-r", "2", "-w", str(_SECONDS * 500), address, card]
    done = runner.run(argv, purpose=f"ask for {address}", ok=range(256), timeout=_SECONDS + 10)
    found = _MAC.search(done.text)
    return found[0].lower() if found else ""
