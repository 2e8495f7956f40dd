"""The rescue environment on a replacement machine: built by Refloat's own command, booted over the lab's network.

`Rescue` lives as long as its artifact; `booted` as long as its block.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bootenv.build import build, read_built
from bootenv.script import ipxe_script
from core.monitor import Monitor
from core.run import SystemRunner
from tests.lab.cache import Artifact
from tests.lab.lab import Lab
from tests.lab.machine import Machine
from tests.lab.network import Network, network
from tests.lab.program import code
from tests.lab.running import Running, started
from tests.lab.ssh import Ssh
from tests.lab.tools import background

#: Where a rescue environment is found: dnsmasq knows its first card's MAC.
ADDRESS = "10.77.0.100"
_URL = "http://10.77.0.1:8080/"


def rescue(lab: Lab) -> Artifact:
    """What `refloat rescue build` makes, without ISOs."""

    def make(folder: Path) -> None:
        build(folder, SystemRunner(), Monitor(), isos=False)

    return lab.note(lab.cache.get("rescue", [code()], make))


@contextmanager
def booted(lab: Lab, machine: Machine, folder: Path) -> Iterator[tuple[Running, Ssh]]:
    """The machine, booted over PXE into the rescue environment, and SSH into it.

    Its network cards' boot ROM is iPXE, so DHCP names the script at once.
    """
    built = rescue(lab)
    ready = machine.having(
        boot=("network",), fw_cfg=(("opt/org.refloat/ssh-key", lab.key.with_suffix(".pub")), *machine.fw_cfg)
    )
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        net = stack.enter_context(network(folder))
        stack.enter_context(served(net, _web(built.path, folder), folder, machine.nics[0].mac))
        running = stack.enter_context(started(ready, folder, net, lab.accelerator()))
        yield running, running.reach(ADDRESS, lab.key, None, 400)


def _web(built: Path, folder: Path) -> Path:
    """A folder with what was built, and iPXE's script with addresses in full: the iPXE in QEMU's cards is from 2019 and
    does not know where its script came from (`cwduri`)."""
    web = folder / "web"
    web.mkdir()
    for each in built.iterdir():
        (web / each.name).symlink_to(each)
    (web / "boot.ipxe").unlink()
    (web / "boot.ipxe").write_text(ipxe_script(read_built(built).squashfs, _URL))
    return web


@contextmanager
def served(net: Network, built: Path, folder: Path, mac: str) -> Iterator[None]:
    """A DHCP server that names iPXE's script, and HTTP; `mac` gets ADDRESS."""
    dhcp = [
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--port=0",
        "--interface=br0",
        "--bind-interfaces",
    ]
    dhcp += ["--dhcp-range=10.77.0.101,10.77.0.200,255.255.255.0,1h", f"--dhcp-host={mac},{ADDRESS}", "--log-dhcp"]
    dhcp += [f"--dhcp-leasefile={folder}/leases", f"--pid-file={folder}/dnsmasq.pid", "--log-facility=-"]
    dhcp += ["--dhcp-match=set:ipxe,175", f"--dhcp-boot=tag:ipxe,{_URL}boot.ipxe"]
    http = [sys.executable, "-m", "http.server", "--bind", "10.77.0.1", "--directory", str(built), "8080"]
    with background(*net.inside(*dhcp), log=folder / "dnsmasq.log"):
        with background(*net.inside(*http), log=folder / "http.log"):
            yield
