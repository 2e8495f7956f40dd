"""A whole repair on a loop device: a small server of Debian's kind, with links that lead out of it, for a BIOS."""

from __future__ import annotations

import gzip
import hashlib
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from core.layout import Content, Disk, Interface, Layout, Partition, Table, TableKind
from core.monitor import Monitor
from hardware.attach import attach
from hardware.boot.cpio import pack, split
from hardware.boot.hold import HELD
from hardware.boot.initrd import complete, examine, missing
from hardware.boot.inside import Root
from hardware.boot.kernels import Modules, find_kernels
from hardware.boot.make import make_bootable
from hardware.boot.values import BootRequest, Restored
from hardware.machine import Nic
from tests.hardware.boot.servers import grow
from tests.hardware.disks import BIOS_BOOT, LINUX, MIB, RUNNER, blank, partition, tool

pytestmark = pytest.mark.block
UUID = "d0000000-0000-4000-8000-00000000000d"
OLD, NEW = "52:54:00:00:00:01", "52:54:00:00:00:02"
MENU = f"""search --no-floppy --fs-uuid --set=root {UUID}
linux /boot/vmlinuz-6.1 root=/dev/sda2 ro
initrd /boot/initrd.img-6.1
"""
SERVER = {
    "usr/lib/os-release": "ID=debian\nPRETTY_NAME='A small Debian'\n",
    "etc/fstab": "/dev/sda2 / ext4 defaults 0 1\nUUID=AAAA-0001 /boot/efi vfat defaults 0 1\n",
    "etc/hostname": "small\n",
    "etc/network/interfaces.d/lan": f"# {OLD}\n",
    "boot/vmlinuz-6.1": "kernel",
    "boot/grub/grub.cfg": MENU,
    "lib/modules/6.1/modules.dep": "kernel/disk.ko: kernel/bus.ko\nkernel/bus.ko:\n",
    "lib/modules/6.1/modules.builtin": "kernel/fs/ext4/ext4.ko\n",
    "lib/modules/6.1/modules.alias": "alias pci:v*bc01* disk\n",
    "etc/initramfs-tools/modules": "# here\n",
    "lib/systemd/libsystemd-shared-252.so": "",
    "srv/": "",
}


def module(*info: str) -> bytes:
    """The smallest kernel module depmod takes: an ELF file with a .modinfo section."""
    texts = b"\0".join(each.encode() for each in info) + b"\0"
    names = b"\0.modinfo\0.shstrtab\0"
    head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 1, 62, 1, 0, 0, 64, 0, 64, 0, 0, 64, 3, 2)
    start = 64 + 3 * 64

    def section(name: int, kind: int, offset: int, size: int) -> bytes:
        return struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, offset, size, 0, 0, 1, 0)

    rows = bytes(64) + section(1, 1, start, len(texts)) + section(10, 3, start + len(texts), len(names))
    return head + rows + texts + names


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[str]:
    """The restored disk, attached; `tmp_path/secret` is what its links try to reach."""
    secret = tmp_path / "secret"
    secret.write_text("the rescue environment's own\n")
    tree = grow(tmp_path / "server", SERVER)
    (tree / "boot/initrd.img-6.1").write_bytes(gzip.compress(pack({"init": b"#!/bin/sh\n"}, frozenset())))
    (tree / "boot/grub/i386-pc").mkdir()
    for link in ("etc/crypttab", "etc/hosts", "boot/grub/i386-pc/normal.mod", "etc/default/grub", "var/backups"):
        (tree / link).parent.mkdir(parents=True, exist_ok=True)
        (tree / link).symlink_to(secret if link != "var/backups" else "/etc/../../../srv")
    (tree / "etc/os-release").symlink_to("../usr/lib/os-release")
    path = blank(tmp_path / "disk", 64 * MIB)
    partition(
        path, f"label: gpt\n1: start=2048, size=2048, type={BIOS_BOOT}\n2: start=4096, size=120000, type={LINUX}\n"
    )
    root = blank(tmp_path / "root", 120000 * 512)
    tool("mke2fs", "-q", "-t", "ext4", "-U", UUID, "-d", str(tree), root)
    tool("dd", f"if={root}", f"of={path}", "bs=512", "seek=4096", "conv=notrunc,sparse", "status=none")
    with attach(path, read_only=False, partitions=True, runner=RUNNER) as node:
        yield node
    assert secret.read_text() == "the rescue environment's own\n"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["disk", "root", "secret", "server"]
    assert "/refloat-server-" not in Path("/proc/mounts").read_text()


def request(disk: str) -> BootRequest:
    """The server was on sda with an ESP, with one card."""
    content = Content(type="ext4", uuid=UUID)
    parts = (
        Partition(number=1, start_bytes=MIB, size_bytes=MIB, type="x", content=Content(type="vfat", uuid="AAAA-0001")),
        Partition(number=2, start_bytes=2 * MIB, size_bytes=60 * MIB, type="x", content=content),
    )
    table = Table(kind=TableKind.GPT, id="x", partitions=parts)
    cards = (Interface(name="lan0", mac=OLD, link=True, addresses=("192.0.2.7/24",)),)
    return BootRequest(
        filesystems=(Restored("sda-part2", f"{disk}p2", content),),
        disks=(disk,),
        firmware="bios",
        layout=Layout(disks=(Disk(name="sda", size_bytes=64 * MIB, sector_bytes=512, table=table),), interfaces=cards),
        interfaces_before=cards,
        nics_now=(Nic(name="nic0", mac=NEW, link=True),),
    )


def digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def inside(disk: str, path: str) -> str:
    """A file of the server, read by the stock tool."""
    return tool("debugfs", "-R", f"cat {path}", f"{disk}p2")


def test_looking_writes_nothing_and_says_what_is_wrong(disk: str) -> None:
    before = digest(disk)
    report = make_bootable(replace(request(disk), repair=False), RUNNER, Monitor())
    assert digest(disk) == before
    assert report.system == "A small Debian" and report.steps
    assert {check.name for check in report.checks if not check.ok} == {f"loader on {disk}", "fstab"}


def test_repaired_twice_is_repaired_once_and_nothing_leads_out(disk: str) -> None:
    report = make_bootable(replace(request(disk), hold_network=True), RUNNER, Monitor())
    assert report.ok, (report.checks, report.warnings)
    assert inside(disk, "/etc/fstab").splitlines() == [
        f"UUID={UUID} / ext4 defaults 0 1",
        "# refloat, not here any more: UUID=AAAA-0001 /boot/efi vfat defaults 0 1",
    ]
    assert f"root=UUID={UUID}" in inside(disk, "/boot/grub/grub.cfg")
    assert inside(disk, "/etc/network/interfaces.d/lan") == f"# {NEW}\n" and HELD.split("/")[2] in inside(disk, HELD)
    assert f"PermanentMACAddress={NEW}" in inside(disk, "/etc/systemd/network/10-refloat-lan0.link")
    assert b"GRUB" in Path(disk).read_bytes()[:512]
    again = make_bootable(replace(request(disk), hold_network=True), RUNNER, Monitor())
    assert again.ok and not [step for step in again.steps if "fstab" in step or "network:" in step]


def test_a_restored_server_does_not_image_itself_until_it_is_released(disk: str, tmp_path: Path) -> None:
    make_bootable(request(disk), RUNNER, Monitor())
    assert "timers are held" in inside(disk, HELD)
    assert HELD in inside(disk, "/etc/systemd/system/refloat-.service.d/90-refloat-hold.conf")


def test_what_was_asked_of_an_unknown_system_is_said_not_to_be_done(
    disk: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other") / "os-release"
    other.write_text("ID=arch\n")
    for command in ("rm /usr/lib/os-release", f"write {other} /usr/lib/os-release"):
        tool("debugfs", "-w", "-R", command, f"{disk}p2")
    report = make_bootable(replace(request(disk), hold_network=True, clone_as="twin"), RUNNER, Monitor())
    assert {check.name for check in report.checks if not check.ok} == {"holding the network", "a name of its own"}


def test_no_system_is_said_and_not_repaired(disk: str) -> None:
    tool("mke2fs", "-q", "-F", "-t", "ext4", f"{disk}p2")
    before = digest(disk)
    report = make_bootable(request(disk), RUNNER, Monitor())
    assert not report.ok and digest(disk) == before
    gone = replace(request(disk), filesystems=(Restored("sda-part2", f"{disk}p9", Content(type="ext4")),))
    assert not make_bootable(gone, RUNNER, Monitor()).ok


def test_modules_are_appended_with_all_they_need_and_indexed(tmp_path: Path) -> None:
    tree = grow(tmp_path, {**SERVER, "lib/modules/6.1/kernel/": ""})
    (tree / "lib/modules/6.1/kernel/disk.ko").write_bytes(module("alias=pci:v*bc01*", "depends=bus", "name=disk"))
    (tree / "lib/modules/6.1/kernel/bus.ko").write_bytes(module("name=bus"))
    held_by = pack(
        {"init": b"x", "usr/lib/modules/6.1/kernel/fs.ko": module("name=fs"), "conf/modules": b"fs\n"}, frozenset()
    )
    (tree / "boot/initrd.img-6.1").write_bytes(held_by)
    with Root(str(tree)) as root:
        kernel, modules = find_kernels(root)[0], Modules.load(root, "6.1")
        held = examine(root.read(kernel.initrd) or b"", RUNNER)
        lacking = missing(held, modules, ["disk", "none", "ext4"])
        assert lacking == ["disk"]
        assert complete(root, kernel, held, modules, lacking, {}, RUNNER)
        assert not complete(root, kernel, held, modules, lacking, {}, RUNNER)
        after = root.read(kernel.initrd) or b""
        assert after.startswith(held_by) and missing(examine(after, RUNNER), modules, ["disk"]) == ["disk"]
    added = {member.name: member.data for member in split(after, bytes)[-1].members}
    base = "usr/lib/modules/6.1"
    assert added[f"{base}/kernel/bus.ko"] == module("name=bus") and added["conf/modules"] == b"fs\ndisk\n"
    assert b"alias pci:v*bc01* disk" in added[f"{base}/modules.alias"] and f"{base}/modules.dep.bin" in added
    assert {line.split(b":")[0] for line in added[f"{base}/modules.dep"].splitlines()} == {
        b"kernel/fs.ko", b"kernel/disk.ko", b"kernel/bus.ko",
    }  # fmt: skip
