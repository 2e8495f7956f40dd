"""What a disk calls itself: serial, WWN, model, transport, controller path. From udev's database, else from sysfs.

Nothing is kept. Imports `hardware.facts`; pyudev reads /run/udev and /sys by itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import pyudev

from core.errors import SourceError
from hardware.facts import Facts, is_map, read_sys, sys_folder


@dataclass(frozen=True)
class Identity:
    """Empty text: the disk does not say. `claimed`: multipath-tools take it for a path, to a disk that has several."""

    serial: str = ""
    wwn: str = ""
    model: str = ""
    transport: str = ""
    id_path: str = ""
    removable: bool = False
    claimed: bool = False


def identity_of(facts: Facts) -> Identity:
    """The identity of a block device; that of a file is empty, that of a multipath map is what its paths say."""
    if facts.rdev is None:
        return Identity()
    folder = sys_folder(facts.rdev)
    paths = sorted((folder / "slaves").iterdir()) if is_map(facts.rdev) else []
    # the controller's path is each path's own
    return replace(identity_in(paths[0].resolve()), id_path="", claimed=False) if paths else identity_in(folder)


def identity_in(folder: Path) -> Identity:
    """The same from a disk's folder in sysfs, for a disk that cannot be opened. Loop devices have none."""
    if (folder / "loop").exists():
        return Identity()
    udev = _udev(folder)
    return Identity(
        # as lsblk chooses: for SCSI the unit's own serial, which is on the label, before the one derived from the WWN
        serial=_first(udev, "SCSI_IDENT_SERIAL", "ID_SCSI_SERIAL", "ID_SERIAL_SHORT") or _sys_serial(folder),
        wwn=_first(udev, "ID_WWN_WITH_EXTENSION", "ID_WWN") or _attribute(folder, "wwid", "device/wwid"),
        model=_first(udev, "ID_MODEL").replace("_", " ") or _attribute(folder, "device/model"),
        transport=_first(udev, "ID_BUS") or _bus(folder),
        id_path=_first(udev, "ID_PATH") or _sys_path(folder),
        removable=read_sys(folder / "removable") == "1",
        claimed=udev.get("DM_MULTIPATH_DEVICE_PATH") == "1",
    )


def _udev(folder: Path) -> dict[str, str]:
    try:
        device = pyudev.Devices.from_sys_path(pyudev.Context(), str(folder))
    except pyudev.DeviceNotFoundError as error:
        raise SourceError(
            f"{folder.name} went away while it was examined", hint="is the disk's cable or slot sound?"
        ) from error
    return dict(device.properties)


def _first(udev: dict[str, str], *names: str) -> str:
    return next((udev[name].strip() for name in names if udev.get(name, "").strip()), "")


def _attribute(folder: Path, *names: str) -> str:
    return next((text for name in names if (text := read_sys(folder / name))), "")


def _sys_serial(folder: Path) -> str:
    """virtio and NVMe have a text attribute; SCSI has page 0x80 of the vital product data, after a 4-byte header."""
    text = _attribute(folder, "serial", "device/serial")
    page = folder / "device/vpd_pg80"
    if not text and page.exists():
        raw = page.read_bytes()
        text = raw[4 : 4 + int.from_bytes(raw[2:4], "big")].decode("ascii", "replace").strip("\0 ")
    return text


def _bus(folder: Path) -> str:
    path = str(folder)
    for word, bus in (
        ("/usb", "usb"),
        ("/nvme/", "nvme"),
        ("/virtio", "virtio"),
        ("/ata", "ata"),
        ("/host", "scsi"),
        ("/mmc", "mmc"),
    ):
        if word in path:
            return bus
    return ""


def _sys_path(folder: Path) -> str:
    """The controller's path without the kernel's own names, which may be others after the next boot."""
    path = re.sub(r"/block/[^/]+$", "", str(folder))
    return "" if path.startswith("/sys/devices/virtual") else path.removeprefix("/sys/devices/")
