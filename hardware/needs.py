"""How small what carries a stack can become, and how a volume group's room is shared out. Pure arithmetic, in bytes.

Imports `core` and `hardware.{placement,recreate}`. In a group gives way, in this order: free extents, swap down to 64
MiB, ext filesystems down to their least size and a margin, filesystems that may be made anew. Groups over several PVs
keep their size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from core.layout import Array, Content, Crypt, Group, Layout, LogicalVolume, LvKind, Partition, partition_node
from core.sizes import MIB, align_down, align_up
from hardware.placement import Least, gives_last, least_content
from hardware.recreate import Recreating, least_recreated

#: Where `pvcreate` puts the first extent (lvm.conf, default_data_alignment).
PV_START_BYTES = MIB


@dataclass(frozen=True)
class Stackings:
    """What stands on a node: an array's member, a container, a PV; each by the carrier's name."""

    arrays: dict[str, Array]
    crypts: dict[str, Crypt]
    groups: dict[str, Group]
    without_md: bool = False
    recreating: Recreating = Recreating()

    @classmethod
    def of(cls, layout: Layout, without_md: bool = False, recreating: Recreating | None = None) -> Stackings:
        """From a layout; `without_md`: mirrors are to be dissolved; `recreating`: what may be made anew."""
        return cls(
            arrays={member: array for array in layout.arrays for member in array.members},
            crypts={crypt.node: crypt for crypt in layout.crypts},
            groups={pv.node: group for group in layout.groups for pv in group.pvs},
            without_md=without_md,
            recreating=recreating or Recreating(),
        )

    def least(self, node: str, content: Content, size_bytes: int) -> int:
        """The smallest size a node can be given."""
        found = size_bytes
        if (array := self.arrays.get(node)) is not None:
            if array.level == "raid1":
                inner = self.least(array.name, array.content, array.size_bytes)
                found = inner + (0 if self.without_md else md_overhead(array, size_bytes))
        elif (crypt := self.crypts.get(node)) is not None:
            found = crypt.header_bytes + self.least(crypt.name, crypt.content, crypt.size_bytes)
        elif (group := self.groups.get(node)) is not None:
            if len(group.pvs) == 1:
                found = PV_START_BYTES + self.least_extents(group) * group.extent_bytes
        else:
            may, must = node in self.recreating.allowed, node in self.recreating.must
            return least_content(content, size_bytes, may=may, must=must)
        return min(size_bytes, align_up(found, MIB))

    def could_give(self, node: str, content: Content, size_bytes: int) -> list[str]:
        """The volumes on a node that would take less room if they might be made anew."""
        if (array := self.arrays.get(node)) is not None:
            return self.could_give(array.name, array.content, array.size_bytes) if array.level == "raid1" else []
        if (crypt := self.crypts.get(node)) is not None:
            return self.could_give(crypt.name, crypt.content, crypt.size_bytes)
        if (group := self.groups.get(node)) is not None:
            plain = [each for each in group.volumes if each.kind in (LvKind.LINEAR, LvKind.OTHER)]
            found = [self.could_give(each.node, each.content, each.size_bytes) for each in plain]
            return sum(found, []) if len(group.pvs) == 1 else []
        least = least_recreated(content)
        gives = gives_last(content) and least is not None and least < size_bytes
        return [node] if gives and node not in self.recreating.allowed else []

    def above(self, node: str) -> frozenset[str]:
        """The nodes of everything that stands on a node, directly or not."""
        found: set[str] = set()
        if (array := self.arrays.get(node)) is not None:
            found.add(array.name)
        if (crypt := self.crypts.get(node)) is not None:
            found.add(crypt.name)
        if (group := self.groups.get(node)) is not None:
            found.update(each.node for each in group.volumes)
        return frozenset(found.union(*(self.above(each) for each in found)))

    def least_of(self, disk: str) -> Least:
        """The same for the partitions of a disk, as `placement` asks for it."""

        def least(part: Partition) -> int:
            return self.least(partition_node(disk, part.number), part.content, part.size_bytes)

        return least

    def least_extents(self, group: Group) -> int:
        """How many extents a group's volumes need at least."""
        return sum(_extents(self.least_volume(each), group) for each in group.volumes) + spare_extents(group)

    def least_volume(self, volume: LogicalVolume) -> int:
        """The least size of a logical volume; a thin one takes no extents of its own, a pool keeps its size."""
        if volume.kind is LvKind.THIN:
            return 0
        if volume.kind is LvKind.POOL:
            return volume.size_bytes
        return self.least(volume.node, volume.content, volume.size_bytes)

    def share(self, group: Group, room_bytes: int, grow: str = "") -> dict[str, int] | None:
        """Sizes of the group's volumes by name within `room_bytes` of extents; the volume whose node is `grow` takes
        what is left. None when they do not fit."""
        extents = room_bytes // group.extent_bytes
        sizes = {each.name: _extents(each.size_bytes, group) for each in group.volumes if each.kind is not LvKind.THIN}
        over = sum(sizes.values()) + spare_extents(group) - extents
        for volume in self._givers(group):
            if over <= 0:
                break
            given = min(over, sizes[volume.name] - _extents(self.least_volume(volume), group))
            sizes[volume.name] -= given
            over -= given
        if over > 0:
            return None
        found = {name: count * group.extent_bytes for name, count in sizes.items()}
        found.update((each.name, each.size_bytes) for each in group.volumes if each.kind is LvKind.THIN)
        for volume in group.volumes:
            if volume.node == grow and volume.name in sizes and over < 0:
                found[volume.name] += -over * group.extent_bytes
        return found

    def _givers(self, group: Group) -> Sequence[LogicalVolume]:
        swaps = [each for each in group.volumes if each.content.type == "swap" and each.kind is not LvKind.THIN]
        others = [each for each in group.volumes if each not in swaps and each.kind is not LvKind.THIN]

        def last(volume: LogicalVolume) -> tuple[bool, int]:
            return gives_last(volume.content), self.least_volume(volume) - volume.size_bytes

        return [*swaps, *sorted(others, key=last)]


def md_overhead(array: Array, member_bytes: int) -> int:
    """What a member of a mirror loses to md: all but the array's own size, whatever the superblock's version."""
    return max(member_bytes - array.size_bytes, array.data_offset_bytes)


def spare_extents(group: Group) -> int:
    """What thin pools take beside their data: the metadata of each, and one spare as large as the largest."""
    metadata = [_extents(each.metadata_bytes, group) for each in group.volumes if each.kind is LvKind.POOL]
    return sum(metadata) + max(metadata, default=0)


def pv_room(size_bytes: int, group: Group) -> int:
    """The bytes of extents on a PV of this size."""
    return align_down(max(size_bytes - PV_START_BYTES, 0), group.extent_bytes)


def _extents(size_bytes: int, group: Group) -> int:
    return -(-size_bytes // group.extent_bytes)
