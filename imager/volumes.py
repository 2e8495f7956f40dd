"""Volumes as an image of either mechanism tells of them, and whether what it tells is possible.

Pure; may import `core` and `imager.spans`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import msgspec

from core.errors import FormatError
from core.layout import Layout, VolumeSpec, partition_node
from imager.spans import BLOCK_BYTES

TIME = re.compile(r"\d{8}T\d{6}Z")
SERVER_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
#: A volume has at most so many blocks.
BLOCK_MAX = (1 << 47) - 1
_VOLUME_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,119}")
_HELD = frozenset({"", "offline", "lvm-thick", "lvm-thin", "frozen", "agreed", "live"})
_TRACKED = frozenset({"", "thin", "cow"})
_SECTORS = frozenset(1 << bits for bits in range(9, 17))


class Volume(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One imaged volume. `method` is `used`, `whole` or `live`; `unreadable` lists [offset, length] taken as zeros.

    `held` is how it stood still (`offline`, `lvm-thick`, `lvm-thin`, `frozen`, `agreed`, `live`; empty: made by an
    older agent); `tracked` by what it was known what changed (`thin`, `cow`; empty: all was read), `read_bytes` how
    much was read of it, `audited` how many blocks believed unchanged were read besides, `audit_missed` how many of
    those had changed (then all was read after all).
    """

    id: int
    spec: VolumeSpec
    method: str
    used_bytes: int
    unreadable: tuple[tuple[int, int], ...] = ()
    held: str = ""
    tracked: str = ""
    read_bytes: int = 0
    audited: int = 0
    audit_missed: int = 0

    @property
    def blocks(self) -> int:
        """Number of 64 KiB blocks, the last one maybe partial."""
        return -(-self.spec.size_bytes // BLOCK_BYTES)


def volume_ids(specs: tuple[VolumeSpec, ...]) -> dict[str, int]:
    """Volume name → id, from the keys alone, so that every site and every night agree (`docs/format.md`, Blocks)."""
    ids: dict[str, int] = {}
    taken: set[int] = set()
    for spec in sorted(specs, key=lambda each: each.key):
        number = int.from_bytes(hashlib.sha256(spec.key.encode()).digest()[:4], "little")
        while number in taken:
            number = (number + 1) % (1 << 32)
        taken.add(number)
        ids[spec.name] = number
    return ids


def need(condition: bool, what: str) -> None:
    """FormatError when something that an object says is impossible."""
    if not condition:
        raise FormatError(f"a manifest's {what} is impossible")


def all_natural(value: object) -> bool:
    """Whether every number in a structure is one that 64 bits hold, and not negative."""
    if isinstance(value, msgspec.Struct):
        return all(all_natural(getattr(value, name)) for name in value.__struct_fields__)
    if isinstance(value, tuple):
        return all(all_natural(each) for each in value)
    return not isinstance(value, int) or 0 <= value < 1 << 64


def _check_layout(layout: Layout) -> None:
    need(len({disk.name for disk in layout.disks}) == len(layout.disks), "layout (two disks of one name)")
    for disk in layout.disks:
        need(_VOLUME_NAME.fullmatch(disk.name) is not None, "disk name")
        need(disk.size_bytes > 0 and disk.sector_bytes in _SECTORS, "disk size")
        for part in disk.table.partitions if disk.table else ():
            need(part.number > 0 and part.size_bytes > 0 and part.end_bytes <= disk.size_bytes, "partition")


def _node_sizes(layout: Layout) -> dict[str, int]:
    """The size of every node that a volume may lie on. A name that stands twice is impossible."""
    parts = [
        (partition_node(disk.name, part.number), part.size_bytes)
        for disk in layout.disks
        for part in (disk.table.partitions if disk.table else ())
    ]
    upper = [(volume.node, volume.size_bytes) for group in layout.groups for volume in group.volumes]
    upper += [(disk.name, disk.size_bytes) for disk in layout.disks]
    upper += [(array.name, array.size_bytes) for array in layout.arrays]
    upper += [(crypt.name, crypt.size_bytes) for crypt in layout.crypts]
    found = dict(parts + upper)
    need(len(found) == len(parts) + len(upper), "layout (two nodes of one name)")
    need(all(_VOLUME_NAME.fullmatch(name) for name in found), "node name")
    return found


def check_volumes(layout: Layout, volumes: Sequence[Volume]) -> None:
    """FormatError unless a layout, and volumes on it, are possible: both may come from a hostile site."""
    _check_layout(layout)
    sizes = _node_sizes(layout)
    ids = {volume.id for volume in volumes}
    names = {volume.spec.name for volume in volumes}
    need(len(ids) == len(names) == len(volumes), "volume list (a name or id stands twice)")
    for volume in volumes:
        spec = volume.spec
        need(_VOLUME_NAME.fullmatch(spec.name) is not None, "volume name")
        need(all_natural(spec) and volume.used_bytes >= 0 <= volume.read_bytes, "volume numbers")
        need(0 <= volume.id < 1 << 32 and 0 < spec.size_bytes <= BLOCK_MAX * BLOCK_BYTES, "volume size or id")
        need(spec.disk in sizes and 0 <= spec.offset_bytes, "volume place")
        need(spec.offset_bytes + spec.size_bytes <= sizes[spec.disk], "volume place")
        need(volume.method in ("used", "whole", "live"), "volume method")
        need(volume.held in _HELD and volume.tracked in _TRACKED, "volume method")
        need(0 <= volume.audit_missed <= volume.audited < 1 << 64, "volume numbers")
        need(
            all(0 <= at and 0 < size and at + size <= spec.size_bytes for at, size in volume.unreadable),
            "unreadable range",
        )
