"""Every action's tools are known, with their packages."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest

from appliance.restore import Restoration, RestoreOptions, RestoreReport, apply_restore, require_tools, targets_of
from core.errors import ConfigError, KeyMissingError, ToolError, UnbootableError
from core.layout import Table, TableKind
from core.monitor import Monitor
from core.run import SystemRunner
from hardware import actions
from hardware.actions import (
    PACKAGES,
    ClearTable,
    GrowFilesystem,
    MakeSwap,
    OpenCrypt,
    RecreateFilesystem,
    ShrinkFilesystem,
    Spot,
    WriteTable,
    tools_of,
)
from hardware.boot.values import BootReport
from hardware.machine import Device, Inventory
from hardware.plan import Plan
from imager.repository.reader import OpenImage


def grow(kind: str) -> GrowFilesystem:
    return GrowFilesystem(
        volume="v", disk="d", path="/dev/x", type=kind, offset_bytes=0, from_bytes=1, to_bytes=2, sector_bytes=512
    )


def recreate(kind: str) -> RecreateFilesystem:
    return RecreateFilesystem(
        volume="v", disk="d", path="/dev/x", type=kind, uuid="", label="", offset_bytes=0, size_bytes=1, from_bytes=2,
        used_bytes=None, sector_bytes=512,
    )  # fmt: skip


SHRINK = ShrinkFilesystem(volume="v", type="ext4", from_bytes=2, to_bytes=1, scratch_bytes=1)
SWAP = MakeSwap(
    disk="d", path="/dev/x", partition=1, uuid="", label="", offset_bytes=0, size_bytes=4096, sector_bytes=512
)


@pytest.mark.parametrize(
    ("action", "tool", "package"),
    [
        (grow("xfs"), "xfs_growfs", "xfsprogs"),
        (grow("ext3"), "resize2fs", "e2fsprogs"),
        (grow("btrfs"), "btrfs", "btrfs-progs"),
        (SHRINK, "fusermount3", "fuse3"),
        (recreate("xfs"), "mkfs.xfs", "xfsprogs"),
        (recreate("ext4"), "mke2fs", "e2fsprogs"),
        (recreate("btrfs"), "btrfstune", "btrfs-progs"),
        (recreate("vfat"), "mkfs.vfat", "dosfstools"),
        (recreate("vfat"), "cp", "coreutils"),
        (SWAP, "mkswap", "util-linux"),
        (ClearTable(disk="d", path="/dev/x", sector_bytes=512), "sfdisk", "fdisk"),
    ],
)
def test_missing_tool_is_an_error_that_names_the_package(action: actions.Action, tool: str, package: str) -> None:
    with pytest.raises(ToolError) as caught:
        require_tools([SWAP, action], lambda name: None if name == tool else f"/bin/{name}")
    assert tool in caught.value.message and caught.value.hint == f"apt install {package}"
    require_tools([SWAP, action], lambda name: f"/bin/{name}")


def test_every_tool_has_a_package() -> None:
    every = [grow("ext4"), grow("xfs"), grow("btrfs"), SHRINK, SWAP, ClearTable(disk="d", path="/x", sector_bytes=512)]
    assert {name for action in every for name in tools_of(action)} <= set(PACKAGES)


def test_a_passphrase_nobody_knows_stops_it_before_the_first_write() -> None:
    """The table comes first in the plan: it would be written by the time the container is reached."""
    spot = Spot(path="/dev/nowhere", number=1, size_bytes=1 << 30)
    table = Table(kind=TableKind.GPT, id="x")
    write = WriteTable(disk="vda", path="/dev/nowhere", table=table, disk_bytes=1 << 30, sector_bytes=512)
    plan = Plan(actions=(write, OpenCrypt(name="vault", uuid="u", spot=spot)))
    made = Restoration(cast(OpenImage, None), Inventory(firmware="bios"), plan, RestoreOptions(to=()), {})
    with pytest.raises(KeyMissingError) as caught:
        apply_restore(made, SystemRunner(), Monitor())
    assert "vault" in caught.value.message and "--luks vault=" in (caught.value.hint or "")


def test_a_restore_that_cannot_boot_is_not_a_success() -> None:
    report = RestoreReport(server="web1", image="x", targets={}, seconds=1.0, volumes=[])
    report.require_boot()
    boot = BootReport(nics={})
    boot.check("menu", True, "all there")
    replace(report, boot=boot).require_boot()
    boot.check("root filesystem", False, "none holds a Linux system")
    with pytest.raises(UnbootableError, match="root filesystem: none holds"):
        replace(report, boot=boot).require_boot()


def _inventory() -> Inventory:
    return Inventory(
        firmware="bios", devices=tuple(Device(path=f"/dev/{n}", name=n, size_bytes=1, serial=n) for n in ("a", "b"))
    )


def test_disks_that_nobody_names_stay_out_when_all_targets_are_named() -> None:
    assert list(targets_of(["vda", "vdb"], RestoreOptions(to=("vdb=a",)), _inventory())) == ["vdb"]
    assert list(targets_of(["vda", "vdb"], RestoreOptions(to=("a", "b")), _inventory())) == ["vda", "vdb"]
    with pytest.raises(ConfigError, match="no part of vda, vdb"):
        targets_of(["vda", "vdb"], RestoreOptions(to=("a",), only=("vg0-root",)), _inventory())


@pytest.mark.parametrize("to", [("a",), ("a", "b", "a"), ("vda=a", "vda=b")])
def test_targets_that_could_be_meant_otherwise_are_refused(to: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        targets_of(["vda", "vdb"], RestoreOptions(to=to), _inventory())
