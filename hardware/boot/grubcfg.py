"""grub.cfg as text: what it boots, what it looks for, corrected names, and a plain one where there is none. Pure.

A grub.cfg is a script, and is not run here: only the lines that grub-mkconfig writes are understood. Imports
`hardware.boot.{devices,values}`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hardware.boot.devices import Names, is_device
from hardware.boot.values import Kernel

_LINUX = re.compile(r"^\s*linux(?:16|efi)?\s+(\S+)(.*)$")
_INITRD = re.compile(r"^\s*initrd(?:16|efi)?\s+(.+)$")
_SEARCH = re.compile(r"^\s*search\s+.*--fs-uuid\b.*?--set=\w+(?:\s+--hint\S*)*\s+(?:'[^']*'\s+)?([0-9A-Za-z-]+)\s*$")
_DEVICE = re.compile(r"\b(root|resume)=(\S+)")


@dataclass(frozen=True)
class Entry:
    """What one menu entry loads: file paths as GRUB sees them, and the kernel's command line."""

    kernel: str
    options: str
    initrds: tuple[str, ...]

    @property
    def root(self) -> str:
        """The spec of the root filesystem, or nothing."""
        return next((match[2] for match in _DEVICE.finditer(self.options) if match[1] == "root"), "")


def entries_of(text: str) -> list[Entry]:
    """The Linux entries in order; submenus are flattened."""
    found: list[Entry] = []
    for line in text.splitlines():
        if (linux := _LINUX.match(line)) is not None:
            found.append(Entry(linux[1], linux[2].strip(), ()))
        elif (initrd := _INITRD.match(line)) is not None and found and not found[-1].initrds:
            last = found.pop()
            found.append(Entry(last.kernel, last.options, tuple(initrd[1].split())))
    return found


def searched(text: str) -> set[str]:
    """The filesystem UUIDs that the menu looks for."""
    return {match[1] for line in text.splitlines() if (match := _SEARCH.match(line))}


def correct(text: str, names: Names) -> tuple[str, list[str]]:
    """The menu, or a command line, with `root=` and `resume=` that name what is there now; one that resumes from what
    is gone does not."""
    notes: list[str] = []

    def replaced(match: re.Match[str]) -> str:
        key, spec = match[1], match[2]
        bare = spec.strip("\"'")
        if not is_device(bare):
            return match[0]
        right = names.correct(bare)
        if right is None and key == "resume":
            notes.append(f"{match[0]} is not here any more: noresume")
            return "noresume"
        if right is None or right == bare:
            return match[0]
        notes.append(f"{key}={right} now, was {bare}")
        return f"{key}={spec.replace(bare, right)}"

    lines = [_DEVICE.sub(replaced, line) if _is_command(line) else line for line in text.split("\n")]
    return "\n".join(lines), list(dict.fromkeys(notes))


def _is_command(line: str) -> bool:
    return bool(_LINUX.match(line) or re.match(r"^\s*(GRUB_CMDLINE_\w+=|options\s|set kernelopts=)", line))


def write_menu(kernels: Sequence[Kernel], options: str, uuid: str, folder: str) -> str:
    """A grub.cfg for a server that has none GRUB could read: its kernels, newest first. `uuid` is that of the
    filesystem with /boot, `folder` the path of /boot on it (empty: its top)."""
    lines = ["# written by Refloat when the server was restored", "set timeout=5", "set default=0"]
    for kernel in kernels:
        image, initrd = (path.replace("/boot", folder, 1) for path in (kernel.image, kernel.initrd))
        lines += [f"menuentry 'Linux {kernel.version}' {{", f"\tsearch --no-floppy --fs-uuid --set=root {uuid}"]
        lines += [f"\tlinux {image} {options}", f"\tinitrd {initrd}", "}"]
    return "\n".join(lines) + "\n"


def write_stub(uuid: str, folder: str, crypts: Sequence[str] = ()) -> str:
    """The small grub.cfg beside a loader on the ESP: find the filesystem with /boot, and go on there. `folder` is the
    menu's folder as GRUB sees it (`/boot/grub`), `crypts` the containers to open before."""
    opened = [f"cryptomount -u {uuid.replace('-', '')}" for uuid in crypts]
    lines = [*opened, f"search.fs_uuid {uuid} root", f"set prefix=($root)'{folder}'", "configfile $prefix/grub.cfg"]
    return "\n".join(lines) + "\n"
