"""Network interfaces as they are now: cards with their own addresses, and what every interface is reached by.

A snapshot. Imports `core` and `hardware.{facts,machine}`; `ip` (iproute2) tells the addresses.
"""

from __future__ import annotations

import json
from pathlib import Path

import pyudev

from core.layout import Interface
from core.run import Runner, find_tool
from hardware.facts import read_sys
from hardware.machine import Nic


def read_nics() -> tuple[Nic, ...]:
    """Cards only: bridges, bonds and tunnels have no device behind them."""
    found = []
    for device in sorted(pyudev.Context().list_devices(subsystem="net"), key=lambda each: str(each.sys_name)):
        folder = Path(device.sys_path)
        if (folder / "device").exists():
            speed, carrier = read_sys(folder / "speed"), read_sys(folder / "carrier")
            driver = folder / "device/driver"
            found.append(
                Nic(
                    name=device.sys_name,
                    # a card in a bond shows the bond's address; its own is kept beside
                    mac=read_sys(folder / "bonding_slave/perm_hwaddr") or read_sys(folder / "address"),
                    driver=driver.resolve().name if driver.exists() else "",
                    speed_mbit=int(speed) if speed.isdigit() and speed != "0" else None,
                    link=carrier == "1" if carrier else None,
                )
            )
    return tuple(found)


def read_interfaces(runner: Runner) -> tuple[Interface, ...]:
    """Cards first, then whatever else has an address; loopback and link-local addresses are left out."""
    addresses = _addresses(runner)
    cards = [
        Interface(name=nic.name, mac=nic.mac, driver=nic.driver, link=nic.link, addresses=addresses.pop(nic.name, ()))
        for nic in read_nics()
    ]
    others = [Interface(name=name, addresses=each) for name, each in sorted(addresses.items()) if each]
    return (*cards, *others)


def _addresses(runner: Runner) -> dict[str, tuple[str, ...]]:
    if find_tool("ip") is None:  # only wanted for people to recognise; cards are known without it
        return {}
    text = runner.run(["ip", "-json", "address", "show"], purpose="read the network addresses").text
    return {
        row["ifname"]: tuple(
            f"{each['local']}/{each['prefixlen']}"
            for each in row.get("addr_info", ())
            if each.get("scope") == "global" and "local" in each
        )
        for row in json.loads(text)
        if row.get("ifname") not in (None, "lo")
    }
