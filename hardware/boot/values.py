"""What is asked for, and what comes back, when a restored server is made bootable. Values only; imports `core` and
`hardware.machine`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from core.layout import Array, Content, Crypt, Interface, Layout
from hardware.machine import Nic


@dataclass(frozen=True)
class Restored:
    """A filesystem that is on its target now: `node` is its name in the image's layout, `path` its device here."""

    node: str
    path: str
    content: Content


@dataclass(frozen=True, kw_only=True)
class BootRequest:
    """What stands where now. `layout` is the image's; `disks` are the devices that should boot, all of them;
    `firmware` (`bios`, `uefi`) is that of the machine as it will boot; `esp` the device of an ESP that is formatted
    already. `arrays` and `crypts` are as they are now. `nic_map` (old address → new address) None: by `map_nics`.
    `repair` False: nothing is written (but for a dirty journal, which mounting replays), the report tells what is and
    what would be done."""

    filesystems: tuple[Restored, ...]
    disks: tuple[str, ...]
    firmware: str
    layout: Layout
    esp: str | None = None
    interfaces_before: tuple[Interface, ...] = ()
    nics_now: tuple[Nic, ...] = ()
    nic_map: Mapping[str, str] | None = None
    arrays: tuple[Array, ...] = ()
    crypts: tuple[Crypt, ...] = ()
    hold_network: bool = False
    clone_as: str | None = None
    repair: bool = True


@dataclass(frozen=True)
class Check:
    """One thing that has to be so for the server to boot; `detail` says what was found, in words."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class Kernel:
    """An installed kernel: version, and the paths inside the server of image and initrd (empty: there is none)."""

    version: str
    image: str
    initrd: str


@dataclass(frozen=True)
class Mounted:
    """A restored filesystem in its place. `where` is the mount point inside the server, `uuid` the filesystem's now,
    `subvolume` the btrfs subvolume that is mounted."""

    where: str
    path: str
    type: str
    uuid: str
    subvolume: str = ""


@dataclass
class BootReport:
    """What was done. `family` is the driver that did it, `system` what the server calls itself, `nics` maps the old
    addresses to the new ones, `changed` are files of the server that are not as the image has them, or folders of such.
    A warning is something a person should know; a check that is not ok means that the
    server will probably not boot."""

    family: str = "unknown"
    system: str = ""
    root: str = ""
    steps: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    kernels: list[Kernel] = field(default_factory=list)
    nics: dict[str, str] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every check is."""
        return all(check.ok for check in self.checks)

    def check(self, name: str, ok: bool, detail: str) -> None:
        """Record a check."""
        self.checks.append(Check(name, ok, detail))
