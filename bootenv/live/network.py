"""What an operator says about the network, as systemd-networkd's files. Pure but for `apply`. May import `core`.

systemd.network(5), systemd.netdev(5). A gateway outside every subnet (/32 and /128 addresses of hosting companies) is
reached as `GatewayOnLink=`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from core.errors import ConfigError
from core.files import replace
from core.run import Runner

FOLDER = Path("/run/systemd/network")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,15}")


@dataclass(frozen=True)
class Setup:
    """One connection. `cards` are interface names, several with `bond` (a networkd bonding mode); `vlan` 0: untagged;
    `addresses` in prefix form, none: DHCP and router advertisements; `gateways` at most one of each family."""

    cards: tuple[str, ...]
    bond: str = ""
    vlan: int = 0
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()


def networkd_files(setup: Setup) -> dict[str, str]:
    """File name → content. Raises ConfigError, naming what is wrong in words for a person at a console."""
    _check(setup)
    base = "bond0" if setup.bond else setup.cards[0]
    top = f"{base[:10]}.{setup.vlan}" if setup.vlan else base
    files: dict[str, str] = {}
    if setup.bond:
        files["10-bond0.netdev"] = (
            f"[NetDev]\nName=bond0\nKind=bond\n\n[Bond]\nMode={setup.bond}\nMIIMonitorSec=100ms\n"
            + ("LACPTransmitRate=fast\n" if setup.bond == "802.3ad" else "")
        )
        for card in setup.cards:
            files[f"10-{card}.network"] = f"[Match]\nName={card}\n\n[Network]\nBond=bond0\n"
    if setup.vlan:
        files[f"10-{top}.netdev"] = f"[NetDev]\nName={top}\nKind=vlan\n\n[VLAN]\nId={setup.vlan}\n"
        files[f"10-{base}.network"] = (
            f"[Match]\nName={base}\n\n[Network]\nVLAN={top}\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"
        )
    files[f"10-{top}.network"] = f"[Match]\nName={top}\n\n{_layer3(setup)}"
    return files


def _layer3(setup: Setup) -> str:
    lines = ["[Network]", *(f"DNS={each}" for each in setup.dns)]
    if not setup.addresses:
        return "\n".join([*lines, "DHCP=yes", "IPv6AcceptRA=yes", "", "[DHCPv4]", "ClientIdentifier=mac"]) + "\n"
    lines += ["DHCP=no", "IPv6AcceptRA=no", *(f"Address={each}" for each in setup.addresses)]
    networks = [ipaddress.ip_interface(each).network for each in setup.addresses]
    for text in setup.gateways:
        gateway = ipaddress.ip_address(text)
        lines += ["", "[Route]", f"Gateway={gateway}"]
        if not gateway.is_link_local and not any(gateway in network for network in networks):
            lines.append("GatewayOnLink=yes")
    return "\n".join(lines) + "\n"


def _check(setup: Setup) -> None:
    if not setup.cards or not all(_NAME.fullmatch(card) for card in setup.cards):
        raise ConfigError("name the network cards, as the list shows them")
    if bool(setup.bond) != (len(setup.cards) > 1):
        raise ConfigError("a bond has two or more cards, anything else has one")
    if setup.bond not in ("", "active-backup", "802.3ad", "balance-xor"):
        raise ConfigError(f"not a bonding mode: {setup.bond!r}", hint="active-backup, 802.3ad or balance-xor")
    if not 0 <= setup.vlan <= 4094:
        raise ConfigError(f"not a VLAN: {setup.vlan}", hint="1 to 4094, 0 for none")
    for text in setup.addresses:
        _parsed("address with its prefix", "192.0.2.7/24", text, "/" in text, ipaddress.ip_interface)
    for kind, texts in (("gateway", setup.gateways), ("DNS server", setup.dns)):
        for text in texts:
            _parsed(kind, "192.0.2.1", text, True, ipaddress.ip_address)
    families = [ipaddress.ip_address(text).version for text in setup.gateways]
    have = {ipaddress.ip_interface(text).version for text in setup.addresses}
    if len(set(families)) != len(families):
        raise ConfigError("one gateway for IPv4 and one for IPv6 at most")
    if setup.gateways and not set(families) <= have:
        raise ConfigError("a gateway needs an address of its family")


def _parsed(kind: str, example: str, text: str, whole: bool, parse: object) -> None:
    try:
        if not whole or not callable(parse):
            raise ValueError
        parse(text)
    except ValueError as error:
        raise ConfigError(f"not a {kind}: {text!r}", hint=f"such as {example}") from error


def apply(files: Mapping[str, str], runner: Runner, folder: Path = FOLDER) -> None:
    """Put them in place of those of an earlier set-up, and have networkd take them up."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    for old in folder.glob("10-*"):
        old.unlink()
    for name, text in files.items():
        replace(folder / name, text.encode(), mode=0o644)
    runner.run(["networkctl", "reload"], purpose="set up the network")
    for name in files:
        if name.endswith(".network"):
            interface = name.removeprefix("10-").removesuffix(".network")
            runner.run(["networkctl", "reconfigure", interface], purpose="set up the network", ok=(0, 1))
