"""A network with somebody else's DHCP server in it, and `refloat rescue serve` beside it. Lives as its block does."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bootenv.build import build
from core.monitor import Monitor
from core.run import SystemRunner
from tests.lab.network import Network, network
from tests.lab.running import Running
from tests.lab.tools import LabError, background, tool

ADDRESS = "10.77.0.100"
BANNER = r"Fingerprint +([0-9A-F:]+)\s+\(SHA-256\) +([0-9A-F:]+)\s+PIN, for one visit (\d{4}) (\d{4})"


@contextmanager
def premises(built: Path, folder: Path, mac: str, *words: str) -> Iterator[Network]:
    """The network; `mac` gets ADDRESS from the other server, which knows nothing of booting."""
    with ExitStack() as stack:
        net = stack.enter_context(network(folder))
        other = f"{net.name}-dhcp"
        tool("ip", "netns", "add", other)
        stack.callback(tool, "ip", "netns", "del", other)
        net.run("ip", "link", "add", "dhcp0", "type", "veth", "peer", "name", "lan0", "netns", other)
        net.run("ip", "link", "set", "dhcp0", "master", "br0", "up")
        tool("ip", "-netns", other, "addr", "add", "10.77.0.2/24", "dev", "lan0")
        tool("ip", "-netns", other, "link", "set", "lan0", "up")
        dhcp = [
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--port=0",
            "--interface=lan0",
            "--log-dhcp",
        ]
        dhcp += [f"--dhcp-host={mac},{ADDRESS}", "--dhcp-range=10.77.0.101,10.77.0.200,255.255.255.0,1h"]
        dhcp += [f"--dhcp-leasefile={folder}/leases", f"--pid-file={folder}/other.pid", "--log-facility=-"]
        stack.enter_context(background("ip", "netns", "exec", other, *dhcp, log=folder / "other-dhcp.log"))
        serve = [sys.executable, "-m", "appliance.cli", "rescue", "serve", str(built), "--interface", "br0"]
        serve += [f"--word={word}" for word in words]
        stack.enter_context(background(*net.inside(*serve), log=folder / "serve.log"))
        yield net


def built_in(folder: Path) -> Path:
    """The rescue environment of today's code, from the cached base system."""
    return build(folder / "rescue", SystemRunner(), Monitor(), isos=False).folder


def visit(running: Running) -> str:
    """The console's page, reached with what the serial line shows; its PIN must admit once only."""
    banner = running.expect(BANNER, 420)
    helper = Path(__file__).with_name("visit.py")
    try:
        return running.net.run(
            sys.executable, helper, ADDRESS, banner[1] + banner[2], banner[3] + banner[4], timeout=300
        )
    except LabError as error:
        raise AssertionError(f"the console did not let its operator in: {error}") from error


def public_key_word(key: Path) -> str:
    """The kernel's word that lets this key in."""
    return "ssh=" + ":".join(key.with_suffix(".pub").read_text().split()[:2])


def seen(folder: Path, log: str, pattern: str) -> bool:
    """Whether a helper's log has it."""
    return re.search(pattern, (folder / log).read_text("utf-8", "replace")) is not None


def as_root() -> None:
    """The lab needs root."""
    assert os.geteuid() == 0, "network namespaces and mmdebstrap need root"
