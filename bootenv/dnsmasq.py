"""dnsmasq beside an existing DHCP server: answers only what PXE firmware asks (proxy DHCP), and TFTP. Pure.

RFC 4578 names the client architectures; `dnsmasq --help dhcp` and dnsmasq(8), `--pxe-service`, the words.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

#: Architecture as dnsmasq calls it → the loader it gets. `undionly` and `snponly` drive the card through the firmware
#: that booted from it, which works with cards that iPXE has no driver for.
LOADERS = {"X86PC": "undionly.kpxe", "X86-64_EFI": "snponly.efi", "BC_EFI": "snponly.efi"}


@dataclass(frozen=True)
class Place:
    """Where it is served: interface, its address in prefix form (IPv4), and the HTTP server's port."""

    interface: str
    address: str
    port: int

    @property
    def ip(self) -> str:
        return str(ipaddress.ip_interface(self.address).ip)

    @property
    def url(self) -> str:
        """The folder's URL, ending in `/`."""
        return f"http://{self.ip}:{self.port}/"


def dnsmasq_config(place: Place, tftp: Path) -> str:
    """The configuration file. No DNS, no leases: addresses come from the network's own DHCP server."""
    network = ipaddress.ip_interface(place.address).network
    script = f"{place.url}boot.ipxe"
    lines = [
        "port=0",
        "keep-in-foreground",
        # stderr is for its last words; of stdout it keeps nothing but this open
        "log-facility=/dev/stdout",
        "log-dhcp",
        "user=root",
        f"interface={place.interface}",
        "bind-dynamic",
        "leasefile-ro",
        f"dhcp-range={network.network_address},proxy,{network.netmask}",
        "enable-tftp",
        f"tftp-root={tftp}",
        "tftp-no-fail",
        # iPXE says who it is twice over: by its options (175) and by its user class
        "dhcp-match=set:ipxe,175",
        "dhcp-userclass=set:ipxe,iPXE",
        *(f'pxe-service=tag:!ipxe,{kind},"Refloat rescue environment",{loader}' for kind, loader in LOADERS.items()),
        *(f'pxe-service=tag:ipxe,{kind},"Refloat rescue environment",{script}' for kind in LOADERS),
        f"dhcp-boot=tag:ipxe,{script}",
    ]
    return "\n".join(lines) + "\n"
