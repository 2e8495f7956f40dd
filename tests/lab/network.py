"""The lab's network: a namespace with a bridge, a tap for each card, and VLAN 42; nothing of it is outside.

The lab's own end is 10.77.0.1/24 untagged and 10.42.0.1/24 in VLAN 42. The VLAN is made by `vlan.py`, since a host
kernel may come without 802.1Q. Lives as long as the `with` block; removing the namespace removes everything in it.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.tools import Word, background, tool

_PREFIX = "refloat-lab"
LAN = "10.77.0.1/24"
VLAN = "10.42.0.1/24"
VLAN_ID = 42
_numbers = itertools.count()


@dataclass
class Network:
    """A namespace; `run` and `inside` reach into it."""

    name: str
    folder: Path
    taps: int = field(default=0)

    def inside(self, *argv: Word) -> tuple[Word, ...]:
        """A command line that runs in the namespace."""
        return ("ip", "netns", "exec", self.name, *argv)

    def run(self, *argv: Word, timeout: float = 60) -> str:
        return tool(*self.inside(*argv), timeout=timeout)

    def tap(self) -> str:
        """A new tap on the bridge, up; its name."""
        name, self.taps = f"tap{self.taps}", self.taps + 1
        self.run("ip", "tuntap", "add", name, "mode", "tap")
        self.run("ip", "link", "set", name, "master", "br0", "up")
        return name

    def drop(self, tap: str) -> None:
        """Remove a tap that no machine uses any more."""
        self.run("ip", "link", "del", tap)


@contextmanager
def network(folder: Path) -> Iterator[Network]:
    """A network of this process's own; helpers log into `folder`."""
    _sweep()
    made = Network(f"{_PREFIX}-{os.getpid()}-{next(_numbers)}", folder)
    tool("ip", "netns", "add", made.name)
    try:
        made.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
        made.run("ip", "link", "set", "lo", "up")
        made.run("ip", "link", "add", "br0", "type", "bridge", "forward_delay", "0")
        for tap in ("trunk", f"vlan{VLAN_ID}"):
            made.run("ip", "tuntap", "add", tap, "mode", "tap")
        made.run("ip", "link", "set", "trunk", "master", "br0", "up")
        made.run("ip", "addr", "add", LAN, "dev", "br0")
        made.run("ip", "addr", "add", VLAN, "dev", f"vlan{VLAN_ID}")
        made.run("ip", "link", "set", "br0", "up")
        made.run("ip", "link", "set", f"vlan{VLAN_ID}", "up")
        helper = Path(__file__).with_name("vlan.py")
        argv = made.inside(sys.executable, helper, "trunk", f"vlan{VLAN_ID}", str(VLAN_ID))
        with background(*argv, log=folder / "vlan.log"):
            yield made
    finally:
        tool("ip", "netns", "del", made.name)


def _sweep() -> None:
    """Remove namespaces of labs that were killed; the kernel has ended what ran in them."""
    for line in tool("ip", "netns", "list").splitlines():
        name = line.split()[0]
        if name.startswith(f"{_PREFIX}-") and not Path("/proc", name.split("-")[2]).exists():
            tool("ip", "netns", "del", name)
