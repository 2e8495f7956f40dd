"""Loaders for UEFI machines: files on the ESP, and the firmware's boot entry.

Firmware that has no entry for this disk starts `EFI/BOOT/BOOTX64.EFI` (UEFI 2.10, 3.5.1.1), so that is always there. A
server that brings its own loader keeps it, and the fallback is a copy of it; else it is the rescue environment's: shim
and Debian's signed GRUB where installed, so that Secure Boot may stay on. Imports `core` and
`hardware.boot.{devices,inside,values}`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

from core.errors import RefloatError
from core.run import Runner
from hardware.boot.devices import Names
from hardware.boot.inside import Root
from hardware.boot.values import BootReport

FALLBACK = "/EFI/BOOT/BOOTX64.EFI"
_SHIM = Path("/usr/lib/shim")
_SIGNED = Path("/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed")
_MONOLITHIC = Path("/usr/lib/grub/x86_64-efi/monolithic/grubx64.efi")
_MODULES = Path("/usr/lib/grub/x86_64-efi")
_OWN = ("shimx64.efi", "grubx64.efi", "systemd-bootx64.efi")


def own_loader(esp: Root) -> str:
    """The loader that the server's distribution has on the ESP, or nothing: shim before GRUB before systemd-boot."""
    vendors = [name for name in esp.names("/EFI") if name.lower() not in ("boot", "microsoft", "dell", "hp", "tools")]
    for loader in _OWN:
        for vendor in vendors:
            names = {name.lower(): name for name in esp.names(f"/EFI/{vendor}")}
            if loader in names:
                return f"/EFI/{vendor}/{names[loader]}"
    return ""


def install(esp: Root, server: Root, stub: str, report: BootReport) -> str:
    """See that the ESP holds a loader at the fallback path. Returns the loader the firmware's entry should name."""
    own = own_loader(esp)
    if own and not esp.exists(FALLBACK):
        _copy_beside(esp, own)
        report.steps.append(f"ESP: {own} copied to {FALLBACK}")
    if not own and (not esp.exists(FALLBACK) or _is_ours(esp)):
        _put_ours(esp, stub, report)
    if not own:
        _put_modules(server, report)
    return own or FALLBACK


def correct_stubs(esp: Root, stub: str, uuids: set[str], report: BootReport) -> None:
    """The small grub.cfg files on the ESP that look for a filesystem which is not here are written anew."""
    for path in esp.glob("/EFI/*/grub.cfg"):
        text = esp.text(path) or ""
        found = re.match(r"\s*search(?:\.fs_uuid|\s.*--fs-uuid.*?)\s+([0-9A-Fa-f-]{8,})\b", text)
        if found and found[1].lower() not in {uuid.lower() for uuid in uuids} and len(text) < 1000:
            esp.write(path, stub, keep=False)
            report.steps.append(f"ESP: {path} looks for the filesystem with /boot as it is now")


def _is_ours(esp: Root) -> bool:
    return esp.exists("/EFI/BOOT/refloat.txt")


def _copy_beside(esp: Root, own: str) -> None:
    folder = os.path.dirname(own)
    for name in esp.names(folder):
        plain = name.lower()
        target = FALLBACK if name == os.path.basename(own) else f"/EFI/BOOT/{name}"
        # shim looks for GRUB beside itself; fbx64 would go by a list of boot entries, which names the old ones
        if plain.endswith(".efi") and plain != "fbx64.efi" and (data := esp.read(f"{folder}/{name}")) is not None:
            esp.write(target, data, keep=False)


