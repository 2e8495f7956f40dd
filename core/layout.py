"""Layout: disks, tables, md, LUKS, LVM and filesystems as values. `hardware` reads and plans with it, an image carries
it.

It stands in `core` because `imager` and `hardware` do not import each other. All sizes and offsets are bytes. A
*node* is anything that bytes can be read from, by a name that is unique in the layout and safe in file names: a disk
(`vda`), a partition (`vda-part3`), an array (`md0`), an opened LUKS container (its mapper name), a logical volume (its
device-mapper name, `vg0-root`). What stands on what is told by node names.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import msgspec


class TableKind(StrEnum):
    GPT = "gpt"
    DOS = "dos"


class Role(StrEnum):
    """What a dos partition is; GPT partitions are all primary."""

    PRIMARY = "primary"
    EXTENDED = "extended"
    LOGICAL = "logical"


class Content(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a partition or a bare disk holds, as blkid names it (`ext4`, `xfs`, `swap`, `LVM2_member`, …).

    `type` is empty when nothing was recognised. `min_bytes` is the smallest size a shrinkable filesystem can be
    given (ext4 as estimated by resize2fs), None when it cannot shrink or that is not known. `sector_bytes` is the
    sector size the filesystem was made for, 0 when it does not care.
    """

    type: str = ""
    uuid: str = ""
    label: str = ""
    size_bytes: int = 0
    used_bytes: int | None = None
    min_bytes: int | None = None
    block_bytes: int = 0
    sector_bytes: int = 0


class Partition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One partition. `type` is a GPT type GUID or a dos type in hex (`83`); `attrs` the 64 GPT attribute bits
    (UEFI 2.10, 5.3.3); `active` the dos boot flag. `uuid` is the GPT unique GUID, or DISKID-NN for dos."""

    number: int
    start_bytes: int
    size_bytes: int
    type: str
    uuid: str = ""
    name: str = ""
    attrs: int = 0
    active: bool = False
    role: Role = Role.PRIMARY
    content: Content = Content()

    @property
    def end_bytes(self) -> int:
        """First byte after the partition."""
        return self.start_bytes + self.size_bytes


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A partition table. `id` is the GPT disk GUID or the dos disk id (`0x1234abcd`); `entries` the GPT table length;
    `first_bytes` the first usable byte (GPT first-lba)."""

    kind: TableKind
    id: str
    first_bytes: int = 0
    entries: int = 128
    partitions: tuple[Partition, ...] = ()


