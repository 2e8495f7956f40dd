"""The steps of a restore as frozen values: printable, comparable, ready for `--json`. `apply` and others do them.

Pure. Imports `core` only. All offsets and sizes are bytes on the target disk unless a field says otherwise.
"""

from __future__ import annotations

import msgspec

from core.layout import Table
from core.sizes import format_size

Range = tuple[int, int]  # first byte, byte after the last


class Action(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True, tag_field="action"):
    """The base: every action says in one line what it will do."""

    def describe(self) -> str:
        """One line for people."""
        raise NotImplementedError


class ShrinkFilesystem(Action, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True, tag_field="action"):
    """Make the filesystem of an image's volume smaller, on a copy-on-write view of the image, before a byte is written
    to a target. `scratch_bytes` estimates what the view will take at most."""

    volume: str
    type: str
    from_bytes: int
    to_bytes: int
    scratch_bytes: int

    def describe(self) -> str:
        return (
            f"shrink {self.type} of {self.volume} from {format_size(self.from_bytes)} to {format_size(self.to_bytes)} "
            f"in a view of the image (scratch space up to {format_size(self.scratch_bytes)})"
        )


class ClearTable(Action, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True, tag_field="action"):
    """Remove the partition table of a disk that gets a filesystem without one; nothing to do when it has none."""

    disk: str
    path: str
    sector_bytes: int

    def describe(self) -> str:
        return f"{self.path}: remove an old partition table, if there is one"


class WriteTable(Action, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True, tag_field="action"):
    """Write this partition table; nothing to do when it is there already."""

    disk: str
    path: str
    table: Table
    disk_bytes: int
    sector_bytes: int

    def describe(self) -> str:
        return f"{self.path}: {self.table.kind} table of {self.disk} with {len(self.table.partitions)} partitions"


class ClearSpace(Action, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True, tag_field="action"):
    """Discard or zero what lies outside every partition."""

    disk: str
    path: str
    how: str
    ranges: tuple[Range, ...]
    sector_bytes: int

    def describe(self) -> str:
        size = format_size(sum(end - start for start, end in self.ranges))
        return f"{self.path}: {self.how} {size} of unallocated space"


class WriteVolume(Action, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True, tag_field="action"):
    """Write the first `size_bytes` of a volume at `offset_bytes`. `keep` are ranges *of the volume* that stay as they
    are on the target: the partition table's own bytes. `unused` says what happens where the filesystem uses nothing."""

    volume: str
    disk: str
    path: str
    offset_bytes: int
    size_bytes: int
    keep: tuple[Range, ...] = ()
    unused: str = "keep"

    def describe(self) -> str:
        where = f"at {format_size(self.offset_bytes)}" if self.offset_bytes else "from the start"
        rest = "" if self.unused == "keep" else f", {self.unused} its unused blocks"
        return f"{self.path}: write {self.volume}, {format_size(self.size_bytes)}, {where}{rest}"


class MakeSwap(Action, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True, tag_field="action"):
    """Make swap with its old UUID and label; `partition` is 0 on a bare disk."""

    disk: str
    path: str
    partition: int
    uuid: str
    label: str
    offset_bytes: int
    size_bytes: int
    sector_bytes: int

    def describe(self) -> str:
        return f"{self.path}: make swap, {format_size(self.size_bytes)}, UUID {self.uuid or 'none'}"


class GrowFilesystem(Action, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True, tag_field="action"):
    """Let the filesystem written at `offset_bytes` fill `to_bytes`."""

    volume: str
    disk: str
    path: str
    type: str
    offset_bytes: int
    from_bytes: int
    to_bytes: int
    sector_bytes: int

    def describe(self) -> str:
        return f"{self.path}: grow {self.type} of {self.volume} to {format_size(self.to_bytes)}"


AnyAction = ShrinkFilesystem | ClearTable | WriteTable | ClearSpace | WriteVolume | MakeSwap | GrowFilesystem


#: Tool → the Debian package that brings it.
PACKAGES = {
    "sfdisk": "fdisk", "partx": "util-linux", "blkid": "util-linux", "mkswap": "util-linux", "unshare": "util-linux",
    "blkdiscard": "util-linux", "fallocate": "util-linux", "mount": "mount", "e2fsck": "e2fsprogs",
    "resize2fs": "e2fsprogs", "xfs_growfs": "xfsprogs", "btrfs": "btrfs-progs", "fusermount3": "fuse3",
}  # fmt: skip
_TABLE_TOOLS = ("blkid", "sfdisk", "partx")
_GROW_TOOLS = {
    "ext2": ("e2fsck", "resize2fs"), "ext3": ("e2fsck", "resize2fs"), "ext4": ("e2fsck", "resize2fs"),
    "xfs": ("unshare", "mount", "xfs_growfs"), "btrfs": ("unshare", "mount", "btrfs"),
}  # fmt: skip


def tools_of(action: Action) -> tuple[str, ...]:
    """The system tools an action may start, all of them in PACKAGES: to be asked for before anything is written."""
    if isinstance(action, ShrinkFilesystem):
        return ("fusermount3", "e2fsck", "resize2fs")
    if isinstance(action, ClearTable | WriteTable):
        return _TABLE_TOOLS
    if isinstance(action, ClearSpace):
        return ("blkdiscard", "fallocate")
    if isinstance(action, MakeSwap):
        return ("mkswap",)
    return _GROW_TOOLS.get(action.type, ()) if isinstance(action, GrowFilesystem) else ()
