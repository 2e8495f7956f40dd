"""The steps of a restore as frozen values: printable, comparable, ready for `--json`. `apply` and others do them.

Pure. Imports `core` only. All offsets and sizes are bytes on the target disk unless a field says otherwise.
"""

from __future__ import annotations

import msgspec

from core.layout import LvKind, Table
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


class RecreateFilesystem(Action, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True, tag_field="action"):
    """Make a volume's filesystem anew at `offset_bytes`, with its old UUID and label, and copy its files from the
    mounted image, instead of writing its bytes. `from_bytes` is what it had; `used_bytes` what it used then, None where
    that is not known."""

    volume: str
    disk: str
    path: str
    type: str
    uuid: str
    label: str
    offset_bytes: int
    size_bytes: int
    from_bytes: int
    used_bytes: int | None
    sector_bytes: int
    unused: str = "keep"

    def describe(self) -> str:
        return (
            f"{self.path}: make {self.type} of {self.volume} anew, {format_size(self.size_bytes)} "
            f"(was {format_size(self.from_bytes)}), UUID {self.uuid or 'none'}, and copy its files"
        )


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


class Spot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device that a plan names before it is there: partition `number` of the disk at `path`, beginning at
    `offset_bytes` of it, or, with number 0, all of what is at `path`. `size_bytes` is what it will have."""

    path: str
    size_bytes: int
    number: int = 0
    offset_bytes: int = 0
    sector_bytes: int = 512

    @property
    def end_bytes(self) -> int:
        """The byte after its last, on the disk."""
        return self.offset_bytes + self.size_bytes

    def describe(self) -> str:
        """For people."""
        return f"partition {self.number} of {self.path}" if self.number else self.path


class RetireTwin(Action, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True, tag_field="action"):
    """Take the signatures off what another disk of the machine holds and the plan makes too: `what` says of it. Only
    the signatures' own bytes go, and the report keeps them."""

    spot: Spot
    what: str

    def describe(self) -> str:
        return f"{self.spot.describe()}: retire its {self.what}; its signatures go into the report, the rest stays"


class LeaveArray(Action, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True, tag_field="action"):
    """Take md's superblock off what was a member of an array and shall be none; nothing to do when it has none."""

    spot: Spot

    def describe(self) -> str:
        return f"{self.spot.describe()}: no member of an array any more"


class MakeEsp(Action, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True, tag_field="action"):
    """Make an EFI system partition that the image does not have; nothing to do when it is there. `uuid` is the FAT's
    serial number as blkid writes it."""

    spot: Spot
    uuid: str

    def describe(self) -> str:
        return f"{self.spot.path}: make an EFI system partition, {format_size(self.spot.size_bytes)}"


class MakeArray(Action, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True, tag_field="action"):
    """Make an md array with its old UUID, or assemble it when it is there. `members` in slot order, None for one that
    is missing; `size_bytes` is the array's."""

    name: str
    path: str
    uuid: str
    label: str
    level: str
    metadata: str
    chunk_bytes: int
    data_offset_bytes: int
    size_bytes: int
    members: tuple[Spot | None, ...]

    def describe(self) -> str:
        on = ", ".join(member.describe() if member else "missing" for member in self.members)
        return f"{self.path}: {self.level} array, {format_size(self.size_bytes)}, on {on}"


class OpenCrypt(Action, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True, tag_field="action"):
    """Open a LUKS container whose header has just been written; a person knows the passphrase."""

    name: str
    uuid: str
    spot: Spot

    def describe(self) -> str:
        return f"{self.spot.describe()}: open the LUKS container as {self.name}"


