"""Several paths to one disk: the maps that join them, and paths that nobody has joined, which are no disks to use.

Read from sysfs and udev's database each time, nothing is kept. Imports `core` and `hardware.{facts,identity,machine}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import SourceError
from hardware.facts import SYS, Facts, Numbers, holders_of, is_map, kernel_path, numbers_of, read_sys, sys_folder
from hardware.identity import Identity, identity_in
from hardware.machine import JOIN_HINT, Use, UseKind, is_junk

#: Disks by nature; device-mapper, md and optical devices are none, ram and zram do not outlive the night.
_NOT_DISKS = re.compile(r"(dm-|md|loop|ram|zram|sr|fd|nbd|mtdblock|drbd|rbd)\d*")
#: Names that a standard makes unique (NAA, EUI-64, UUID); the others are put together from model and serial.
_WORLD_WIDE = re.compile(r"(0x|naa\.|eui\.|uuid\.)[0-9a-f-]+", re.IGNORECASE)


def is_disk_name(name: str) -> bool:
    """Whether the kernel's name is that of a disk, of a path to one included."""
    return _NOT_DISKS.fullmatch(name) is None


def is_hidden(folder: Path) -> bool:
    """Whether the kernel keeps a device to itself: NVMe's native multipath shows one disk, and hides its paths."""
    return read_sys(folder / "hidden") == "1"


def paths_of(rdev: Numbers) -> tuple[str, ...]:
    """The paths of a map, in order of name."""
    return tuple(kernel_path(numbers_of(each)) for each in sorted((sys_folder(rdev) / "slaves").iterdir()))


def map_over(rdev: Numbers) -> str | None:
    """`/dev/mapper/NAME` of the map that a path belongs to; None for what is no path of one."""
    maps = [kernel_path(holder) for holder in holders_of(rdev) if is_map(holder)]
    return maps[0] if maps else None


def whole_of(rdev: Numbers) -> Numbers:
    """The disk of a partition that the kernel itself found; anything else is its own."""
    folder = sys_folder(rdev)
    return numbers_of(folder.parent) if (folder / "partition").exists() else rdev


@dataclass(frozen=True)
class Lead:
    """A disk that may be one of several paths. `claimed`: multipath-tools say that it is a path."""

    path: str
    wwn: str
    serial: str
    transport: str = ""
    claimed: bool = False

    def leads_with(self, other: Lead) -> bool:
        """Whether both lead to one disk: the same world-wide name. USB bridges give theirs to every disk in them, and a
        disk with a serial of its own is a disk of its own."""
        alike = self.serial == other.serial or is_junk(self.serial) or is_junk(other.serial)
        named = _WORLD_WIDE.fullmatch(self.wwn) and not is_junk(self.wwn.removeprefix("0x"))
        return bool(named) and self.wwn == other.wwn and alike and "usb" not in (self.transport, other.transport)


def lone_paths(leads: Sequence[Lead]) -> dict[str, tuple[str, ...]]:
    """Path → the others to the same disk, for every one that is a path and in no map; `leads` are disks without one."""
    fellows = {
        each.path: tuple(other.path for other in leads if other is not each and each.leads_with(other))
        for each in leads
    }
    return {each.path: fellows[each.path] for each in leads if fellows[each.path] or each.claimed}


def lone_paths_here() -> dict[str, tuple[str, ...]]:
    """`lone_paths` of this machine."""
    return lone_paths([lead for folder in sorted((SYS / "block").iterdir()) for lead in _lead(folder)])


def _lead(folder: Path) -> Iterable[Lead]:
    if not is_disk_name(folder.name) or is_hidden(folder) or read_sys(folder / "size") in ("", "0"):
        return
    rdev = numbers_of(folder)
    if map_over(rdev) is None:
        identity = identity_in(folder.resolve())
        yield lead_of(kernel_path(rdev), identity)


def lead_of(path: str, identity: Identity) -> Lead:
    """What decides whether a disk is a path."""
    return Lead(path, identity.wwn, identity.serial, identity.transport, identity.claimed)


def lone_use(path: str, fellows: Sequence[str]) -> Use:
    """What makes a lone path no target and no source."""
    return Use(kind=UseKind.PATH, device=path, where=", ".join(fellows), start_bytes=0)


def refuse_paths(disks: Sequence[Facts]) -> None:
    """SourceError when one of these devices is a path: of a map, or of a disk that has no map yet."""
    devices = [each for each in disks if each.rdev is not None]
    for each in devices:
        if each.rdev and (above := map_over(whole_of(each.rdev))):
            raise SourceError(
                f"{each.path} is only one path to the disk {above}", hint=f"name the disk: {above}", path=each.path
            )
    lone = lone_paths_here() if devices else {}
    for each in devices:
        if each.path in lone:
            raise SourceError(lone_use(each.path, lone[each.path]).describe(), hint=JOIN_HINT, path=each.path)
