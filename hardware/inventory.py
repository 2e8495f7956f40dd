"""What hardware is there: firmware, DMI, network cards, disks and who uses them. Through pyudev, filled up from sysfs.

A snapshot; nothing is kept. Imports `core` and its neighbours in `hardware`.
"""

from __future__ import annotations

import dataclasses
import errno
import os.path
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyudev
from msgspec.structs import replace

from core.errors import RefloatError, SourceError, TargetError
from core.run import Runner
from hardware.attach import settle
from hardware.facts import SYS, Facts, facts_of, is_map, kernel_path, numbers_of, read_sys
from hardware.identity import Identity, identity_in, identity_of
from hardware.machine import (
    Device,
    DeviceKind,
    Dmi,
    Inventory,
    Use,
    UseKind,
    find_device,
    tokens,
)
from hardware.multipath import is_disk_name, is_hidden, lone_paths_here, lone_use, map_over, paths_of
from hardware.netview import read_nics
from hardware.sitefind import holds_site
from hardware.uses import uses_of

__all__ = ["Device", "Inventory", "find_device", "firmware_mode", "inspect_target", "probe_inventory", "tokens"]


def probe_inventory(runner: Runner, files: Sequence[str] = ()) -> Inventory:
    """The machine as it is now; `files` are image files to list as devices too (512-byte sectors).

    A disk that cannot be examined is listed with a use of kind UNKNOWN, so that it is refused but does not hide the
    others. Raises SourceError when a file of `files` cannot be opened.
    """
    settle(runner)
    devices = [*_disks(), *(_file(path) for path in files if not Path(path).is_block_device())]
    lone = lone_paths_here()
    devices = [_with_lone(device, lone) for device in devices]
    unique = {device.path: device for device in devices}
    return Inventory(firmware=firmware_mode(), dmi=_dmi(), nics=read_nics(), devices=tuple(unique.values()))


def firmware_mode() -> str:
    """`uefi` when the running kernel was started by UEFI firmware, else `bios`."""
    return "uefi" if (SYS / "firmware/efi").exists() else "bios"


def inspect_target(device: Device, runner: Runner) -> Device:
    """The device with its uses as they are now, and with the sites on it: what a plan needs to know of a target.

    Raises TargetError when it cannot be examined or is no longer the same device.
    """
    try:
        facts = facts_of(device.path)
        if facts.size_bytes != device.size_bytes or identity_of(facts).serial != device.serial:
            raise TargetError(f"{device.path} is another device than before", hint="take the inventory again")
        # sector size as listed: an image file may be declared to have 4096-byte sectors
        spots = holds_site(device.path, runner, sector_bytes=device.sector_bytes)
        return _with_lone(replace(device, uses=uses_of(device.path), spots=spots), lone_paths_here())
    except SourceError as error:
        raise TargetError(
            f"cannot examine {device.path}: {error.message}", hint=error.hint, path=device.path
        ) from error


def _disks() -> list[Device]:
    context = pyudev.Context()
    names = sorted(device.sys_name for device in context.list_devices(subsystem="block", DEVTYPE="disk"))
    found = [_disk(name) for name in names if _counts(name)]
    return [device for device in found if device is not None]


def _counts(name: str) -> bool:
    """Disks, loop devices, and multipath maps; a map stands for its paths."""
    folder = SYS / "block" / name
    if is_hidden(folder) or not folder.exists():
        return False
    rdev = numbers_of(folder)
    if is_disk_name(name):
        return map_over(rdev) is None
    return is_map(rdev) or (folder / "loop").exists()


def _disk(name: str) -> Device | None:
    """A disk, or None for a slot without medium and a loop device without a file."""
    folder = SYS / "block" / name
    if read_sys(folder / "size") in ("", "0"):
        return None
    rdev = numbers_of(folder)
    path = kernel_path(rdev)
    try:
        facts = dataclasses.replace(facts_of(path), path=path)  # a map's name stays, the kernel's number does not
        kind = DeviceKind.LOOP if (folder / "loop").exists() else DeviceKind.DISK
        return _device(facts, identity_of(facts), _uses(path), kind, paths_of(rdev) if is_map(rdev) else ())
    except SourceError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENOMEDIUM:
            return None
        unknown = Use(kind=UseKind.UNKNOWN, device=path, where=error.message)
        facts = Facts(path, int(read_sys(folder / "size")) * 512, 512, 512, read_sys(folder / "ro") != "0")
        return _device(facts, identity_in(folder.resolve()), (unknown,), DeviceKind.DISK)


def _with_lone(device: Device, lone: Mapping[str, Sequence[str]]) -> Device:
    if device.path not in lone:
        return device
    return replace(device, uses=(lone_use(device.path, lone[device.path]), *device.uses))


def _uses(path: str) -> tuple[Use, ...]:
    try:
        return uses_of(path)
    except (RefloatError, OSError) as error:
        return (Use(kind=UseKind.UNKNOWN, device=path, where=str(error)),)


def _device(
    facts: Facts, identity: Identity, uses: tuple[Use, ...], kind: DeviceKind, paths: tuple[str, ...] = ()
) -> Device:
    return Device(
        path=facts.path,
        name=os.path.basename(facts.path),
        size_bytes=facts.size_bytes,
        sector_bytes=facts.sector_bytes,
        physical_sector_bytes=facts.physical_sector_bytes,
        serial=identity.serial,
        wwn=identity.wwn,
        model=identity.model,
        transport=identity.transport,
        id_path=identity.id_path,
        removable=identity.removable,
        read_only=facts.read_only,
        kind=kind,
        paths=paths,
        uses=uses,
    )


def _file(path: str) -> Device:
    facts = facts_of(path)
    return _device(facts, Identity(), _uses(facts.path), DeviceKind.FILE)


def _dmi() -> Dmi:
    folder = SYS / "class/dmi/id"

    def read(name: str) -> str:
        return read_sys(folder / name)

    return Dmi(
        vendor=read("sys_vendor"),
        product=read("product_name"),
        serial=read("product_serial"),
        uuid=read("product_uuid"),
    )
