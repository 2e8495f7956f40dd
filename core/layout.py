"""Layout: disks, partition tables and filesystems as values. `hardware` reads and plans with it, an image carries it.

It stands in `core` because `imager` and `hardware` do not import each other. All sizes and offsets are bytes.
"""

from __future__ import annotations

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
    """A disk as it was imaged. `name` is unique within the layout and safe in file names."""

    name: str
    size_bytes: int
    sector_bytes: int
    physical_sector_bytes: int = 0
    serial: str = ""
    wwn: str = ""
    model: str = ""
    transport: str = ""
    table: Table | None = None
    content: Content = Content()


class Layout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that must be made again before bytes can be put back."""

    disks: tuple[Disk, ...]
    firmware: str = ""

    def disk(self, name: str) -> Disk:
        """The disk of that name. Raises KeyError."""
        for disk in self.disks:
            if disk.name == name:
                return disk
        raise KeyError(name)


class VolumeRole(StrEnum):
    """What a volume is of its disk: the boot code before the first partition, a partition, or all of it."""

    HEAD = "head"
    PARTITION = "partition"
    WHOLE = "whole"


class VolumeSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One volume to image: where its bytes are on its disk, and what they are.

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
    """The volumes an image of this layout holds, in disk and position order. Swap is recorded, not imaged.

    A disk without a table is one volume. Keys are made unique by the disk's name where two disks share an id (clones).
    """
    specs: list[VolumeSpec] = []
    for disk in layout.disks:
        specs.extend(_disk_volumes(disk))
    seen: dict[str, int] = {}
    for spec in specs:
        seen[spec.key] = seen.get(spec.key, 0) + 1
    return tuple(
        spec if seen[spec.key] == 1 else msgspec.structs.replace(spec, key=f"{spec.key}@{spec.name}") for spec in specs
    )


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
                name=f"{disk.name}-part{part.number}", key=key, disk=disk.name, role=VolumeRole.PARTITION,
                offset_bytes=part.start_bytes, size_bytes=part.size_bytes, partition=part.number, content=part.content,
            )
        )  # fmt: skip
    return found
