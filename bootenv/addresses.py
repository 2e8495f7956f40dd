"""The machine's addresses as they are now, and the URLs people reach it by. Through `ip -json`. May import `core`."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from core.errors import ToolError
from core.run import Runner


class _Address(msgspec.Struct):
    family: str = ""
    local: str = ""
    prefixlen: int = 0
    scope: str = ""


class _Interface(msgspec.Struct):
    ifname: str
    operstate: str = ""
    addr_info: tuple[_Address, ...] = ()
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Port:
    """A network interface: `up` tells whether it has a link; addresses in prefix form, link-local ones left out."""

    name: str
    up: bool
    addresses: tuple[str, ...]


def parse_ports(text: str | bytes) -> tuple[Port, ...]:
    """What `ip -json address` printed, without the loopback. ToolError when it is something else."""
    try:
        found = msgspec.json.decode(text, type=tuple[_Interface, ...])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ToolError(f"`ip` printed something unexpected: {error}") from error
    return tuple(
        Port(
            each.ifname,
            "LOWER_UP" in each.flags,
            tuple(f"{at.local}/{at.prefixlen}" for at in each.addr_info if at.scope == "global" and at.local),
        )
        for each in found
        if "LOOPBACK" not in each.flags
    )


def read_ports(runner: Runner) -> tuple[Port, ...]:
    """The interfaces now."""
    return parse_ports(runner.run(["ip", "-json", "address"], purpose="read the network's addresses").stdout)


def urls(ports: Sequence[Port]) -> list[str]:
    """Where a browser finds the console: IPv4 first, as people type it."""
    found = [ipaddress.ip_interface(text).ip for port in ports for text in port.addresses]
    found.sort(key=lambda each: each.version)
    return [f"https://[{each}]/" if each.version == 6 else f"https://{each}/" for each in dict.fromkeys(found)]
