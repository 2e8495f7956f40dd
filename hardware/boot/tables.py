"""fstab, crypttab and mdadm.conf of the restored server, made to name what is there now. Pure; text in, text and notes
out.

What cannot be found any more is commented out, not deleted: a line that waits for a disk that died would end the boot
in emergency mode. Imports `core` and `hardware.boot.devices`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from core.layout import Array
from hardware.boot.devices import Names, is_device

_OUT = "# refloat, not here any more: "
_LOADER_MOUNTS = ("/boot/efi", "/efi", "/boot/firmware")


def fstab_rows(text: str) -> list[tuple[str, str, str, list[str]]]:
    """(spec, mount point, type, options) of every entry; escapes (`\\040`) resolved."""
    rows = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 3 and not fields[0].startswith("#"):
            where = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[1])
            rows.append((fields[0], where, fields[2], fields[3].split(",") if len(fields) > 3 else []))
    return rows


def correct_fstab(text: str, names: Names, *, esp: str | None, firmware: str) -> tuple[str, list[str]]:
    """The fstab with devices that are named otherwise now. `esp` is the ESP's device; with BIOS its entry goes."""
    notes: list[str] = []
    lines = [_fstab_line(line, names, esp, notes) for line in text.splitlines()]
    mounts = {where for _spec, where, _type, _options in fstab_rows("\n".join(lines))}
    if firmware == "uefi" and esp and not mounts.intersection((*_LOADER_MOUNTS, "/boot")) | _esp_is_boot(lines):
        spec = _by_uuid(names, esp)
        lines.append(f"{spec} /boot/efi vfat umask=0077,nofail 0 1")
        notes.append(f"fstab: {spec}, the new ESP, is mounted at /boot/efi")
    return "\n".join(lines) + "\n", notes


def _esp_is_boot(lines: Sequence[str]) -> set[str]:
    return {
        where for _spec, where, kind, _options in fstab_rows("\n".join(lines)) if where == "/boot" and kind == "vfat"
    }


def _by_uuid(names: Names, path: str) -> str:
    uuid = names.describe(path).uuid
    return f"UUID={uuid}" if uuid else path


def _fstab_line(line: str, names: Names, esp: str | None, notes: list[str]) -> str:
    rows = fstab_rows(line)
    if not rows or not is_device(rows[0][0]):
        return line
    spec, where, kind, options = rows[0]
    right = names.correct(spec)
    if right is None and esp and kind == "vfat" and where in _LOADER_MOUNTS:
        right = _by_uuid(names, esp)
    if right is None and {"noauto", "nofail"} & set(options):
        return line  # nothing waits for it
    if right is None:
        notes.append(f"fstab: {spec} ({where}) is not here any more: commented out")
        return _OUT + line
    if right != spec:
        notes.append(f"fstab: {where} is on {right} now, was {spec}")
        return line.replace(spec, right, 1)
    return line


def correct_crypttab(text: str, names: Names) -> tuple[str, list[str]]:
    """The crypttab with containers that are named otherwise now; those not here are commented out."""
    notes: list[str] = []
    lines = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 2 and not line.startswith("#") and is_device(fields[1]):
            right = names.correct(fields[1])
            if right is None:
                notes.append(f"crypttab: {fields[1]} ({fields[0]}) is not here any more: commented out")
                line = _OUT + line
            elif right != fields[1]:
                notes.append(f"crypttab: {fields[0]} is on {right} now, was {fields[1]}")
                start = line.index(fields[1], line.index(fields[0]) + len(fields[0]))
                line = line[:start] + right + line[start + len(fields[1]) :]
        lines.append(line)
    return "".join(f"{line}\n" for line in lines), notes


_UUID = re.compile(r"(?i)\buuid=([0-9a-f:-]+)")


def correct_mdadm(text: str, before: Sequence[Array], now: Sequence[Array]) -> tuple[str, list[str]]:
    """The mdadm.conf with the arrays as they are now: renamed ones renamed, gone ones commented out, new ones added.

    An array is the same as before when it has the same name in both layouts. Others are left alone.
    """
    notes: list[str] = []
    old = {_hex(array.uuid): array for array in before}
    new = {array.name: array for array in now}
    said: set[str] = set()
    lines = []
    for line in text.splitlines():
        found = _UUID.search(line) if line.upper().lstrip().startswith("ARRAY") else None
        array = old.get(_hex(found[1])) if found else None
        if found and array is not None:
            here = new.get(array.name)
            if here is None:
                notes.append(f"mdadm.conf: {array.name} is not here any more: commented out")
                line = _OUT + line
            elif _hex(here.uuid) != _hex(array.uuid):
                notes.append(f"mdadm.conf: {array.name} has another UUID now")
                line = line.replace(found[1], _colons(here.uuid))
            said |= {_hex(here.uuid)} if here else set()
        elif found:
            said.add(_hex(found[1]))
        lines.append(line)
    for array in now:
        if _hex(array.uuid) not in said:
            lines.append(f"ARRAY /dev/{array.name} metadata={array.metadata} UUID={_colons(array.uuid)}")
            notes.append(f"mdadm.conf: {array.name} added")
    return "".join(f"{line}\n" for line in lines), notes


def _hex(uuid: str) -> str:
    return re.sub(r"[^0-9a-f]", "", uuid.lower())


def _colons(uuid: str) -> str:
    """mdadm's own form, four words."""
    plain = _hex(uuid)
    return ":".join(plain[at : at + 8] for at in range(0, 32, 8))
