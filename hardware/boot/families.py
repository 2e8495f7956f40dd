"""What differs between distributions: one short driver a family, and the registry that picks one by os-release(5).

Imports `hardware.boot.{inside,kernels}`.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Protocol

from hardware.boot.inside import Root

_MODULES = "/etc/initramfs-tools/modules"
_DRACUT = "/etc/dracut.conf.d/90-refloat.conf"
_NOTE = "# for the hardware this server was restored onto"


class Family(Protocol):
    """`name` is its own; `repairs` False: nothing of the system is touched. `menus` are the places of GRUB's menu,
    the one that is used first."""

    name: str
    repairs: bool
    menus: tuple[str, ...]
    mdadm: str

    def remember(self, root: Root, modules: Sequence[str]) -> bool:
        """Have the next initrd the server makes itself hold these modules too. True when a file was changed."""
        ...

    def warnings(self, root: Root, firmware: str) -> list[str]:
        """What a person should do or know once the server is up."""
        ...


class Debian:
    """Debian, Ubuntu and what comes of them: initramfs-tools, grub.cfg with all its entries in it."""

    name = "debian"
    repairs = True
    menus: tuple[str, ...] = ("/boot/grub/grub.cfg",)
    mdadm = "/etc/mdadm/mdadm.conf"

    def remember(self, root: Root, modules: Sequence[str]) -> bool:
        text = root.text(_MODULES)
        if text is None or not modules:
            return False
        there = {line.split()[0].replace("-", "_") for line in text.splitlines() if line.strip()}
        new = [name for name in modules if name not in there]
        return bool(new) and root.write(_MODULES, "\n".join([text.rstrip("\n"), _NOTE, *new]) + "\n")

    def warnings(self, root: Root, firmware: str) -> list[str]:
        package = "grub-efi-amd64" if firmware == "uefi" else "grub-pc"
        found = []
        if not root.exists(f"/var/lib/dpkg/info/{package}.list") and root.exists("/var/lib/dpkg/info/grub-common.list"):
            found.append(f"install {package} on the server when it is up: its loader is Refloat's and gets no updates")
        elif firmware == "bios":
            found.append("run `dpkg-reconfigure grub-pc` on the server: it remembers the disks that were")
        return found


class Fedora:
    """Fedora and RHEL's family: dracut, menu entries as files that only their own GRUB reads. Never booted."""

    name = "fedora"
    repairs = True
    menus: tuple[str, ...] = ("/boot/grub2/grub.cfg", "/boot/grub/grub.cfg")
    mdadm = "/etc/mdadm.conf"

    def remember(self, root: Root, modules: Sequence[str]) -> bool:
        if not modules:
            return False
        return root.write(_DRACUT, f'{_NOTE}\nadd_drivers+=" {" ".join(modules)} "\n')

    def warnings(self, root: Root, firmware: str) -> list[str]:
        return ["repairing this family has been tried on files only, never booted"]


class Unknown:
    """Everything else: restored bit by bit, and left so."""

    name = "unknown"
    repairs = False
    menus: tuple[str, ...] = ()
    mdadm = "/etc/mdadm.conf"

    def remember(self, root: Root, modules: Sequence[str]) -> bool:
        return False

    def warnings(self, root: Root, firmware: str) -> list[str]:
        return ["how this system boots is not known: it was restored bit by bit, and nothing in it was repaired"]


_FAMILIES: dict[str, type[Debian] | type[Fedora]] = {
    "debian": Debian, "ubuntu": Debian, "fedora": Fedora, "rhel": Fedora, "centos": Fedora,
}  # fmt: skip


def os_release(root: Root) -> dict[str, str]:
    """os-release(5) as a mapping; empty when there is none."""
    text = root.text("/etc/os-release") or root.text("/usr/lib/os-release") or ""
    found = {}
    for line in text.splitlines():
        key, equals, value = line.strip().partition("=")
        if equals and not key.startswith("#"):
            try:
                found[key] = "".join(shlex.split(value)[:1])
            except ValueError:
                continue
    return found


def family_of(root: Root) -> Family:
    """The driver for this system, by its ID and what it says it is like."""
    facts = os_release(root)
    for name in (facts.get("ID", ""), *facts.get("ID_LIKE", "").split()):
        if name in _FAMILIES:
            return _FAMILIES[name]()
    return Unknown()
