"""The step that makes the server's own files name what is there now: tables, resume, LVM's list of devices.

Imports `hardware.boot.{grubcfg,initrd,inside,job,tables}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from hardware.boot import grubcfg
from hardware.boot.initrd import Held
from hardware.boot.inside import Root
from hardware.boot.job import Job
from hardware.boot.tables import correct_crypttab, correct_fstab, correct_mdadm

_RESUME = "/etc/initramfs-tools/conf.d/resume"
_LVM_DEVICES = "/etc/lvm/devices/system.devices"
_NO_LVM_DEVICES = b"# Refloat: the list of devices names disks that are gone\ndevices {\n\tuse_devicesfile = 0\n}\n"


def correct_files(job: Job) -> None:
    """fstab, crypttab, mdadm.conf, the kernel's command line and what initramfs-tools resumes from."""
    root, request = job.root, job.request
    text = root.text("/etc/fstab") or ""
    _edit(job, "/etc/fstab", text, correct_fstab(text, job.names, esp=request.esp, firmware=request.firmware))
    if request.firmware == "uefi" and request.esp and not root.exists("/boot/efi"):
        root.make_folder("/boot/efi")
    if (text := root.text("/etc/crypttab") or "") != "":
        _edit(job, "/etc/crypttab", text, correct_crypttab(text, job.names))
    text = root.text(job.family.mdadm) or ""
    if text or request.arrays:
        new = correct_mdadm(text, request.layout.arrays, request.arrays)
        _edit(job, job.family.mdadm, text, new)
    for path in ("/etc/default/grub", *job.family.menus, *entry_files(root)):
        if (text := root.text(path) or "") != "":
            _edit(job, path, text, grubcfg.correct(text, job.names))
    if (text := root.text(_RESUME) or "") != "":
        _edit(job, _RESUME, text, _without_lost_resume(text, job))
    if root.set_aside(_LVM_DEVICES):
        job.done(f"{_LVM_DEVICES} set aside: it names the disks that were")
    if re.search(r"^\s*(global_)?filter\s*=", root.text("/etc/lvm/lvm.conf") or "", re.MULTILINE):
        job.report.warnings.append("lvm.conf has a filter: does it let the new disks through?")


def entry_files(root: Root) -> list[str]:
    """The menu entries of the boot loader specification, in /boot and on a mounted ESP."""
    return [path for base in ("/boot", "/boot/efi", "/efi") for path in root.glob(f"{base}/loader/entries/*.conf")]


def _edit(job: Job, path: str, old: str, new: tuple[str, list[str]]) -> None:
    """Written only when there is something to tell: what is merely spaced otherwise stays."""
    text, notes = new
    if notes and job.root.edit(path, old, text):
        job.report.steps += notes


def _without_lost_resume(text: str, job: Job) -> tuple[str, list[str]]:
    match = re.search(r"^\s*RESUME=(\S+)", text, re.MULTILINE)
    if match is None or match[1] in ("none", "auto") or job.names.current(match[1]) is not None:
        return text, []
    return text.replace(match[0], "RESUME=none"), [f"no resume from {match[1]}, which is not here any more"]


def replaced_in_initrd(job: Job, held: Held, links: Mapping[str, bytes]) -> dict[str, bytes]:
    """Files of an initrd that say something else than they must now, by name."""
    found: dict[str, bytes] = {}
    for name, member in held.members.items():
        text = member.data.decode("utf-8", "surrogateescape")
        notes: list[str] = []
        if name in ("etc/mdadm/mdadm.conf", "etc/mdadm.conf"):
            text, notes = correct_mdadm(text, job.request.layout.arrays, job.request.arrays)
        elif name in ("cryptroot/crypttab", "etc/crypttab"):
            text, notes = correct_crypttab(text, job.names)
        elif name.startswith("conf/conf.d/"):
            text, notes = _without_lost_resume(text, job)
        elif name == _LVM_DEVICES[1:]:
            found["etc/lvm/lvmlocal.conf"] = _NO_LVM_DEVICES
        if notes:
            found[name] = text.encode("utf-8", "surrogateescape")
    if any("/drivers/net/" in path for path in held.modules.values()):
        names = {f"etc/systemd/network/{name}": data for name, data in links.items()}
        found |= {name: data for name, data in names.items() if not _has(held, name, data)}
    return found


def _has(held: Held, name: str, data: bytes) -> bool:
    member = held.members.get(name)
    return member is not None and member.data == data
