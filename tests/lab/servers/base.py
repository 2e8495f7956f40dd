"""What a lab server is, as a value. Its folder holds `root/` (files laid over the Debian system), `customize` (run once
in the new system) and `install` (run in a guest: partitions, filesystems, boot loader)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.lab.machine import Drive, Firmware, Machine, Nic

#: What Refloat itself needs of Debian in a server; blivet's bindings differ by release.
REFLOAT = ("python3", "python3-gi", "python3-parted", "python3-pyudev", "python3-bytesize", "partclone", "parted",
           "fdisk", "gdisk", "util-linux", "fuse3", "e2fsprogs")  # fmt: skip
_BLOCKDEV = ("lvm", "mdraid", "crypto", "fs", "part", "swap")
SYSTEM = ("linux-image-amd64", "initramfs-tools", "zstd", "systemd-sysv", "udev", "dbus", "openssh-server", "iproute2",
          "iputils-ping", "ca-certificates", "less")  # fmt: skip


@dataclass(frozen=True)
class Blank:
    """A disk of a server: serial and size."""

    serial: str
    size_mib: int


@dataclass(frozen=True)
class Server:
    """A kind of server. `address` is where it answers SSH once it runs; `packages` what it has besides the common.

    `luks_key` is the file on it that opens its LUKS container, if it has one.
    `fingerprinted` are the folders whose files must come back as they were. Its folder may hold scripts that run in it:
    `load` starts what keeps it busy while it is imaged, `imaged` fails if imaging has left or broken something, `alive`
    fails if its services do not work.
    """

    name: str
    suite: str
    firmware: Firmware
    packages: tuple[str, ...]
    disks: tuple[Blank, ...]
    nics: tuple[Nic, ...]
    address: str
    memory_mib: int = 1024
    luks_key: str = ""
    fingerprinted: tuple[str, ...] = ("/etc", "/usr", "/boot", "/root", "/srv")

    def machine(self, drives: tuple[Drive, ...], nvram: Path) -> Machine:
        """The server's own hardware, with these drives."""
        return Machine(self.name, self.firmware, drives, self.nics, self.memory_mib, nvram=nvram)

    def script(self, name: str) -> str:
        """A script of the server's folder; one that does nothing if it has none of that name."""
        path = self.folder / name
        return path.read_text() if path.exists() else "true"

    @property
    def disk_names(self) -> tuple[str, ...]:
        """The disks' names in an image."""
        return tuple(f"vd{letter}" for letter, _ in zip("abcdef", self.disks, strict=False))

    @property
    def folder(self) -> Path:
        return Path(__file__).with_name(self.name)

    @property
    def python(self) -> str:
        """Python's version in that release."""
        return {"bookworm": "3.11", "trixie": "3.13"}[self.suite]

    @property
    def all_packages(self) -> tuple[str, ...]:
        """Every Debian package of the server, sorted."""
        major = {"bookworm": "2", "trixie": "3"}[self.suite]
        blockdev = (f"gir1.2-blockdev-{major}.0", *(f"libblockdev-{each}{major}" for each in _BLOCKDEV))
        return tuple(sorted({*SYSTEM, *REFLOAT, *blockdev, *self.packages}))