class Disk(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A disk as it was imaged. `name` is unique within the layout and safe in file names; `multipath`: it was a map
    that joins several paths."""

    name: str
    size_bytes: int
    sector_bytes: int
    physical_sector_bytes: int = 0
    serial: str = ""
    wwn: str = ""
    model: str = ""
    transport: str = ""
    multipath: bool = False
    table: Table | None = None
    content: Content = Content()


class Array(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An md array. `label` is the name in its superblock (`host:0`), `metadata` the superblock's version (`1.2`),
    `slots` the number of devices it is meant to have; `members` are the nodes it has, in slot order, fewer when
    `degraded`.
    `data_offset_bytes` is where a member's data begins (md(4); `mdadm --examine`)."""

    name: str
    uuid: str
    level: str
    metadata: str
    slots: int
    size_bytes: int
    members: tuple[str, ...]
    label: str = ""
    chunk_bytes: int = 0
    data_offset_bytes: int = 0
    degraded: bool = False
    content: Content = Content()


class Crypt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A LUKS container that was open. `node` is what it is made on; `header_bytes` is where its data begins (headers,
    key slots and tokens lie before); `tokens` are the kinds of LUKS2 tokens (`systemd-tpm2`, `clevis`); `key_slots` how
    many key slots there are, those of tokens included."""

    name: str
    node: str
    uuid: str
    version: int
    header_bytes: int
    size_bytes: int
    sector_bytes: int = 512
    key_slots: int = 0
    tokens: tuple[str, ...] = ()
    content: Content = Content()


class LvKind(StrEnum):
    """What a logical volume is, as far as making it again goes. OTHER: a kind that is imaged, but made again as linear
    (raid, cache, vdo, striped) and said to be so."""

    LINEAR = "linear"
    POOL = "pool"
    THIN = "thin"
    OTHER = "other"


class LogicalVolume(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A logical volume or thin pool. `node` is its device-mapper name; `pool` the name of a thin volume's pool;
    `chunk_bytes` and `metadata_bytes` are a pool's. Snapshots that Refloat or others made are not part of a layout."""

    name: str
    node: str
    uuid: str
    kind: LvKind
    size_bytes: int
    pool: str = ""
    chunk_bytes: int = 0
    metadata_bytes: int = 0
    content: Content = Content()


class PhysicalVolume(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A PV. `start_bytes` is where its first extent lies on the node."""

    node: str
    uuid: str
    size_bytes: int
    start_bytes: int = 1 << 20


class Group(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A volume group."""

    name: str
    uuid: str
    extent_bytes: int
    size_bytes: int
    free_bytes: int
    pvs: tuple[PhysicalVolume, ...]
    volumes: tuple[LogicalVolume, ...] = ()


class Interface(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network interface. `mac` is a card's own (permanent) address, empty for what is no card; `addresses` are in
    prefix form (`192.0.2.7/24`), link-local ones left out."""

    name: str
    mac: str = ""
    driver: str = ""
    link: bool | None = None
    addresses: tuple[str, ...] = ()


class Layout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that must be made again before bytes can be put back, and the network it was reached by."""

    disks: tuple[Disk, ...]
    arrays: tuple[Array, ...] = ()
    crypts: tuple[Crypt, ...] = ()
    groups: tuple[Group, ...] = ()
    interfaces: tuple[Interface, ...] = ()
    firmware: str = ""
    hostname: str = ""

    def disk(self, name: str) -> Disk:
        """The disk of that name. Raises KeyError."""
        for disk in self.disks:
            if disk.name == name:
                return disk
        raise KeyError(name)

    @property
    def explained(self) -> frozenset[str]:
        """The nodes whose content is described as an array's member, a container or a PV: they are made again, not
        copied."""
        return frozenset(
            [member for array in self.arrays for member in array.members]
            + [crypt.node for crypt in self.crypts]
            + [pv.node for group in self.groups for pv in group.pvs]
        )

    def stacked(self) -> Iterator[tuple[str, str, int, Content]]:
        """(node, volume key, size, content) of every array, opened container and logical volume, pools left out."""
        for array in self.arrays:
            yield array.name, f"md:{array.uuid}", array.size_bytes, array.content
        for crypt in self.crypts:
            yield crypt.name, f"luks:{crypt.uuid}", crypt.size_bytes, crypt.content
        for group in self.groups:
            for volume in group.volumes:
                if volume.kind is not LvKind.POOL:
                    # by name: a restore makes the group anew, and the next image must find the volume again
                    yield volume.node, f"lvm:{group.name}/{volume.name}", volume.size_bytes, volume.content


def partition_node(disk: str, number: int) -> str:
    """The node name of a partition."""
    return f"{disk}-part{number}"


class VolumeRole(StrEnum):
    """What a volume is: of a disk the boot code before the first partition, a partition, or all of it; the header of a
    LUKS container; or all of a stacked device (array, opened container, logical volume)."""

    HEAD = "head"
    PARTITION = "partition"
    WHOLE = "whole"
    HEADER = "header"
    DEVICE = "device"


class VolumeSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One volume to image: where its bytes are on its disk or stacked device (`disk`, a node), and what they are.

    `name` is for people and file names (`vda-part3`, `vda-head`); `key` recognises the same volume the next night even
    when the kernel renamed its disk.
    """

    name: str
    key: str
    disk: str
    role: VolumeRole
    offset_bytes: int
    size_bytes: int
    partition: int = 0
    content: Content = Content()


#: What is imaged of the space before the first partition at most: boot code, core.img, bootloader leftovers.
HEAD_MAX_BYTES = 4 << 20

#: dos partition types that are containers, not volumes.
EXTENDED_TYPES = frozenset({"5", "f", "85"})


def volumes_of(layout: Layout) -> tuple[VolumeSpec, ...]:
    """The volumes an image of this layout holds, in disk and position order, then what is stacked on them. Swap is
    recorded, not imaged; so is what only carries something else (array members, PVs), but for a LUKS header.

    A disk without a table is one volume. Keys are made unique by the disk's name where two disks share an id (clones).
    """
    explained = layout.explained
    specs = [
        spec for disk in layout.disks for spec in _disk_volumes(disk) if _node_of(spec) not in explained
    ] + _stacked_volumes(layout, explained)
    seen: dict[str, int] = {}
    for spec in specs:
        seen[spec.key] = seen.get(spec.key, 0) + 1
    return tuple(
        spec if seen[spec.key] == 1 else msgspec.structs.replace(spec, key=f"{spec.key}@{spec.name}") for spec in specs
    )


def _node_of(spec: VolumeSpec) -> str:
    """The node a disk's volume is all of; nothing for boot code."""
    if spec.role is VolumeRole.HEAD:
        return ""
    return partition_node(spec.disk, spec.partition) if spec.role is VolumeRole.PARTITION else spec.disk


def _stacked_volumes(layout: Layout, explained: frozenset[str]) -> list[VolumeSpec]:
    found = [
        VolumeSpec(
            name=f"{crypt.name}-header", key=f"luks:{crypt.uuid}:header", disk=crypt.node, role=VolumeRole.HEADER,
            offset_bytes=0, size_bytes=crypt.header_bytes,
        )
        for crypt in layout.crypts
    ]  # fmt: skip
    for node, key, size, content in layout.stacked():
        if node not in explained and content.type != "swap":
            found.append(
                VolumeSpec(
                    name=node, key=key, disk=node, role=VolumeRole.DEVICE, offset_bytes=0, size_bytes=size,
                    content=content,
                )
            )  # fmt: skip
    return found


def _disk_volumes(disk: Disk) -> list[VolumeSpec]:
    if disk.table is None:
        if disk.content.type == "swap":
            return []
        key = f"fs:{disk.content.uuid}" if disk.content.uuid else f"disk:{disk.serial or disk.wwn or disk.name}"
        return [
            VolumeSpec(
                name=disk.name, key=key, disk=disk.name, role=VolumeRole.WHOLE, offset_bytes=0,
                size_bytes=disk.size_bytes, content=disk.content,
            )
        ]  # fmt: skip
    found: list[VolumeSpec] = []
    table = disk.table
    parts = [part for part in table.partitions if part.role is not Role.EXTENDED]
    first = min((part.start_bytes for part in table.partitions), default=disk.size_bytes)
    head = min(first, HEAD_MAX_BYTES, disk.size_bytes)
    if head:
        found.append(
            VolumeSpec(
                name=f"{disk.name}-head", key=f"{table.kind}:{table.id}:head", disk=disk.name,
                role=VolumeRole.HEAD, offset_bytes=0, size_bytes=head,
            )
        )  # fmt: skip
    for part in sorted(parts, key=lambda each: each.start_bytes):
        if part.content.type == "swap":
            continue
        key = (
            f"gpt:{part.uuid}"
            if table.kind is TableKind.GPT and part.uuid
            else f"{table.kind}:{table.id}:{part.number}"
        )
        found.append(
            VolumeSpec(
                name=partition_node(disk.name, part.number), key=key, disk=disk.name, role=VolumeRole.PARTITION,
                offset_bytes=part.start_bytes, size_bytes=part.size_bytes, partition=part.number, content=part.content,
            )
        )  # fmt: skip
    return found
