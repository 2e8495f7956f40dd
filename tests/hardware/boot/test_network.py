"""Network files of every kind after the cards changed, holding, and making another server of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import TargetError
from hardware.boot.clone import make_clone, rename_hosts
from hardware.boot.hold import HELD, hold_network, hold_timers, is_held, release
from hardware.boot.inside import BEFORE, Root
from hardware.boot.network import correct_network, rewrite
from hardware.boot.values import BootReport
from tests.hardware.boot.servers import grow, layout

A, B, NEW_A, NEW_B = "52:54:00:aa:00:01", "52:54:00:aa:00:02", "52:54:00:bb:00:01", "52:54:00:bb:00:02"
MAP = {A: NEW_A, B: NEW_B}

CASES = {
    "networkd": (
        f"[Match]\nMACAddress={A} {B}\nName=x\n[Link]\nMTUBytes=9000\n",
        f"[Match]\nMACAddress={NEW_A} {NEW_B}\nName=x\n[Link]\nMTUBytes=9000\n",
        0,
    ),
    "networkd bond with a card's address": (
        f"[NetDev]\nName=bond0\nKind=bond\nMACAddress={A}\n",
        f"[NetDev]\nName=bond0\nKind=bond\nMACAddress={A}\n",
        1,
    ),
    "networkd, match then link": (
        f"[Match]\nPermanentMACAddress={A}\n[Link]\nMACAddress={A}\n",
        f"[Match]\nPermanentMACAddress={NEW_A}\n[Link]\nMACAddress={A}\n",
        1,
    ),
    "ifupdown": (f"iface lan0 inet dhcp\n  hwaddress ether {A}\n", f"iface lan0 inet dhcp\n  hwaddress ether {A}\n", 1),
    "ifupdown by address": (f"iface lan0 inet static\n  # {A}\n", f"iface lan0 inet static\n  # {NEW_A}\n", 0),
    "netplan": (
        f"ethernets:\n  lan0:\n    match:\n      macaddress: '{A}'\n    set-name: lan0\n    macaddress: {B}\n",
        f"ethernets:\n  lan0:\n    match:\n      macaddress: '{NEW_A}'\n    set-name: lan0\n    macaddress: {B}\n",
        1,
    ),
    "netplan, one line": (f"  a:\n    match: {{macaddress: {A}}}\n", f"  a:\n    match: {{macaddress: {NEW_A}}}\n", 0),
    "NetworkManager": (
        f"[ethernet]\nmac-address={A.upper()}\ncloned-mac-address={A}\n",
        f"[ethernet]\nmac-address={NEW_A.upper()}\ncloned-mac-address={A}\n",
        1,
    ),
    "ifcfg": (f'HWADDR="{A.upper()}"\nMACADDR={B}\n', f'HWADDR="{NEW_A.upper()}"\nMACADDR={B}\n', 1),
    "udev": (
        f'SUBSYSTEM=="net", ATTR{{address}}=="{A}", KERNEL=="eth*", NAME="eth0"\n',
        f'SUBSYSTEM=="net", ATTR{{address}}=="{NEW_A}", KERNEL=="eth*", NAME="eth0"\n',
        0,
    ),
    "dashes": (f"match {A.replace(':', '-')}\n", f"match {NEW_A.replace(':', '-')}\n", 0),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_matching_changes_and_setting_stays(case: str) -> None:
    before, after, kept = CASES[case]
    text, left = rewrite(before, MAP)
    assert (text, len(left)) == (after, kept)
    assert A not in rewrite(before, MAP, also_set=True)[0]


def test_cards_that_swap_are_exchanged_at_once() -> None:
    assert rewrite(f"{A} {B}", {A: B, B: A}) == (f"{B} {A}", [])
    assert rewrite(f"{A}", {A: A}) == (A, [])


def test_doing_it_again_does_not_swap_back_and_another_day_starts_anew(tmp_path: Path) -> None:
    grow(tmp_path, {"etc/netplan/a.yaml": f"{A} {B}"})
    for repair in ("one", "one", "two"):
        with Root(str(tmp_path), repair=repair) as root:
            correct_network(root, {A: B, B: A}, (), BootReport(), clone=False)
            assert root.text("/etc/netplan/a.yaml") == (f"{B} {A}" if repair == "one" else f"{A} {B}")
    assert (tmp_path / BEFORE[1:] / "two/etc/netplan/a.yaml").read_text() == f"{B} {A}"


def test_names_are_kept_by_the_systemd_that_is_there(tmp_path: Path) -> None:
    cards = layout().interfaces
    for version, wanted in (("252", f"PermanentMACAddress={NEW_A}\n"), ("239", f"MACAddress={NEW_A}\nPath=*\n")):
        grow(
            tmp_path / version, {f"usr/lib/systemd/libsystemd-shared-{version}.so": "", "etc/netplan/a.yaml": f"m: {A}"}
        )
        with Root(str(tmp_path / version)) as root:
            links = correct_network(root, {A: NEW_A}, cards, BootReport(), clone=False)
            assert root.read("/etc/systemd/network/10-refloat-lan0.link") == links["10-refloat-lan0.link"]
            assert root.text("/etc/netplan/a.yaml") == f"m: {NEW_A}"
        assert wanted in links["10-refloat-lan0.link"].decode() and list(links) == ["10-refloat-lan0.link"]


def test_held_and_released_leaves_nothing(tmp_path: Path) -> None:
    with Root(
        str(grow(tmp_path, {"etc/network/interfaces": "x", "lib/systemd/system/networking.service": "y"}))
    ) as root:
        report = BootReport()
        hold_network(root, report)
        hold_timers(root, report)
        assert is_held(root) and not report.warnings
        drop_in = root.text("/etc/systemd/system/networking.service.d/90-refloat-hold.conf") or ""
        assert f"ConditionPathExists=!{HELD}" in drop_in
        assert release(root) == ["networking.service"]
        assert not is_held(root) and release(root) == []
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"etc/network/interfaces", "lib/systemd/system/networking.service"}


def test_clone_shares_no_secret_with_the_old_server(tmp_path: Path) -> None:
    grow(
        tmp_path,
        {
            "etc/hostname": "old.example.org\n",
            "etc/hosts": "127.0.1.1 old.example.org old # old\n192.0.2.9 older\n",
            "etc/machine-id": "0" * 32,
            "etc/ssh/ssh_host_ed25519_key": "OLD KEY",
            "etc/ssh/ssh_host_dsa_key": "OLD DSA",
            "etc/refloat/refloat.toml": "x",
            "var/lib/refloat/signing.key": "x",
            "etc/iscsi/initiatorname.iscsi": "x",
        },
    )
    with Root(str(tmp_path)) as root:
        report = BootReport()
        make_clone(root, "new.example.org", report)
        assert root.text("/etc/hosts") == "127.0.1.1 new.example.org new # old\n192.0.2.9 older\n"
        assert len((root.text("/etc/machine-id") or "").strip()) == 32 and root.text("/etc/machine-id") != "0" * 32
        assert (root.text("/etc/ssh/ssh_host_ed25519_key.pub") or "").startswith("ssh-ed25519 ")
        assert not root.exists("/etc/ssh/ssh_host_dsa_key") and not root.exists("/var/lib/refloat/signing.key")
        assert root.exists(f"{BEFORE}/var/lib/refloat/signing.key") and not root.exists("/etc/refloat/refloat.toml")
    assert not any(b"OLD KEY" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert any("initiatorname" in warning for warning in report.warnings)


@pytest.mark.parametrize("name", ["", "a b", "-x", "x" * 70, "a/b", "a\nb"])
def test_no_host_name(name: str, tmp_path: Path) -> None:
    with Root(str(tmp_path)) as root, pytest.raises(TargetError):
        make_clone(root, name, BootReport())


def test_hosts_only_whole_words() -> None:
    assert rename_hosts("1.2.3.4 web web2 web.example\n", "web", "www") == "1.2.3.4 www web2 web.example\n"
