"""Nodes while a stack is read: a name, the device that shows it, what blkid sees there. Imports `hardware.facts`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from core.layout import Content
from hardware.facts import Facts, Numbers, facts_of, read_sys, sys_folder


@dataclass(frozen=True)
class Node:
    """A place in the stack. `rdev` is None for image files and ranges that the kernel shows no device for; nothing can
    stand on those."""

    name: str
    rdev: Numbers | None
    content: Content

    def holders(self) -> list[Numbers]:
        """What the kernel has built on this device, in order of name."""
        if self.rdev is None:
            return []
        folder = sys_folder(self.rdev) / "holders"
        return [device_numbers(entry) for entry in sorted(folder.iterdir())] if folder.exists() else []


def device_numbers(folder: Path) -> Numbers:
    """The numbers of the device that a sysfs folder is of."""
    major, _, minor = read_sys(folder / "dev").partition(":")
    return int(major), int(minor)


def kernel_path(rdev: Numbers) -> str:
    """`/dev/md0`; for device-mapper `/dev/mapper/NAME`, the name that stays."""
    folder = sys_folder(rdev)
    name = read_sys(folder / "dm/name")
    return f"/dev/mapper/{name}" if name else f"/dev/{folder.name.replace('!', '/')}"


def dm_uuid(rdev: Numbers) -> str:
    """`LVM-…`, `CRYPT-LUKS2-…`, `mpath-…`; empty for what is not device-mapper's."""
    return read_sys(sys_folder(rdev) / "dm/uuid")


def facts_at(rdev: Numbers) -> Facts:
    """Facts of a device by its numbers."""
    return facts_of(kernel_path(rdev))
