"""Which modules a device needs, from a kernel's own tables and from /sys."""

from __future__ import annotations

from pathlib import Path

from hardware.boot.inside import Root
from hardware.boot.kernels import Driven, Modules, chain_of, crypts_below, find_kernels, stack_of
from tests.hardware.boot.servers import grow, layout

BASE = "usr/lib/modules/6.1.0-9/"
TABLES = {
    f"{BASE}modules.dep": "kernel/nvme/nvme.ko.xz: kernel/nvme/nvme-core.ko.xz kernel/t10.ko.xz\n"
    "kernel/nvme/nvme-core.ko.xz: kernel/t10.ko.xz\nkernel/t10.ko.xz:\nkernel/crct10dif_generic.ko.xz:\n"
    "/etc/shadow.ko:\n../../../x.ko:\nkernel/ahci.ko.xz: ../../../../y.ko\n",
    f"{BASE}modules.alias": "alias pci:v*d*sv*sd*bc01sc08i02* nvme\nalias pci:v*d*sv*sd*bc01sc06i01* ahci\n"
    "alias crct10dif crct10dif_generic\n# comment\n",
    f"{BASE}modules.softdep": "softdep t10 pre: crct10dif\n",
    f"{BASE}modules.builtin": "kernel/drivers/pci/pcie/pcieport.ko\nkernel/sd-mod.ko\n",
}
NVME = "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02"


def modules(tmp_path: Path) -> Modules:
    grow(tmp_path, TABLES)
    (tmp_path / "lib").symlink_to("usr/lib")
    with Root(str(tmp_path)) as root:
        return Modules.load(root, "6.1.0-9")


def test_tables(tmp_path: Path) -> None:
    found = modules(tmp_path)
    assert set(found.files) == {"nvme", "nvme_core", "t10", "crct10dif_generic", "ahci"}
    assert found.matching(NVME) == ("nvme",)
    assert found.closure(["nvme"]) == [
        "kernel/crct10dif_generic.ko.xz", "kernel/nvme/nvme-core.ko.xz", "kernel/nvme/nvme.ko.xz", "kernel/t10.ko.xz",
    ]  # fmt: skip
    assert found.closure(["ahci", "none"]) == ["kernel/ahci.ko.xz"]


def test_what_a_device_needs(tmp_path: Path) -> None:
    found = modules(tmp_path)
    assert Driven("0000:01:00.0", NVME, "nvme", "nvme").wanted(found) == (("nvme",), True)
    # called otherwise here, or built in here
    assert Driven("0000:01:00.0", NVME, "nvme_new", "nvme_new").wanted(found) == (("nvme",), True)
    assert Driven("0000:01:00.0", NVME, "", "nvme").wanted(found) == (("nvme",), True)
    assert Driven("0:0:0:0", "scsi:t-0x00", "sd_mod", "sd").wanted(found) == (("sd_mod",), True)
    assert Driven("0000:00:1c.0", "pci:v1d2bc06sc04i00", "", "pcieport").wanted(found) == ((), True)
    assert Driven("0000:02:00.0", "pci:v1d2bc01sc07i00", "newraid", "newraid").wanted(found) == ((), False)


def test_kernels_newest_first_and_only_with_modules(tmp_path: Path) -> None:
    files = {f"boot/vmlinuz-{v}": "" for v in ("6.1.0-9", "6.1.0-10", "5.10.0-30", "0-rescue-x")}
    grow(tmp_path, files | {f"lib/modules/{v}/modules.dep": "" for v in ("6.1.0-9", "6.1.0-10", "5.10.0-30")})
    grow(tmp_path, {"boot/initrd.img-6.1.0-9": "", "boot/initramfs-6.1.0-10.img": ""})
    with Root(str(tmp_path)) as root:
        found = find_kernels(root)
    assert [kernel.version for kernel in found] == ["6.1.0-10", "6.1.0-9", "5.10.0-30"]
    assert [kernel.initrd for kernel in found] == ["/boot/initramfs-6.1.0-10.img", "/boot/initrd.img-6.1.0-9", ""]