class PlannedVolume(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A logical volume to make; `pool`, `chunk_bytes` and `metadata_bytes` as in the layout."""

    name: str
    kind: LvKind
    size_bytes: int
    pool: str = ""
    chunk_bytes: int = 0
    metadata_bytes: int = 0


class MakeGroup(Action, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True, tag_field="action"):
    """Make a volume group and its volumes, or activate it when it is there just so. Its UUIDs are new ones."""

    name: str
    extent_bytes: int
    pvs: tuple[Spot, ...]
    volumes: tuple[PlannedVolume, ...]

    def describe(self) -> str:
        on = ", ".join(pv.describe() for pv in self.pvs)
        what = ", ".join(f"{volume.name} {format_size(volume.size_bytes)}" for volume in self.volumes)
        return f"{on}: volume group {self.name} with {what or 'no volumes'}"


class RepairBoot(Action, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True, tag_field="action"):
    """Make the restored server boot here: boot loader for `firmware` on `disks`, initramfs, mounts, network."""

    firmware: str
    disks: tuple[str, ...]
    esps: tuple[Spot, ...] = ()

    def describe(self) -> str:
        return f"{', '.join(self.disks)}: make it boot ({self.firmware.upper()}): loader, initramfs, fstab, network"


AnyAction = (
    ShrinkFilesystem | RetireTwin | ClearTable | WriteTable | ClearSpace | LeaveArray | MakeEsp | MakeArray | OpenCrypt
    | MakeGroup | WriteVolume | RecreateFilesystem | MakeSwap | GrowFilesystem | RepairBoot
)  # fmt: skip


#: Tool → the Debian package that brings it.
PACKAGES = {
    "sfdisk": "fdisk", "partx": "util-linux", "blkid": "util-linux", "mkswap": "util-linux", "unshare": "util-linux",
    "blkdiscard": "util-linux", "fallocate": "util-linux", "mount": "mount", "umount": "mount", "e2fsck": "e2fsprogs",
    "resize2fs": "e2fsprogs", "xfs_growfs": "xfsprogs", "btrfs": "btrfs-progs", "fusermount3": "fuse3",
    "mkfs.vfat": "dosfstools", "mdadm": "mdadm", "cryptsetup": "cryptsetup-bin", "lvs": "lvm2", "wipefs": "util-linux",
    "thin_check": "thin-provisioning-tools", "kpartx": "kpartx", "dmsetup": "dmsetup", "cp": "coreutils",
    "mkfs.xfs": "xfsprogs", "xfs_db": "xfsprogs", "mke2fs": "e2fsprogs", "dumpe2fs": "e2fsprogs",
    "tune2fs": "e2fsprogs", "mkfs.btrfs": "btrfs-progs", "btrfstune": "btrfs-progs",
}  # fmt: skip
_TABLE_TOOLS = ("blkid", "sfdisk")
#: Where multipath maps are, which are the only disks there.
_MAPS = "/dev/mapper/"
_GROW_TOOLS = {
    "ext2": ("e2fsck", "resize2fs"), "ext3": ("e2fsck", "resize2fs"), "ext4": ("e2fsck", "resize2fs"),
    "xfs": ("unshare", "mount", "umount", "xfs_growfs"), "btrfs": ("unshare", "mount", "umount", "btrfs"),
}  # fmt: skip
_COPY_TOOLS = ("fusermount3", "blkid", "unshare", "mount", "umount", "cp", "wipefs")
_EXT_TOOLS = ("dumpe2fs", "mke2fs", "tune2fs")
_MAKE_TOOLS = {
    "ext2": _EXT_TOOLS, "ext3": _EXT_TOOLS, "ext4": _EXT_TOOLS, "xfs": ("xfs_db", "mkfs.xfs"),
    "btrfs": ("btrfs", "btrfstune", "mkfs.btrfs"), "vfat": ("mkfs.vfat",),
}  # fmt: skip


def tools_of(action: Action) -> tuple[str, ...]:
    """The system tools an action may start, all of them in PACKAGES: to be asked for before anything is written."""
    if isinstance(action, ShrinkFilesystem):
        return ("fusermount3", "e2fsck", "resize2fs")
    if isinstance(action, RecreateFilesystem):
        clear = ("blkdiscard", "fallocate") if action.unused != "keep" else ()
        return (*_COPY_TOOLS, *clear, *_MAKE_TOOLS.get(action.type, ()))
    if isinstance(action, ClearTable | WriteTable):
        return (*_TABLE_TOOLS, *(("kpartx", "dmsetup") if action.path.startswith(_MAPS) else ("partx",)))
    if isinstance(action, ClearSpace):
        return ("blkdiscard", "fallocate")
    if isinstance(action, MakeSwap):
        return ("mkswap",)
    if isinstance(action, MakeEsp):
        return ("blkid", "mkfs.vfat")
    if isinstance(action, RetireTwin):
        return ("wipefs",)
    if isinstance(action, LeaveArray):
        return ("mdadm",)
    if isinstance(action, MakeArray):
        return ("mdadm", "wipefs")
    if isinstance(action, OpenCrypt):
        return ("cryptsetup",)
    if isinstance(action, MakeGroup):
        thin = any(volume.kind is LvKind.POOL for volume in action.volumes)
        return ("lvs", "wipefs", "thin_check") if thin else ("lvs", "wipefs")
    return _GROW_TOOLS.get(action.type, ()) if isinstance(action, GrowFilesystem) else ()
