"""`refloat-site.json`: tells a site from a folder. The rules are in `file.py`, whose part this is; imports core."""

from __future__ import annotations

import json
import os
from pathlib import Path

from core.errors import FormatError, SiteError, VersionError

NAME = "refloat-site.json"
CONTENT = b'{"refloat":"site","version":1}'
FSTAB = Path("/etc/fstab")
_NOT_COUNTED = {"lost+found", ".tmp"}
_MAX_BYTES = 4096


def is_marked(folder: int, site: str) -> bool:
    """Whether the open folder holds the mark. FormatError or VersionError if it is not one that we know."""
    try:
        handle = os.open(NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return False
    try:
        data = os.read(handle, _MAX_BYTES)
    finally:
        os.close(handle)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("refloat") != "site":
        raise FormatError(f"{NAME} at {site} does not mark a site", site=site, name=NAME)
    if found.get("version") != 1:
        raise VersionError(
            f"{site} has a layout this Refloat does not know", hint="use a newer Refloat", site=site, name=NAME
        )
    return True


def may_become(folder: int, root: Path, site: str, *, create: bool, fstab: Path) -> None:
    """SiteError if the unmarked folder must not be taken for a new site."""
    others = sorted(set(os.listdir(folder)) - _NOT_COUNTED)
    if others and is_marked(folder, site):  # made since the caller looked: the mark is always the first thing there
        return
    if others and not create:
        raise SiteError(
            f"{site}: {root} has no {NAME} but holds other things ({others[0]!r}): it is no site",
            hint="is the right one mounted? For a new site use an empty folder",
            site=site,
            transient=False,
        )
    unmounted = None if others else awaited_mount(root, fstab)
    if unmounted is not None:
        raise SiteError(
            f"{site}: {root} is empty, and nothing is mounted on {unmounted} as {fstab} says there should be",
            hint=f"mount {unmounted}",
            site=site,
            transient=False,
        )


def awaited_mount(root: Path, fstab: Path) -> Path | None:
    """The mount point at or above `root` that `fstab` names and that has nothing mounted on it; no fstab names none."""
    try:
        lines = fstab.read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return None
    fields = [line.split() for line in lines if not line.lstrip().startswith("#")]
    named = {_unescape(found[1]) for found in fields if len(found) > 1}
    place = Path(os.path.realpath(root))
    for folder in (place, *place.parents):
        if str(folder) in named and not os.path.ismount(folder):
            return folder
    return None


def _unescape(field: str) -> str:
    """fstab(5): blanks and backslashes in octal."""
    for code, text in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, text)
    return field
