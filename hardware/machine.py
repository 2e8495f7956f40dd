"""A machine as values: firmware, network cards, devices and who uses them; and how a person names a device.

Pure: `inventory` fills these in, `plan` and the pages read them. Imports `core` only. Sizes are bytes.
"""

from __future__ import annotations

import os.path
import re
from collections import Counter
from enum import StrEnum

import msgspec

from core.errors import TargetError

#: What to do about a disk that several paths lead to, and no map joins.
JOIN_HINT = (
    "let multipath join its paths (apt install multipath-tools, and multipath-tools-boot where the system is on it; "
    "`find_multipaths yes` in /etc/multipath.conf; systemctl restart multipathd; `multipath -ll`), then name the map"
)


class UseKind(StrEnum):
    """How something uses a device. PATH: it is one way to a disk that several lead to, and nothing has joined them.
    UNKNOWN: it could not be found out, which counts as in use."""

    PATH = "path"
    MOUNTED = "mounted"
    SWAP = "swap"
    HOLDER = "holder"
    LOOP = "loop"
    OPEN = "open"
    UNKNOWN = "unknown"


#: What is mounted here is what this machine, or the rescue environment, is running from.
BOOT_MOUNTS = frozenset(
    {"/", "/boot", "/boot/efi", "/usr", "/run/live/medium", "/lib/live/mount/medium", "/run/initramfs/live"}
)