def fake_sys(tmp_path: Path) -> Path:
    """vg0-root (dm-1) on LUKS (dm-0) on md1 on two partitions: one NVMe, one SATA."""
    sys = tmp_path / "sys"
    pci = "devices/pci0000:00"
    grow(
        sys,
        {
            f"{pci}/0000:01:00.0/nvme/nvme0/nvme0n1/nvme0n1p1/partition": "1",
            f"{pci}/0000:01:00.0/modalias": NVME,
            f"{pci}/0000:02:00.0/ata1/host0/target0/0:0:0:0/block/sda/sda1/partition": "1",
            f"{pci}/0000:02:00.0/modalias": "pci:ahci",
            f"{pci}/0000:02:00.0/ata1/host0/target0/0:0:0:0/modalias": "scsi:t-0x00",
            "devices/virtual/block/md1/md/level": "raid5",
            "devices/virtual/block/dm-0/dm/uuid": "CRYPT-LUKS2-00112233445566778899aabbccddeeff-safe",
            "devices/virtual/block/dm-1/dm/uuid": "LVM-xyz",
            "devices/virtual/block/dm-1/dm/name": "vg0-root",
            "module/nvme/": "", "module/ahci/": "", "module/sd_mod/": "",
            "bus/nvme/": "", "bus/ahci/": "", "bus/sd/": "", "class/block/": "",
            "devices/virtual/block/md1/slaves/": "", "devices/virtual/block/dm-0/slaves/": "",
            "devices/virtual/block/dm-1/slaves/": "",
        },
    )  # fmt: skip
    for name, device, module in (
        ("nvme", f"{pci}/0000:01:00.0", "nvme"),
        ("ahci", f"{pci}/0000:02:00.0", "ahci"),
        ("sd", f"{pci}/0000:02:00.0/ata1/host0/target0/0:0:0:0", "sd_mod"),
    ):
        (sys / "bus" / name / "module").symlink_to(sys / "module" / module)
        (sys / device / "driver").symlink_to(sys / "bus" / name)
    disk, other = f"{pci}/0000:01:00.0/nvme/nvme0/nvme0n1", f"{pci}/0000:02:00.0/ata1/host0/target0/0:0:0:0/block/sda"
    places = {"nvme0n1": disk, "nvme0n1p1": f"{disk}/nvme0n1p1", "sda": other, "sda1": f"{other}/sda1"}
    places |= {name: f"devices/virtual/block/{name}" for name in ("md1", "dm-0", "dm-1")}
    for name, place in places.items():
        (sys / "class/block" / name).symlink_to(sys / place)
    for above, below in (("md1", "nvme0n1p1"), ("md1", "sda1"), ("dm-0", "md1"), ("dm-1", "dm-0")):
        (sys / "class/block" / above / "slaves" / below).symlink_to(sys / places[below])
    return sys


def test_the_whole_stack_down_to_both_controllers(tmp_path: Path) -> None:
    sys = fake_sys(tmp_path)
    assert {driven.module for driven in chain_of("dm-1", sys)} == {"nvme", "ahci", "sd_mod"}
    assert [driven.module for driven in chain_of("nvme0n1", sys)] == ["nvme"]
    assert dict(stack_of("dm-1", layout(), sys)) == {
        "dm_mod": "", "dm_crypt": "cryptsetup", "md_mod": "mdadm", "raid456": "",
    }  # fmt: skip
    assert ("dm_mod", "lvm") in stack_of("dm-1", layout(), sys)
    assert crypts_below("dm-1", sys) == ("00112233445566778899aabbccddeeff",)


def test_a_map_needs_what_joins_its_paths(tmp_path: Path) -> None:
    sys = fake_sys(tmp_path)
    block = sys / "devices/virtual/block"
    for name, uuid, below in (
        ("dm-2", "mpath-3600a0b8", ("sda", "nvme0n1")),
        ("dm-3", "part3-mpath-3600a0b8", ("dm-2",)),
    ):
        grow(sys, {f"devices/virtual/block/{name}/dm/uuid": uuid, f"devices/virtual/block/{name}/slaves/": ""})
        (sys / "class/block" / name).symlink_to(block / name)
        for each in below:
            (block / name / "slaves" / each).symlink_to((sys / "class/block" / each).resolve())
    assert stack_of("dm-3", layout(), sys) == (
        ("dm_mod", "kpartx"), ("dm_multipath", "multipath"), ("dm_service_time", ""),
    )  # fmt: skip
    assert {driven.module for driven in chain_of("dm-3", sys)} == {"nvme", "ahci", "sd_mod"}
