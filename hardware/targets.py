"""What makes a device no target: in use, boot medium, read-only, a site on it, never looked at. And layouts that make
no sense. Pure: values in, refusals out. Imports `core` and `hardware.{actions,machine}`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set

import msgspec

from core.layout import Disk, Layout, Role, volumes_of
from hardware.actions import (
    AnyAction,
    MakeArray,
    MakeEsp,
    MakeGroup,
    MakeSwap,
    OpenCrypt,
    Range,
    RecreateFilesystem,
    RepairBoot,
    WriteTable,
    WriteVolume,
)
from hardware.machine import JOIN_HINT, Device, DeviceKind, Remnant, RemnantKind, SiteSpot, Use, UseKind, is_junk


class Refusal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One reason why a plan must not be carried out: about what, why, and what to do."""

    subject: str
    message: str
    hint: str = ""


def check_device(disk: Disk, target: Device, ranges: tuple[Range, ...] | None, overwrite_unseen: bool) -> list[Refusal]:
    """Why `target` must not be overwritten: as a whole (`ranges` None), or in these byte ranges."""
    own = {part.content.uuid for part in disk.table.partitions} if disk.table else {disk.content.uuid}
    return [
        Refusal(subject=target.path, message=message, hint=hint)
        for message, hint in _faults(own - {""}, target, ranges, overwrite_unseen)
    ]


def check_retired(device: Device, ranges: tuple[Range, ...]) -> list[Refusal]:
    """Why nothing must be taken off `device` in these byte ranges. What nobody can look into is no reason: it stays."""
    return [
        Refusal(subject=device.path, message=message, hint=hint)
        for message, hint in _faults(set(), device, ranges, overwrite_unseen=True)
    ]


def _faults(
    own: Set[str], target: Device, ranges: tuple[Range, ...] | None, overwrite_unseen: bool
) -> Iterator[tuple[str, str]]:
    if target.read_only:
        yield "it is read-only", "check the write-protect switch, or `blockdev --getro`"
    if target.size_bytes <= 0:
        yield "it has no size", "is there a medium in it?"
    for use in target.uses:
        if _concerns(use.start_bytes, ranges):
            yield _use_fault(use)
    if target.spots is None:
        yield "nobody has looked for a site on it", "it must be examined before it can be overwritten"
    for spot in target.spots or ():
        if _concerns(spot.start_bytes, ranges) and (spot.certain or not (overwrite_unseen or spot.uuid in own)):
            yield _spot_fault(spot)


def _concerns(start: int | None, ranges: tuple[Range, ...] | None) -> bool:
    """A place that is not known, or is the whole disk, concerns every range."""
    return ranges is None or not start or any(first <= start < end for first, end in ranges)


def _use_fault(use: Use) -> tuple[str, str]:
    if use.boots:
        return f"this machine runs from it: {use.describe()}", "choose another disk"
    if use.kind is UseKind.PATH:
        return use.describe(), JOIN_HINT
    if use.kind is UseKind.UNKNOWN:
        return f"it cannot be told whether it is in use: {use.where}", "run as root; is the disk sound?"
    hints = {
        UseKind.MOUNTED: f"umount {use.where}",
        UseKind.SWAP: f"swapoff {use.device}",
        UseKind.HOLDER: f"stop {use.where} first (vgchange -an, mdadm --stop, cryptsetup close)",
        UseKind.LOOP: f"losetup --detach {use.device}",
    }
    return f"it is in use: {use.describe()}", hints.get(use.kind, f"find out who uses it: fuser -v {use.device}")


def _spot_fault(spot: SiteSpot) -> tuple[str, str]:
    if spot.certain:
        return (
            f"it holds a site, at byte {spot.start_bytes}: {spot.what}",
            "choose another disk: images are kept on this one",
        )
    return (
        f"nobody can tell whether it holds a site, at byte {spot.start_bytes}: {spot.what}",
        "look yourself; if nothing on it is needed, wipe it (wipefs --all) or say that the unseen may be overwritten",
    )


