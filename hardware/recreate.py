"""Filesystems that can be made anew and filled file by file: which, when one must be, and how much room that takes.

Pure values and arithmetic, in bytes. Imports `core` only. Made anew is what cannot be put back as it is: a filesystem
that cannot shrink onto a smaller place, or one made for smaller sectors than the disk has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from core.layout import Content, Disk, Layout, VolumeSpec, volumes_of
from core.sizes import MIB, align_up

EXT = frozenset({"ext2", "ext3", "ext4"})
RECREATABLE = EXT | {"xfs", "btrfs", "vfat"}
#: The request that means every volume.
ALL = "all"
#: mkfs.xfs since xfsprogs 5.19 makes nothing smaller; mkfs.btrfs with metadata twice needs about 110 MiB.
_FLOOR = {"xfs": 300 * MIB, "btrfs": 256 * MIB}
#: What a filesystem takes for itself: so much, and so many thousandths of its size, of these no more than the third (0:
#: no limit). ext: inode tables and journal; xfs: a log of 64 MiB or 1/2048, reverse mapping, what it keeps back; btrfs:
#: metadata twice, in chunks of its own; vfat: its tables. Measured on empty ones of 300 MiB to 200 GB.
_OWN = {"xfs": (112 * MIB, 25, 0), "btrfs": (208 * MIB, 80, 2560 * MIB), "vfat": (MIB, 5, 0)}
_OWN_EXT = (48 * MIB, 40, 0)


@dataclass(frozen=True)
class Recreating:
    """By volume name: which may be made anew, and which of them have to be for the target's sectors."""

    allowed: frozenset[str] = frozenset()
    must: frozenset[str] = frozenset()

    @classmethod
    def of(cls, layout: Layout, sectors: Mapping[str, int], request: frozenset[str]) -> Recreating:
        """`sectors`: by disk, the sector size of its target; `request`: names of volumes, or ALL."""
        specs = [spec for spec in volumes_of(layout) if spec.content.type in RECREATABLE]
        allowed = {spec.name for spec in specs if ALL in request or spec.name in request}
        larger = {disk.name for disk in layout.disks if sectors.get(disk.name, 0) > disk.sector_bytes}
        must = {
            spec.name
            for spec in specs
            if spec.name in allowed and spec.disk in larger and sector_fault(spec.content, sectors[spec.disk])
        }
        return cls(frozenset(allowed), frozenset(must))


def sector_fault(content: Content, sector_bytes: int) -> str:
    """Why a filesystem cannot be used as it is on sectors that large; empty when it can.

    Linux refuses a filesystem whose blocks, or whose sectors as it recorded them, are smaller than the disk's
    (sb_set_blocksize in block/bdev.c; xfs_open_devices; fat_fill_super). ext and btrfs record no sectors.
    """
    kind = content.type
    if kind in EXT or kind == "btrfs":
        if content.block_bytes and not content.block_bytes % sector_bytes:
            return ""
        return (
            f"its blocks are of {content.block_bytes} bytes" if content.block_bytes else "its block size is not known"
        )
    if kind in ("xfs", "vfat"):
        if content.sector_bytes and not content.sector_bytes % sector_bytes:
            return ""
        known = f"it was made for sectors of {content.sector_bytes} bytes"
        return known if content.sector_bytes else "the sectors it was made for are not known"
    return f"nobody can tell whether {kind or 'what is in it'} depends on the sector size"


def own_bytes(kind: str, size_bytes: int) -> int:
    """What a filesystem of that size takes for itself at most, as far as can be said before it is made."""
    fixed, share, most = _OWN.get(kind, _OWN_EXT)
    grows = size_bytes * share // 1000
    return fixed + (min(grows, most) if most else grows)


def least_recreated(content: Content) -> int | None:
    """The smallest size such a filesystem can be made anew with: what is used now (which counts the old one's own
    needs too), the new one's own, and a twentieth to spare. None where what is used is not known."""
    if content.type not in RECREATABLE or content.used_bytes is None:
        return None
    fixed, share, most = _OWN.get(content.type, _OWN_EXT)
    files = content.used_bytes * 105 // 100
    wanted = (files + fixed) * 1000 // (1000 - share) + 1
    wanted = min(wanted, files + fixed + most) if most else wanted
    return align_up(max(wanted, _FLOOR.get(content.type, 0)), MIB)


def unrecreatable(spec: VolumeSpec) -> str:
    """Why a volume that somebody named cannot be made anew; empty when it can."""
    if spec.content.type in RECREATABLE:
        return ""
    what = spec.content.type or f"no filesystem anybody knows ({spec.role})"
    return f"it holds {what}, which cannot be made anew and copied file by file"


def larger_sectors(disk: Disk, volumes: Iterable[VolumeSpec], sector_bytes: int) -> dict[str, str]:
    """By name, the volumes with files that cannot be used on larger sectors as they are, and why."""
    faults = {
        spec.name: sector_fault(spec.content, sector_bytes) for spec in volumes if spec.content.type in RECREATABLE
    }
    return {name: fault for name, fault in faults.items() if fault}
