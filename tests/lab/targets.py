"""Replacement machines: hardware that is not the server's own. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.lab.machine import Bus, Drive, Firmware, Machine, Nic


@dataclass(frozen=True)
class NewDisk:
    """A disk of a replacement machine: blank, or one of the server's own that `survives` (the serial says which). With
    a `wwn` it may have several `paths`."""

    serial: str
    size_mib: int
    bus: Bus = Bus.VIRTIO
    sector_bytes: int = 512
    survives: bool = False
    wwn: str = ""
    paths: int = 1


@dataclass(frozen=True)
class Target:
    """A replacement machine. `memory_mib` is enough for the rescue environment."""

    name: str
    firmware: Firmware
    disks: tuple[NewDisk, ...]
    nics: tuple[Nic, ...]
    chassis: str = "q35"
    memory_mib: int = 2048

    def machine(self, files: dict[str, Path]) -> Machine:
        """The machine with its disks' image files, by serial."""
        drives = (
            Drive(files[each.serial], each.serial, each.bus, each.sector_bytes, wwn=each.wwn, paths=each.paths)
            for each in self.disks
        )
        return Machine(self.name, self.firmware, tuple(drives), self.nics, self.memory_mib, self.chassis)