class Use(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One use. `device` is the node concerned, `where` the mount point or holder, `start_bytes` the offset of the
    partition on the disk (0: all of it, None: not known), `writable` whether it may be written through this use."""

    kind: UseKind
    device: str
    where: str
    start_bytes: int | None = None
    writable: bool = True

    @property
    def boots(self) -> bool:
        """True when the running system came from here."""
        return self.kind is UseKind.MOUNTED and self.where in BOOT_MOUNTS

    def describe(self) -> str:
        """For people: `/dev/sda1 is mounted at /boot`."""
        also = f" ({self.where} is another)" if self.where else ""
        words = {
            UseKind.PATH: f"is only one path to its disk{also}, and no multipath map joins them",
            UseKind.MOUNTED: f"is mounted at {self.where}",
            UseKind.SWAP: "is used as swap",
            UseKind.HOLDER: f"is part of {self.where}",
            UseKind.LOOP: "is attached to it as a loop device",
            UseKind.OPEN: f"is {self.where}",
            UseKind.UNKNOWN: f"cannot be examined: {self.where}",
        }
        return f"{self.device} {words[self.kind]}"


class SiteSpot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A place on a disk that holds a site (`certain`), or that might, since nobody can look inside (a dirty log, LVM,
    LUKS, ZFS). `uuid` is that of the filesystem or container there."""

    start_bytes: int
    what: str
    certain: bool
    uuid: str = ""


class RemnantKind(StrEnum):
    """What must not be there twice; UNREAD: a disk that could not be read."""

    GROUP = "volume group"
    ARRAY = "array"
    FILESYSTEM = "filesystem"
    TABLE = "partition table"
    UNREAD = "unread"


class Remnant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing on a disk that is no target: `mark` is a group's name, the id of anything else, and why a disk could
    not be read. It lies on partition `number`, 0 for the bare disk, in bytes from `start_bytes` on."""

    path: str
    kind: RemnantKind
    mark: str
    number: int = 0
    start_bytes: int = 0
    size_bytes: int = 0


class DeviceKind(StrEnum):
    DISK = "disk"
    LOOP = "loop"
    FILE = "file"


class Device(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something an image can be restored onto. `id_path` is the controller path; `paths` are those of a multipath map,
    which is one disk and stands for them; `spots` is None until somebody looked
    for sites (`inventory.inspect_target`), and a plan refuses a device that nobody looked at."""

    path: str
    name: str
    size_bytes: int
    sector_bytes: int = 512
    physical_sector_bytes: int = 512
    serial: str = ""
    wwn: str = ""
    model: str = ""
    transport: str = ""
    id_path: str = ""
    removable: bool = False
    read_only: bool = False
    kind: DeviceKind = DeviceKind.DISK
    paths: tuple[str, ...] = ()
    uses: tuple[Use, ...] = ()
    spots: tuple[SiteSpot, ...] | None = None


class Nic(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network card. `speed_mbit` is None without link; `link` None when the interface is down and cannot tell."""

    name: str
    mac: str
    driver: str = ""
    speed_mbit: int | None = None
    link: bool | None = None


class Dmi(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the firmware calls the machine (SMBIOS type 1); empty where it has no SMBIOS."""

    vendor: str = ""
    product: str = ""
    serial: str = ""
    uuid: str = ""


class Inventory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What hardware is there."""

    firmware: str
    dmi: Dmi = Dmi()
    nics: tuple[Nic, ...] = ()
    devices: tuple[Device, ...] = ()

    def device(self, path: str) -> Device:
        """The device of that path. Raises KeyError."""
        for device in self.devices:
            if device.path == path:
                return device
        raise KeyError(path)


_JUNK = re.compile(
    r"0*|f+|x+|(.)\1*|none|null|n/?a|unknown|invalid|default string|not (specified|available|applicable)|"
    r"to be filled.*|(system )?serial ?(number|no\.?)?|0?123456789(abcdef|0)?|no[ _]serial.*",
    re.IGNORECASE,
)


def _sound(text: str) -> str:
    """The text, or nothing when it is one of the fillers that vendors put where an identifier belongs."""
    text = " ".join(text.split())
    # a leading slash could pass for the path of another device
    return "" if _JUNK.fullmatch(text) or text.startswith("/") else text


def is_junk(text: str) -> bool:
    """Whether an identifier says nothing: empty, or a filler."""
    return not _sound(text)


def tokens(inventory: Inventory) -> dict[str, str]:
    """Path → what a person types to confirm that device. No two are equal.

    The serial when there is one and no other device has it; else the WWN likewise; else `PATH:SIZE_BYTES` with the
    controller's path, or the absolute path of a file or loop device.
    """
    devices = inventory.devices
    serials = Counter(_sound(device.serial) for device in devices)
    wwns = Counter(_sound(device.wwn) for device in devices)
    routes = Counter(device.id_path for device in devices)
    found: dict[str, str] = {}
    for device in devices:
        serial, wwn = _sound(device.serial), _sound(device.wwn)
        route = device.id_path if device.kind is DeviceKind.DISK and routes[device.id_path] == 1 else ""
        if serial and serials[serial] == 1:
            found[device.path] = serial
        elif wwn and wwns[wwn] == 1:
            found[device.path] = wwn
        else:
            found[device.path] = f"{route or device.path}:{device.size_bytes}"
    again = Counter(found.values())  # one disk's serial may be another's WWN
    return {
        path: text if again[text] == 1 else f"{path}:{inventory.device(path).size_bytes}"
        for path, text in found.items()
    }


def _real(path: str) -> str:
    """A map goes by the name of its mapping, which is a link to what the kernel calls it."""
    return os.path.realpath(path) if path.startswith("/dev/mapper/") else path


def find_device(inventory: Inventory, text: str) -> Device:
    """The device that `text` names: its token, serial, WWN or path. Raises TargetError when none or several do."""
    named = tokens(inventory)
    exact = [device for device in inventory.devices if named[device.path] == text]
    real = os.path.realpath(text) if text.startswith(("/", "./", "../")) else ""
    loose = [
        device
        for device in inventory.devices
        if text and text in (device.serial, device.wwn, device.path) or real in (device.path, _real(device.path))
    ]
    matches = exact or loose
    if len(matches) == 1:
        return matches[0]
    if (joined := next((device for device in inventory.devices if real and real in device.paths), None)) is not None:
        raise TargetError(
            f"{text} is only one path to the disk {joined.path}", hint=f"name the disk: {named[joined.path]}"
        )
    known = ", ".join(f"{device.path} ({named[device.path]})" for device in (matches or inventory.devices)) or "none"
    if matches:
        raise TargetError(f"{text!r} names more than one device", hint=f"use one of: {known}", devices=list(named))
    raise TargetError(f"no device is called {text!r}", hint=f"devices here: {known}", devices=list(named))