def _put_ours(esp: Root, stub: str, report: BootReport) -> None:
    signed = _SIGNED.exists() and (_SHIM / "shimx64.efi.signed").exists()
    if signed:
        esp.write(FALLBACK, (_SHIM / "shimx64.efi.signed").read_bytes(), keep=False)
        esp.write("/EFI/BOOT/grubx64.efi", _SIGNED.read_bytes(), keep=False)
        if (manager := next(iter(sorted(_SHIM.glob("mmx64.efi*"))), None)) is not None:
            esp.write("/EFI/BOOT/mmx64.efi", manager.read_bytes(), keep=False)
    elif _MONOLITHIC.exists():
        esp.write(FALLBACK, _MONOLITHIC.read_bytes(), keep=False)
        report.warnings.append("the UEFI loader is not signed: Secure Boot must be off")
    else:
        report.warnings.append("this environment has no GRUB for UEFI (grub-efi-amd64-signed, shim-signed)")
        return
    # Debian's images are built to look for their menu in EFI/debian on the partition they were loaded from
    for folder in ("/EFI/debian", "/EFI/BOOT"):
        esp.write(f"{folder}/grub.cfg", stub, keep=False)
    esp.write("/EFI/BOOT/refloat.txt", "Put here by Refloat when the server was restored.\n", keep=False)
    report.steps.append(f"ESP: GRUB for UEFI at {FALLBACK}, {'signed, behind shim' if signed else 'unsigned'}")


def _put_modules(server: Root, report: BootReport) -> None:
    """grub.cfg loads modules from beside itself; a server that booted by BIOS has none for UEFI."""
    folder = "/boot/grub/x86_64-efi"
    changed = [
        server.write(f"{folder}/{path.name}", path.read_bytes(), keep=False)
        for path in sorted(_MODULES.glob("*"))
        if path.suffix in (".mod", ".lst")
    ]
    if any(changed):
        report.steps.append(f"GRUB's modules for UEFI put into {folder}")


def check(esp: Root, report: BootReport) -> None:
    """A loader is where any firmware looks."""
    data = esp.read(FALLBACK)
    ok = data is not None and data[:2] == b"MZ"
    report.check("loader on the ESP", ok, FALLBACK if ok else f"{FALLBACK} is missing or no program")


def add_entry(device: str, loader: str, label: str, names: Names, report: BootReport, runner: Runner) -> None:
    """Make one boot entry for this ESP, and take out those of that name which mean it too, or a partition that is not
    here. A failure is a warning: the fallback path boots without."""
    if not os.path.isdir("/sys/firmware/efi/efivars"):
        report.warnings.append("this environment was not booted by UEFI: no boot entry made, the fallback path boots")
        return
    try:
        disk, number = _whole(device)
        listed = runner.run(["efibootmgr", "--verbose"], purpose="read the boot entries").text
        others = {each.partuuid.lower() for each in names.now if each.path != device}
        for entry in stale_entries(listed, label, others):
            runner.run(["efibootmgr", "--quiet", "--delete-bootnum", "--bootnum", entry], purpose="drop an old entry")
        argv = ["efibootmgr", "--quiet", "--create", "--disk", disk, "--part", number, "--label", label]
        runner.run([*argv, "--loader", loader.replace("/", "\\")], purpose="make a boot entry")
        report.steps.append(f"firmware entry {label!r} for {loader}")
    except RefloatError as error:
        report.warnings.append(f"no firmware entry: {error.message}; the fallback path boots")


def stale_entries(listed: str, label: str, others: Collection[str]) -> list[str]:
    """Numbers of the entries of that label in `efibootmgr --verbose`'s answer, but for those that name one of the
    other partitions here (`others`, by GPT GUID)."""
    found = []
    for line in listed.splitlines():
        row = re.match(r"Boot([0-9A-Fa-f]{4})\*?\s+(.*)", line)
        if row is None or re.split(r"\t|\sHD\(|\sPciRoot\(", row[2])[0].strip() != label:
            continue
        guid = re.search(r"HD\(\d+,GPT,([0-9a-fA-F-]+)", row[2])
        if guid is None or guid[1].lower() not in others:
            found.append(row[1])
    return found


def _whole(device: str) -> tuple[str, str]:
    folder = Path("/sys/class/block") / os.path.basename(os.path.realpath(device))
    if not (folder / "partition").exists():
        raise RefloatError(f"{device} is no partition")
    return f"/dev/{folder.resolve().parent.name}", (folder / "partition").read_text().strip()
