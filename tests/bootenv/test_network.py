"""What an operator says about the network becomes the files networkd reads."""

from __future__ import annotations

import pytest

from bootenv.addresses import Port, parse_ports, urls
from bootenv.live.network import Setup, networkd_files
from core.errors import ConfigError, ToolError


def test_static_with_a_gateway_outside_the_subnet_and_ipv6() -> None:
    setup = Setup(("eno1",), addresses=("203.0.113.7/32", "2001:db8::7/64"), gateways=("198.51.100.1", "fe80::1"))
    (name, text), *rest = networkd_files(setup).items()
    assert not rest and name == "10-eno1.network"
    assert text == (
        "[Match]\nName=eno1\n\n[Network]\nDHCP=no\nIPv6AcceptRA=no\nAddress=203.0.113.7/32\nAddress=2001:db8::7/64\n"
        "\n[Route]\nGateway=198.51.100.1\nGatewayOnLink=yes\n\n[Route]\nGateway=fe80::1\n"
    )


def test_a_gateway_inside_the_subnet_is_reached_the_plain_way() -> None:
    files = networkd_files(Setup(("eno1",), addresses=("192.0.2.7/24",), gateways=("192.0.2.1",), dns=("9.9.9.9",)))
    assert "GatewayOnLink" not in files["10-eno1.network"] and "DNS=9.9.9.9" in files["10-eno1.network"]


def test_a_vlan_on_a_bond_by_dhcp() -> None:
    files = networkd_files(Setup(("eno1", "eno2"), bond="802.3ad", vlan=42))
    assert sorted(files) == [
        "10-bond0.42.netdev", "10-bond0.42.network", "10-bond0.netdev", "10-bond0.network", "10-eno1.network",
        "10-eno2.network",
    ]  # fmt: skip
    assert "Mode=802.3ad\n" in files["10-bond0.netdev"] and "LACPTransmitRate=fast\n" in files["10-bond0.netdev"]
    assert files["10-eno2.network"] == "[Match]\nName=eno2\n\n[Network]\nBond=bond0\n"
    assert "VLAN=bond0.42\n" in files["10-bond0.network"] and "Id=42\n" in files["10-bond0.42.netdev"]
    assert "DHCP=yes\n" in files["10-bond0.42.network"] and "DHCP" not in files["10-bond0.network"]


def test_an_interface_s_name_stays_within_what_the_kernel_takes() -> None:
    for name in networkd_files(Setup(("enp130s0f1np1",), vlan=4094)):
        assert len(name.removeprefix("10-").rsplit(".", 1)[0]) <= 15, name


@pytest.mark.parametrize(
    "setup",
    [
        Setup(()),
        Setup(("eno1\nVLAN=x",)),
        Setup(("eno1", "eno2")),
        Setup(("eno1",), bond="active-backup"),
        Setup(("eno1", "eno2"), bond="broadcast"),
        Setup(("eno1",), vlan=4095),
        Setup(("eno1",), addresses=("192.0.2.7",)),
        Setup(("eno1",), addresses=("192.0.2.7/33",)),
        Setup(("eno1",), addresses=("192.0.2.7/24",), gateways=("fe80::1",)),
        Setup(("eno1",), addresses=("192.0.2.7/24",), gateways=("192.0.2.1", "192.0.2.2")),
        Setup(("eno1",), dns=("dns.example",)),
    ],
)
def test_what_cannot_be_is_refused(setup: Setup) -> None:
    with pytest.raises(ConfigError):
        networkd_files(setup)


_IP = """[{"ifname":"lo","flags":["LOOPBACK","UP"],"addr_info":[{"local":"127.0.0.1","prefixlen":8,"scope":"host"}]},
{"ifname":"eno1","flags":["BROADCAST","UP","LOWER_UP"],"operstate":"UP","addr_info":[
{"family":"inet6","local":"2001:db8::7","prefixlen":64,"scope":"global"},
{"family":"inet6","local":"fe80::1","prefixlen":64,"scope":"link"},
{"family":"inet","local":"192.0.2.7","prefixlen":24,"scope":"global"}]},
{"ifname":"eno2","flags":["BROADCAST","UP"],"operstate":"DOWN","addr_info":[]}]"""


def test_addresses_as_ip_prints_them() -> None:
    ports = parse_ports(_IP)
    assert ports == (Port("eno1", True, ("2001:db8::7/64", "192.0.2.7/24")), Port("eno2", False, ()))
    assert urls(ports) == ["https://192.0.2.7/", "https://[2001:db8::7]/"]
    with pytest.raises(ToolError):
        parse_ports("{}")