def check_files(actions: Sequence[AnyAction], targets: Mapping[str, Device]) -> list[Refusal]:
    """What needs devices for its partitions cannot go into an image file."""
    stacked = any(isinstance(each, MakeEsp | MakeArray | OpenCrypt | MakeGroup | RepairBoot) for each in actions)
    message = "an image file has no devices for its partitions: md, LUKS, LVM and making it boot need them"
    return [
        Refusal(subject=name, message=message, hint=f"losetup --find --show --partscan {device.path}, and name that")
        for name, device in targets.items()
        if stacked and device.kind is DeviceKind.FILE
    ]


def check_pairing(targets: Mapping[str, Device]) -> list[Refusal]:
    """One device for two disks, also by two paths (multipath shows one WWN twice)."""
    found, seen = [], dict[str, str]()
    for name, device in targets.items():
        for mark in (device.path, "" if is_junk(device.wwn) else f"WWN {device.wwn}"):
            if mark and mark in seen:
                message = f"it is the same device as the target of {seen[mark]} ({mark})"
                found.append(Refusal(subject=name, message=message, hint="give each disk a device of its own"))
                break
            if mark:
                seen[mark] = name
    return found


def check_layout(layout: Layout) -> list[Refusal]:
    """Partitions that overlap, lie outside their disk or off its sectors: such a layout was not read from a disk."""
    found = []
    for disk in layout.disks:
        parts = [part for part in (disk.table.partitions if disk.table else ()) if part.role is not Role.EXTENDED]
        parts.sort(key=lambda part: part.start_bytes)
        at = 0
        sane = disk.size_bytes > 0 and disk.sector_bytes > 0 and len({part.number for part in parts}) == len(parts)
        for part in parts:
            sane = sane and part.start_bytes >= max(at, disk.sector_bytes) and part.size_bytes > 0
            sane = sane and not (part.start_bytes % disk.sector_bytes or part.size_bytes % disk.sector_bytes)
            at = part.end_bytes
        if not sane or at > disk.size_bytes:
            message = "its layout makes no sense: partitions overlap, or lie outside the disk"
            found.append(
                Refusal(
                    subject=disk.name, message=message, hint="the image's layout is damaged; restore single volumes"
                )
            )
    names = [disk.name for disk in layout.disks]
    if len(set(names)) != len(names):
        found.append(Refusal(subject="layout", message="two disks have one name", hint="the image's layout is damaged"))
    return found


def find_twins(actions: Sequence[AnyAction], layout: Layout, remnants: Sequence[Remnant]) -> dict[Remnant, str]:
    """What the plan makes and another disk of this machine holds already, with what it is: the server could boot into
    either."""
    made: dict[tuple[RemnantKind, str], str] = {}
    specs = {spec.name: spec for spec in volumes_of(layout)}
    for action in actions:
        if isinstance(action, MakeGroup):
            made[RemnantKind.GROUP, action.name] = f"volume group {action.name}"
        elif isinstance(action, MakeArray):
            made[RemnantKind.ARRAY, _plain(action.uuid)] = f"array {action.name}"
        elif isinstance(action, WriteTable) and action.table.id.strip("0x-"):
            made[RemnantKind.TABLE, _plain(action.table.id)] = f"partition table as {action.disk}"
        elif isinstance(action, MakeSwap) and action.uuid:
            made[RemnantKind.FILESYSTEM, _plain(action.uuid)] = f"swap of {action.disk}"
        elif isinstance(action, WriteVolume | RecreateFilesystem) and (uuid := specs[action.volume].content.uuid):
            made[RemnantKind.FILESYSTEM, _plain(uuid)] = f"{specs[action.volume].content.type} of {action.volume}"
    seen = ((each, each.mark if each.kind is RemnantKind.GROUP else _plain(each.mark)) for each in remnants)
    return {each: made[each.kind, mark] for each, mark in seen if (each.kind, mark) in made}


def _plain(uuid: str) -> str:
    """md and blkid write the same UUID with colons and with dashes."""
    return uuid.replace(":", "").replace("-", "").lower()
