"""The step that installs the loader for the firmware that will boot, with a menu it can read, and checks both.

Imports `core` and `hardware.boot.{bios,config,devices,families,grubcfg,inside,job,kernels,mounts,uefi,values}`.
"""

from __future__ import annotations

import re

from core.layout import partition_node
from hardware.boot import bios, grubcfg, uefi
from hardware.boot.config import entry_files
from hardware.boot.devices import is_device, kernel_basename
from hardware.boot.families import os_release
from hardware.boot.inside import Root
from hardware.boot.job import Job
from hardware.boot.kernels import crypts_below, stack_of
from hardware.boot.mounts import mounted_esp
from hardware.boot.tables import fstab_rows

_ESP_MOUNTS = ("/boot/efi", "/efi", "/boot")
_ESP_TYPES = frozenset({"c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "ef"})  # GPT, dos
_OURS = "/boot/grub/grub.cfg"


def see_to_loader(job: Job) -> None:
    """Install and check. Raises RefloatError or OSError where it could not even try."""
    if job.request.firmware == "uefi":
        _uefi(job)
        return
    need_menu(job)
    bios.install(job.root, job.request.disks, job.report, job.runner)
    bios.check(job.root, job.request.disks, job.report)
    check_menu(job, _OURS)


def _uefi(job: Job) -> None:
    esp = job.request.esp or _restored_esp(job)
    if esp is None:
        job.report.check("loader on the ESP", False, "there is no ESP on the new disks")
        return
    uuid, folder = job.seen_by_grub("/boot/grub")
    stub = grubcfg.write_stub(uuid, folder, crypts_below(kernel_basename(job.place_of("/boot/grub").path)))
    with mounted_esp(esp, job.runner, read_only=job.root.read_only) as inside:
        own = uefi.own_loader(inside)
        if not own:
            need_menu(job)
        loader = uefi.install(inside, job.root, stub, job.report)
        if own:
            own_uuid, own_folder = job.seen_by_grub(job.family.menus[0].removesuffix("/grub.cfg"))
            own_stub = grubcfg.write_stub(
                own_uuid, own_folder, crypts_below(kernel_basename(job.place_of("/boot").path))
            )
            uefi.correct_stubs(inside, own_stub, {place.uuid for place in job.places}, job.report)
        uefi.check(inside, job.report)
        _check_what_it_loads(job, inside, own)
    if not job.root.read_only:
        label = os_release(job.root).get("ID", "linux")
        uefi.add_entry(esp, loader, label, job.names, job.report, job.runner)


def _restored_esp(job: Job) -> str | None:
    """The image's ESP: what the server mounts, else by its partition type."""
    mounted = [place.path for place in job.places if place.type == "vfat" and place.where in _ESP_MOUNTS]
    typed = {
        partition_node(disk.name, part.number)
        for disk in job.request.layout.disks
        for part in (disk.table.partitions if disk.table else ())
        if part.type.lower() in _ESP_TYPES
    }
    return next(iter([*mounted, *(each.path for each in job.request.filesystems if each.node in typed)]), None)


def _check_what_it_loads(job: Job, esp: Root, own: str) -> None:
    if "systemd-boot" in own:
        entries = [*esp.glob("/loader/entries/*.conf"), *esp.glob("/EFI/Linux/*.efi")]
        job.report.check("menu", bool(entries), f"systemd-boot has {len(entries)} entries")
    elif own:
        check_menu(job, next((menu for menu in job.family.menus if job.root.exists(menu)), job.family.menus[0]))
    else:
        check_menu(job, _OURS)


def need_menu(job: Job) -> None:
    """Refloat's GRUB reads one file, and not the entry files of other families: that one is written where needed."""
    if job.root.exists(_OURS) and grubcfg.entries_of(job.root.text(_OURS) or ""):
        return
    kernels = [each for each in job.report.kernels if each.initrd and each.image.startswith("/boot/vmlinuz-")]
    if not kernels:
        return
    uuid, folder = job.seen_by_grub("/boot")
    if job.root.write(_OURS, grubcfg.write_menu(kernels, _options(job), uuid, folder.rstrip("/"))):
        job.done(f"{_OURS}: a plain menu of {len(kernels)} kernels, since there was none GRUB could read")
        job.report.warnings.append(f"{_OURS} is Refloat's: kernels that are installed later are not in it")


def _options(job: Job) -> str:
    """The command line the server booted with, as far as its files tell."""
    texts = [job.root.text("/etc/kernel/cmdline") or ""]
    for path in reversed(entry_files(job.root)):
        if (match := re.search(r"^options\s+(.+)$", job.root.text(path) or "", re.MULTILINE)) is not None:
            texts.append(match[1])
    words = next((text.split() for text in texts if "root=" in text), [])
    if not words:
        match = re.search(r"""^GRUB_CMDLINE_LINUX=["']?([^"'\n]*)""", job.root.text("/etc/default/grub") or "", re.M)
        root = job.place_of("/")
        words = [f"root=UUID={root.uuid}", "ro", *([f"rootflags=subvol={root.subvolume}"] if root.subvolume else [])]
        words += match[1].split() if match else []
    plain = (word for word in words if not re.search(r"[$;{}|&<>\"'\\]", word))
    return grubcfg.correct(f"linux x {' '.join(plain)}", job.names)[0].removeprefix("linux x ")


def check_menu(job: Job, path: str) -> None:
    """The menu exists, its default entry names a kernel, an initrd and a root filesystem that are there."""
    text = job.root.text(path)
    if text is None:
        job.report.check("menu", False, f"{path} is missing")
        return
    entries = grubcfg.entries_of(text)
    if not entries and "blscfg" in text:
        found = entry_files(job.root)
        job.report.check("menu", bool(found), f"{len(found)} entries as files")
        return
    troubles = [] if entries else ["it has no Linux entry"]
    stack = stack_of(kernel_basename(job.place_of("/boot").path), job.request.layout)
    troubles += ["/boot lies on a thin volume, which GRUB cannot read"] if ("dm_thin_pool", "") in stack else []
    for entry in entries[:1]:
        files = (entry.kernel, *entry.initrds)
        troubles += [f"{file} is not there" for file in files if job.from_grub(file) is None]
        if is_device(entry.root) and job.names.current(entry.root) != job.place_of("/").path:
            troubles.append(f"root={entry.root} is not the restored root filesystem")
    here = {place.uuid for place in job.places}
    gone = sorted(grubcfg.searched(text) - here)
    troubles += [f"it looks for the filesystem {uuid}, which is not here" for uuid in gone]
    job.report.check("menu", not troubles, "; ".join(troubles) or f"{path}: its default entry is all there")


def check_fstab(job: Job) -> None:
    """Nothing that the boot would wait for is missing."""
    rows = fstab_rows(job.root.text("/etc/fstab") or "")
    gone = [
        f"{spec} ({where})"
        for spec, where, _type, options in rows
        if is_device(spec) and job.names.current(spec) is None and not {"noauto", "nofail"} & set(options)
    ]
    job.report.check("fstab", not gone, f"not here: {', '.join(gone)}" if gone else "everything it names is here")
