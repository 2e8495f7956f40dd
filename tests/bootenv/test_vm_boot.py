"""The rescue environment, served beside another DHCP server, booted on BIOS and UEFI; and booting writes to no disk."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest

from tests.bootenv.premises import ADDRESS, as_root, built_in, premises, public_key_word, seen, visit
from tests.lab.lab import Lab
from tests.lab.machine import Bus, Drive, Firmware, Machine, Nic
from tests.lab.running import started

pytestmark = pytest.mark.vm
_MAC = "52:54:00:77:00:01"

#: An array with a volume group on it that is half assembled, a volume group of its own, an ext4 whose journal must be
#: replayed, swap, a btrfs, and an ext4 that is labelled like the stick with the kit but was never asked for.
_FILL = """
sgdisk -n1:0:+64M -t1:fd00 -n2:0:+96M -t2:8e00 -n3:0:+96M -n4:0:+32M -t4:8200 -n5:0:+128M /dev/vda >/dev/null
sgdisk -n1:0:+64M -t1:fd00 -n2:0:+64M /dev/vdb >/dev/null
udevadm settle
mdadm --create /dev/md0 --level=1 --raid-devices=2 --metadata=1.2 --run /dev/vda1 /dev/vdb1 </dev/null
pvcreate -q /dev/md0 && vgcreate -q vgm /dev/md0 && lvcreate -qy -an -L 16M -n lv vgm
pvcreate -q /dev/vda2 && vgcreate -q vg0 /dev/vda2 && lvcreate -qy -L 32M -n root vg0
mkfs.ext4 -q /dev/vg0/root
mkswap /dev/vda4 >/dev/null
mkfs.btrfs -q /dev/vda5
mkfs.ext4 -q -L REFLOAT-OTHER /dev/vdb2
mkfs.ext4 -q /dev/vda3
mkdir /tmp/dirty && mount /dev/vda3 /tmp/dirty
cp -r /usr/lib/systemd /tmp/dirty/ && sync && rm -rf /tmp/dirty/systemd/system && sync -f /tmp/dirty
for each in 1 2 3 4 5; do echo $each > /tmp/dirty/$each; done
sync -f /tmp/dirty
"""


def test_bios_beside_another_dhcp_server_and_no_disk_is_written(tmp_path: Path) -> None:
    as_root()
    lab = Lab()
    built = built_in(tmp_path)
    disks = [tmp_path / "a.img", tmp_path / "b.img"]
    for path in disks:
        path.touch()
        with path.open("r+b") as file:
            file.truncate(512 << 20)
    drives = (Drive(disks[0], "QUIETA", format="raw"), Drive(disks[1], "QUIETB", format="raw"))
    machine = Machine("quiet", drives=drives, nics=(Nic(_MAC),), memory_mib=1536, boot=("network",))
    with premises(built, tmp_path, _MAC, public_key_word(lab.key)) as net:
        with started(machine, tmp_path / "first", net, lab.accelerator()) as running:
            ssh = running.reach(ADDRESS, lab.key, None, 420)
            ssh.run(_FILL, timeout=300)
            assert "needs_recovery" in ssh.run("dumpe2fs -h /dev/vda3 2>/dev/null")
            running.power_off()
        before = [_digest(path) for path in disks]
        with started(machine, tmp_path / "second", net, lab.accelerator()) as running:
            page = visit(running)
            print(f"power-on to a page in hand: {time.monotonic() - running.started:.0f} s")
            assert "QUIETA" in page and "QUIETB" in page, page
            ssh = running.reach(ADDRESS, lab.key, None)
            ssh.run("udevadm trigger --settle && sleep 5")
            blocks = ssh.run("ls /sys/block").split()
            assert {"vda", "vdb"} <= set(blocks) and not [each for each in blocks if each.startswith(("md", "dm-"))]
            assert "/dev/vd" not in ssh.run("cat /proc/swaps /proc/mounts")
            running.power_off()
        assert [_digest(path) for path in disks] == before, "booting has written to a disk"
    assert seen(tmp_path, "other-dhcp.log", ADDRESS) and seen(tmp_path, "serve.log", "PXE")


def test_uefi_by_its_own_network_boot(tmp_path: Path) -> None:
    as_root()
    lab = Lab()
    # no boot ROM in the card: OVMF's own PXE asks, as a server's firmware does
    nics = (Nic(_MAC, model="virtio-net-pci,romfile="),)
    drives = (Drive(_blank(tmp_path / "n.img"), "NVMEDISK", bus=Bus.NVME, format="raw"),)
    machine = Machine("uefi", Firmware.UEFI, drives, nics, memory_mib=1536, boot=("network",))
    with premises(built_in(tmp_path), tmp_path, _MAC) as net:
        with started(machine, tmp_path / "uefi", net, lab.accelerator()) as running:
            page = visit(running)
            assert "UEFI" in page and "NVMEDISK" in page, page
    assert seen(tmp_path, "serve.log", r"snponly\.efi")


def _blank(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(64 << 20)
    return path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
