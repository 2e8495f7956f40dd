"""Every action's tools are known, with their packages."""

from __future__ import annotations

import pytest

from appliance.restore import require_tools
from core.errors import ToolError
from hardware import actions
from hardware.actions import PACKAGES, ClearTable, GrowFilesystem, MakeSwap, ShrinkFilesystem, tools_of


def grow(kind: str) -> GrowFilesystem:
    return GrowFilesystem(
        volume="v", disk="d", path="/dev/x", type=kind, offset_bytes=0, from_bytes=1, to_bytes=2, sector_bytes=512
    )


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
