"""What is put on an ESP, and what is left on it; the firmware's boot entries; families."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardware.boot import uefi
from hardware.boot.families import family_of, os_release
from hardware.boot.grubcfg import entries_of, searched, write_menu, write_stub
from hardware.boot.inside import Root
from hardware.boot.values import BootReport, Kernel
from tests.hardware.boot.servers import BOOT, grow

STUB = write_stub(BOOT, "/grub", ("0011",))


def test_own_loader_becomes_the_fallback_with_what_stands_beside_it(tmp_path: Path) -> None:
    files = {f"EFI/ubuntu/{name}": f"MZ {name}" for name in ("shimx64.efi", "grubx64.efi", "mmx64.efi", "fbx64.efi")}
    grow(
        tmp_path / "esp",
        {**files, "EFI/Microsoft/Boot/bootmgfw.efi": "MZ"},
    )
    grow(tmp_path / "server", {"etc/": ""})
    with Root(str(tmp_path / "esp")) as esp, Root(str(tmp_path / "server")) as server:
        report = BootReport()
        assert uefi.install(esp, server, STUB, report) == "/EFI/ubuntu/shimx64.efi"
        uefi.check(esp, report)
        assert report.ok and esp.names("/EFI/BOOT") == ["BOOTX64.EFI", "grubx64.efi", "mmx64.efi"]
        assert esp.text(uefi.FALLBACK) == "MZ shimx64.efi"
        assert server.changed == []


def test_a_stub_that_looks_for_what_is_gone_is_written_anew(tmp_path: Path) -> None:
    gone = write_stub("01234567-89ab-4000-8000-000000000000", "/grub")
    grow(
        tmp_path,
        {"EFI/debian/grub.cfg": gone, "EFI/other/grub.cfg": gone.replace("01234567-89ab-4000-8000-000000000000", BOOT)},
    )
    with Root(str(tmp_path)) as esp:
        uefi.correct_stubs(esp, STUB, {BOOT}, BootReport())
        assert esp.text("/EFI/debian/grub.cfg") == STUB
        assert esp.changed == ["/EFI/debian/grub.cfg"]


def test_nobody_elses_fallback_is_replaced(tmp_path: Path) -> None:
    grow(tmp_path / "esp", {"EFI/BOOT/BOOTX64.EFI": "MZ somebody's"})
    grow(tmp_path / "server", {"etc/": ""})
    with Root(str(tmp_path / "esp")) as esp, Root(str(tmp_path / "server")) as server:
        uefi.install(esp, server, STUB, BootReport())
        assert esp.text(uefi.FALLBACK) == "MZ somebody's"


def test_boot_entries_of_the_same_name_only() -> None:
    listed = (
        "BootCurrent: 0001\nTimeout: 3 seconds\nBootOrder: 0001,0000,0003\n"
        "Boot0000* debian\tHD(1,GPT,0000,0x800,0x20000)/File(\\EFI\\debian\\shimx64.efi)\n"
        "Boot0001* UEFI Misc Device\tPciRoot(0x0)/Pci(0x3,0x0)N.....YM....R,Y.\n"
        "Boot0002  debian HD(1,GPT,1111,0x800,0x20000)/File(\\EFI\\debian\\grubx64.efi)\n"
        "Boot0003* debian rescue\tHD(1,GPT,2222,0x800,0x20000)/File(\\x.efi)\n"
    )
    assert uefi.stale_entries(listed, "debian", ()) == ["0000", "0002"]
    assert uefi.stale_entries(listed, "debian", {"1111"}) == ["0000"]


@pytest.mark.parametrize(
    ("text", "name", "repairs"),
    [
        ('ID=debian\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n', "debian", True),
        ("ID=linuxmint\nID_LIKE='ubuntu debian'\n", "debian", True),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "fedora", True),
        ("ID=arch\n", "unknown", False),
        ('ID="broken\n', "unknown", False),
    ],
)
def test_family(text: str, name: str, repairs: bool, tmp_path: Path) -> None:
    grow(tmp_path, {"usr/lib/os-release": text, "etc/": ""})
    (tmp_path / "etc/os-release").symlink_to("../usr/lib/os-release")
    with Root(str(tmp_path)) as root:
        family = family_of(root)
        assert (family.name, family.repairs) == (name, repairs)
        if name == "debian" and "PRETTY" in text:
            assert os_release(root)["PRETTY_NAME"] == "Debian GNU/Linux 12 (bookworm)"


def test_next_initrd_is_told_once(tmp_path: Path) -> None:
    grow(tmp_path / "d", {"etc/os-release": "ID=debian", "etc/initramfs-tools/modules": "# x\nvirtio-blk opt\n"})
    grow(tmp_path / "f", {"etc/os-release": "ID=fedora"})
    with Root(str(tmp_path / "d")) as root:
        assert family_of(root).remember(root, ["nvme", "virtio_blk"]) and not family_of(root).remember(root, ["nvme"])
        lines = (root.text("/etc/initramfs-tools/modules") or "").splitlines()
        assert lines[:2] == ["# x", "virtio-blk opt"] and lines[-1] == "nvme" and len(lines) == 4
    with Root(str(tmp_path / "f")) as root:
        assert family_of(root).remember(root, ["nvme"]) and not family_of(root).remember(root, ["nvme"])
        assert 'add_drivers+=" nvme "' in (root.text("/etc/dracut.conf.d/90-refloat.conf") or "")


def test_plain_menu_reads_back() -> None:
    kernels = [
        Kernel("6.2", "/boot/vmlinuz-6.2", "/boot/initrd.img-6.2"),
        Kernel("6.1", "/boot/vmlinuz-6.1", "/boot/i"),
    ]
    for folder, image in (("", "/vmlinuz-6.2"), ("/@/boot", "/@/boot/vmlinuz-6.2")):
        text = write_menu(kernels, "root=UUID=x ro quiet", BOOT, folder)
        first = entries_of(text)[0]
        assert (first.kernel, first.root, len(entries_of(text))) == (image, "UUID=x", 2) and searched(text) == {BOOT}
