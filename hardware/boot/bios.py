"""GRUB for BIOS machines, put on every disk that should boot by the rescue environment's own tools.

Imports `core` and `hardware.boot.{inside,values}`.
"""

from __future__ import annotations

import json
import os
import stat

from core.errors import RefloatError, ToolError
from core.run import Runner
from hardware.boot.inside import Root
from hardware.boot.values import BootReport

_FILES = "/usr/lib/grub/i386-pc"
_BIOS_BOOT = "21686148-6449-6e6f-744e-656564454649"
_MODULES = "part_gpt part_msdos ext2 xfs btrfs fat lvm mdraid09 mdraid1x search_fs_uuid"


#: What grub-install writes into.
_WRITTEN = ("/boot/grub/i386-pc", "/boot/grub/fonts", "/boot/grub/locale", "/boot/grub/grubenv")


def install(root: Root, disks: tuple[str, ...], report: BootReport, runner: Runner) -> None:
    """Put boot code, core image and modules where a BIOS finds them. What fails is a check that is not ok."""
    if not os.path.isdir(_FILES):
        report.check("BIOS loader", False, "this environment has no GRUB for BIOS (grub-pc-bin)")
        return
    _clear_links(root, report)
    for disk in disks:
        if root.read_only:
            report.steps.append(f"GRUB for BIOS onto {disk}")
            continue
        argv = ["grub-install", "--target=i386-pc", f"--directory={_FILES}", "--no-floppy", f"--modules={_MODULES}"]
        argv += [f"--boot-directory={root.outside('/boot')}", disk]
        try:
            runner.run(argv, purpose=f"install GRUB on {disk}", timeout=900)
            report.steps.append(f"GRUB for BIOS installed on {disk}")
            root.changed += _WRITTEN
        except ToolError as error:
            report.warnings.append(_explained(error, disk, runner))


def check(root: Root, disks: tuple[str, ...], report: BootReport) -> None:
    """GRUB's boot code is in each disk's first sector, and its modules are in /boot."""
    modules = root.exists("/boot/grub/i386-pc/normal.mod")
    for disk in disks:
        with open(disk, "rb") as file:
            sector = file.read(512)
        ok = sector[510:] == b"\x55\xaa" and b"GRUB" in sector and modules
        report.check(f"loader on {disk}", ok, "GRUB for BIOS" if ok else "no GRUB that a BIOS would start")


def _clear_links(root: Root, report: BootReport) -> None:
    """grub-install follows symlinks, out of the server if they say so; where it writes, none is needed."""
    if root.real("/boot") != "/boot" or root.real("/boot/grub") not in ("/boot/grub", None):
        raise ToolError("/boot or /boot/grub of the restored server is a symlink", hint="GRUB was not installed")
    for folder in ("/boot/grub", "/boot/grub/i386-pc", "/boot/grub/fonts", "/boot/grub/locale"):
        if root.real(folder) not in (folder, None):
            root.set_aside(folder)
            continue
        for name in root.names(folder):
            if _is_link(f"{root.path}{folder}/{name}") and root.set_aside(f"{folder}/{name}"):
                report.warnings.append(f"{folder}/{name} was a symlink and was set aside")
    # an old device.map names the disks that died
    root.set_aside("/boot/grub/device.map")


def _is_link(path: str) -> bool:
    return stat.S_ISLNK(os.lstat(path).st_mode)


def _explained(error: ToolError, disk: str, runner: Runner) -> str:
    try:
        argv = ["lsblk", "--json", "--nodeps", "--output", "PTTYPE", disk]
        kind = json.loads(runner.run(argv, purpose="read the table").stdout)["blockdevices"][0]["pttype"]
        argv = ["lsblk", "--json", "--list", "--output", "PARTTYPE", disk]
        rows = json.loads(runner.run(argv, purpose="read the table").stdout)["blockdevices"]
    except (RefloatError, ValueError, LookupError):
        return error.message
    if kind == "gpt" and not any((row["parttype"] or "").lower() == _BIOS_BOOT for row in rows):
        return f"{disk} has a GPT without a BIOS boot partition: GRUB for BIOS has no room on it"
    return error.message
