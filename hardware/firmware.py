"""What BIOS and UEFI need on a disk to boot from it, and the plan's last step. Pure.

Imports `core` and `hardware.{actions,draft,machine}`. UEFI needs an EFI system partition (UEFI 2.10, 13.3), BIOS on GPT
a BIOS-boot partition for GRUB's core image (GRUB manual, "BIOS installation"); a dos table has room before its first
partition.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping

from msgspec.structs import replace

from core.layout import Content, Disk, Layout, Partition, Role, Table, TableKind
from core.sizes import MIB, align_up, format_size
from hardware.actions import MakeEsp, RepairBoot, Spot
from hardware.draft import Draft
from hardware.machine import Device
from hardware.placement import entries_bytes

BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
_DOS_ESP = "ef"
#: FAT32 needs 65,525 clusters, so 256 MiB and a little where clusters are as large as a 4096-byte sector.
ESP_BYTES = 272 * MIB
#: GRUB's core image with LVM, md and filesystem modules takes a few hundred KiB.
_BIOS_BOOT_MIN_BYTES = 512 << 10


def boot_disks(layout: Layout) -> tuple[str, ...]:
    """The disks a server boots from: those with an ESP or a BIOS-boot partition, else those with an active partition,
    else the first with a table."""
    tables = {disk.name: disk.table for disk in layout.disks if disk.table is not None}
    by_type = [name for name, table in tables.items() if _esp(table) or _bios_boot(table)]
    active = [name for name, table in tables.items() if any(part.active for part in table.partitions)]
    return tuple(by_type or active or list(tables)[:1])


def boots_by_bios(disk: Disk, draft: Draft) -> bool:
    """Whether this disk is to boot by BIOS: made to, or, when nothing is repaired, because it can in no other way."""
    table = disk.table
    if table is None or disk.name not in draft.boot_disks:
        return False
    if draft.options.repair:
        return (draft.options.firmware or "bios") == "bios"
    return not _esp(table) and (_bios_boot(table) or any(part.active for part in table.partitions))


def with_boot_partitions(disk: Disk, table: Table, draft: Draft) -> Table:
    """The table with an EFI system partition after all others, when the machine needs one and this disk has none."""
    if draft.options.firmware != "uefi" or disk.name not in draft.boot_disks or _esp(table):
        return table
    taken = {part.number for part in table.partitions}
    numbers = range(1, table.entries + 1) if table.kind is TableKind.GPT else range(1, 5)
    number = next((each for each in numbers if each not in taken), 0)
    if not number:
        message = "this machine boots by UEFI, and the partition table has no entry left for an EFI system partition"
        draft.refuse(disk.name, message, "use a machine that boots by BIOS, or switch its firmware to legacy boot")
        return table
    end = max((part.end_bytes for part in table.partitions), default=table.first_bytes)
    gpt = table.kind is TableKind.GPT
    made = Partition(
        number=number,
        start_bytes=align_up(end, MIB),
        size_bytes=ESP_BYTES,
        type=ESP if gpt else _DOS_ESP,
        uuid=str(uuid.uuid5(uuid.NAMESPACE_OID, f"refloat esp {table.id}")).upper() if gpt else "",
        name="EFI system partition" if gpt else "",
        content=Content(type="vfat", uuid=_fat_serial(table)),
    )
    draft.warnings.append(
        f"{disk.name}: an EFI system partition of {format_size(ESP_BYTES)} is added, since this machine boots by UEFI"
    )
    return replace(table, partitions=(*table.partitions, made))


def with_bios_boot(disk: Disk, table: Table, target: Device, draft: Draft) -> Table:
    """The placed table with a BIOS-boot partition before the first, when the machine needs one and this disk has none;
    and the ESP that was added, noted as a step."""
    _note_esp(disk, table, target, draft)
    needs = draft.options.firmware == "bios" and disk.name in draft.boot_disks and table.kind is TableKind.GPT
    if not needs or _bios_boot(table):
        return table
    sector = target.sector_bytes
    start = align_up(2 * sector + entries_bytes(table, sector), 4096)
    end = min((part.start_bytes for part in table.partitions), default=MIB)
    taken = {part.number for part in table.partitions}
    number = next((each for each in range(1, table.entries + 1) if each not in taken), 0)
    if end - start < _BIOS_BOOT_MIN_BYTES or not number:
        message = "this machine boots by BIOS, and there is no room before the first partition for its boot loader"
        draft.refuse(disk.name, message, "use a machine that boots by UEFI, or switch its firmware to UEFI")
        return table
    made = Partition(
        number=number,
        start_bytes=start,
        size_bytes=end - start,
        type=BIOS_BOOT,
        uuid=str(uuid.uuid5(uuid.NAMESPACE_OID, f"refloat bios boot {table.id}")).upper(),
        name="BIOS boot",
    )
    draft.warnings.append(f"{disk.name}: a BIOS-boot partition is added, since this machine boots by BIOS")
    return replace(table, first_bytes=min(table.first_bytes, start), partitions=(*table.partitions, made))


def _note_esp(disk: Disk, table: Table, target: Device, draft: Draft) -> None:
    before = {part.number for part in disk.table.partitions} if disk.table else set()
    for part in table.partitions:
        if part.number not in before and part.content.type == "vfat":
            spot = Spot(
                path=target.path, number=part.number, offset_bytes=part.start_bytes, size_bytes=part.size_bytes,
                sector_bytes=target.sector_bytes,
            )  # fmt: skip
            draft.made.append(MakeEsp(spot=spot, uuid=part.content.uuid))


def plan_boot(layout: Layout, targets: Mapping[str, Device], draft: Draft) -> None:
    """Making it boot is the last step of all."""
    disks = [name for name in draft.boot_disks if name in targets and name in draft.whole]
    if draft.options.repair and disks:
        firmware = draft.options.firmware or layout.firmware or "bios"
        draft.last.append(RepairBoot(firmware=firmware, disks=tuple(targets[name].path for name in disks)))
        draft.warnings += [
            warning for name in sorted(draft.whole) if (warning := _other_paths(layout.disk(name), targets[name]))
        ]


def _other_paths(disk: Disk, target: Device) -> str:
    """What becomes of a server whose disk has several paths now, or has them no more; empty when neither is so."""
    if disk.multipath and not target.paths:
        return (
            f"{disk.name} was a multipath map, {target.path} is a single disk: the server boots without the map; "
            "its /etc/multipath.conf still names the old one"
        )
    if target.paths and not disk.multipath:
        return (
            f"{disk.name} was a single disk, {target.path} is a multipath map: until the server has "
            "multipath-tools-boot in its initramfs, it starts from one path alone"
        )
    return ""


def _esp(table: Table) -> bool:
    return any(
        part.type.upper() == ESP if table.kind is TableKind.GPT else part.type == _DOS_ESP
        for part in table.partitions
        if part.role is not Role.EXTENDED
    )


def _bios_boot(table: Table) -> bool:
    return any(part.type.upper() == BIOS_BOOT for part in table.partitions)


def _fat_serial(table: Table) -> str:
    digest = hashlib.sha256(f"refloat esp {table.id}".encode()).hexdigest().upper()
    return f"{digest[:4]}-{digest[4:8]}"
