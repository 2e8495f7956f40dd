"""A small server for the unit tests: its layout, what is there after a restore, and trees of files."""

from __future__ import annotations

from pathlib import Path

from core.layout import (
    Array,
    Content,
    Crypt,
    Disk,
    Group,
    Interface,
    Layout,
    LogicalVolume,
    LvKind,
    Partition,
    PhysicalVolume,
    Table,
    TableKind,
)
from hardware.boot.devices import Names, Now
from hardware.boot.values import BootRequest, Restored

BOOT, ROOT, DATA = "b0000000-0000-4000-8000-00000000000b", "a0000000-0000-4000-8000-00000000000a", "data-uuid"
BOOT_GUID = "11111111-AAAA-4000-8000-000000000002"
MD_OLD, MD_NEW = "0f0e0d0c:0b0a0908:07060504:03020100", "ffffffff:eeeeeeee:dddddddd:cccccccc"
CRYPT = "c0000000-0000-4000-8000-00000000000c"


def part(number: int, kind: str, uuid: str, guid: str = "") -> Partition:
    """A partition of 1 GiB; only what it holds matters here."""
    content = Content(type=kind, uuid=uuid)
    return Partition(number=number, start_bytes=number << 30, size_bytes=1 << 30, type="x", uuid=guid, content=content)


def layout() -> Layout:
    """sda: ESP, /boot, PV with root; sdb: a data filesystem and swap; md1 with a LUKS container."""
    sda = (part(1, "vfat", "AAAA-0001"), part(2, "ext4", BOOT, BOOT_GUID), part(3, "LVM2_member", "pv-old"))
    sdb = (part(1, "xfs", DATA), part(2, "swap", "swap-old"))
    return Layout(
        disks=tuple(
            Disk(
                name=name, size_bytes=8 << 30, sector_bytes=512, serial=serial,
                table=Table(kind=TableKind.GPT, id="x", partitions=parts),
            )
            for name, serial, parts in (("sda", "OLDA", sda), ("sdb", "OLDB", sdb))
        ),
        arrays=(
            Array(
                name="md1", uuid=MD_OLD, level="raid1", metadata="1.2", slots=2, size_bytes=1 << 30, members=(),
                label="host:1", content=Content(type="crypto_LUKS", uuid=CRYPT),
            ),
        ),
        crypts=(
            Crypt(
                name="safe", node="md1", uuid=CRYPT, version=2, header_bytes=16 << 20, size_bytes=1 << 30,
                content=Content(type="ext4", uuid="safe-uuid"),
            ),
        ),
        groups=(
            Group(
                name="vg0", uuid="vg", extent_bytes=4 << 20, size_bytes=1 << 30, free_bytes=0,
                pvs=(PhysicalVolume(node="sda-part3", uuid="pv-old", size_bytes=1 << 30),),
                volumes=(
                    LogicalVolume(
                        name="root", node="vg0-root", uuid="lv", kind=LvKind.LINEAR, size_bytes=1 << 30,
                        content=Content(type="ext4", uuid=ROOT),
                    ),
                ),
            ),
        ),
        interfaces=(Interface(name="lan0", mac="52:54:00:AA:00:01", addresses=("192.0.2.7/24",)),),
        firmware="bios",
    )  # fmt: skip


NOW = (
    Now("/dev/nvme0n1p1", uuid="EEEE-0001", type="vfat"),
    Now("/dev/nvme0n1p2", uuid=BOOT, partuuid="99999999-aaaa-4000-8000-000000000002", type="ext4"),
    Now("/dev/nvme0n1p3", uuid="pv-new", type="LVM2_member"),
    Now("/dev/mapper/vg0-root", uuid=ROOT, type="ext4"),
    Now("/dev/md1", uuid=CRYPT, type="crypto_LUKS"),
    Now("/dev/mapper/safe", uuid="safe-uuid", type="ext4"),
)


def request(**changes: object) -> BootRequest:
    """The server of `layout` on one NVMe disk; sdb is lost."""
    before = layout()
    filesystems = (
        Restored("sda-part2", "/dev/nvme0n1p2", Content(type="ext4", uuid=BOOT)),
        Restored("vg0-root", "/dev/mapper/vg0-root", Content(type="ext4", uuid=ROOT)),
        Restored("safe", "/dev/mapper/safe", Content(type="ext4", uuid="safe-uuid")),
    )
    values: dict[str, object] = {
        "filesystems": filesystems, "disks": ("/dev/nvme0n1",), "firmware": "uefi", "layout": before,
        "esp": "/dev/nvme0n1p1", "interfaces_before": before.interfaces, "crypts": before.crypts,
    }  # fmt: skip
    return BootRequest(**{**values, **changes})  # type: ignore[arg-type]


def names() -> Names:
    """Old names to what is there now."""
    return Names(request(), NOW)


def grow(root: Path, files: dict[str, str]) -> Path:
    """Make a tree of text files; folders end in a slash."""
    for name, text in files.items():
        path = root / name.lstrip("/")
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return root
