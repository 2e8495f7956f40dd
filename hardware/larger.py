"""An image of a disk onto one with larger sectors (512 → 4Kn): what stands in the way. Pure.

Imports `core` and `hardware.{draft,firmware,machine,recreate}`. Without a request it is refused, for boot code and
whatever counted in small sectors would not work; with `recreate` the table is laid out anew, and only what is known to
work goes as it is. PC BIOS calls (int 13h) read sectors of 512 bytes: no BIOS boots from such a disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from core.layout import Disk, Partition, VolumeRole, VolumeSpec, partition_node
from hardware.draft import Draft
from hardware.firmware import BIOS_BOOT, boots_by_bios
from hardware.machine import Device
from hardware.recreate import ALL, RECREATABLE, larger_sectors, sector_fault

_OTHER_DISK = "use a disk with {}-byte sectors (512e is fine)"


def check_sectors(disk: Disk, volumes: Sequence[VolumeSpec], target: Device, draft: Draft, *, whole: bool) -> bool:
    """Whether these volumes of a disk may go onto larger sectors; if not, the draft has the reasons."""
    other = _OTHER_DISK.format(disk.sector_bytes)
    faults = larger_sectors(disk, volumes, target.sector_bytes)
    if not draft.options.recreate:
        made = f", {', '.join(faults)} made anew and their files copied" if faults else ""
        draft.refuse(
            disk.name,
            f"the image is of a disk with sectors of {disk.sector_bytes} bytes, {target.path} has sectors of "
            f"{target.sector_bytes}: boot code, the ESP and xfs made for {disk.sector_bytes} do not work there",
            f"{other}; or --recreate {ALL}: the table is laid out anew{made}",
        )
        return False
    found = [*_of_the_disk(disk, target, draft, whole)]
    for name in faults:
        if name not in draft.needs.recreating.must:
            found.append((name, f"{faults[name]}, {target.path} has {target.sector_bytes}", f"--recreate {name}"))
    found += [(name, why, other) for name, why in _unknown(disk, volumes, target)]
    for subject, message, hint in found:
        draft.refuse(subject, message, hint or other)
    return not found


def _of_the_disk(disk: Disk, target: Device, draft: Draft, whole: bool) -> Iterator[tuple[str, str, str]]:
    if whole and boots_by_bios(disk, draft):
        message = f"it boots by BIOS, and no BIOS boots from a disk with sectors of {target.sector_bytes} bytes"
        yield disk.name, message, "restore it on a machine that boots by UEFI"
    for node in [disk.name, *(partition_node(disk.name, part.number) for part in _parts(disk))]:
        if whole and draft.needs.above(node):
            message = f"md, LUKS or LVM stands on it; on sectors of {target.sector_bytes} bytes that was never tried"
            yield node, message, ""


def _unknown(disk: Disk, volumes: Sequence[VolumeSpec], target: Device) -> Iterator[tuple[str, str]]:
    types = {part.number: part.type.upper() for part in _parts(disk)}
    for spec in volumes:
        known = spec.role is VolumeRole.HEAD or spec.content.type in RECREATABLE
        # a BIOS-boot partition is read by nothing but a BIOS's loader, which stays behind
        if not known and types.get(spec.partition) != BIOS_BOOT:
            yield spec.name, sector_fault(spec.content, target.sector_bytes)


def _parts(disk: Disk) -> tuple[Partition, ...]:
    return disk.table.partitions if disk.table is not None else ()
