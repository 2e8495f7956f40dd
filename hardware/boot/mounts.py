"""Finds the restored root filesystem and mounts the server as its own fstab would, in a private folder.

Nothing in it can be executed, no device node or setuid bit counts; mount points are resolved inside the server.
Unmounted again whatever happens. Imports `core` and `hardware.boot.{devices,inside,tables,values}`.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence

from core.errors import RefloatError, ToolError
from core.run import Runner
from hardware.boot.devices import Names
from hardware.boot.inside import Root
from hardware.boot.tables import fstab_rows
from hardware.boot.values import BootReport, Mounted, Restored

_SAFE = "nodev,nosuid,noexec"
_FILESYSTEMS = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "vfat", "f2fs"})
_SUBVOLUMES = ("", "@", "@rootfs", "root")  # Debian, Ubuntu and openSUSE; Fedora
_OTHERS = ("/proc", "/sys", "/dev", "/run", "/tmp")  # noqa: S108 - never mounted from there


@contextlib.contextmanager
def mounted_server(
    filesystems: Sequence[Restored],
    names: Names,
    report: BootReport,
    runner: Runner,
    *,
    read_only: bool,
    repair: str,
) -> Iterator[tuple[Root, tuple[Mounted, ...]] | None]:
    """The server's root and what is mounted in it; None when no restored filesystem is a root. What else cannot be
    mounted is a check that is not ok. `repair`: see `Root`."""
    with contextlib.ExitStack() as stack:
        base = tempfile.mkdtemp(prefix="refloat-server-", dir="/run" if os.path.isdir("/run") else None)
        stack.callback(os.rmdir, base)
        found = find_root(filesystems, names, base, runner)
        if found is None:
            yield None
            return
        _mount(found, base, runner, read_only, stack)
        root = stack.enter_context(Root(base, read_only=read_only, repair=repair))
        places = [found]
        for mounted in _wanted(root, names, found):
            try:
                _mount(mounted, _prepared(root, mounted.where), runner, read_only, stack)
                places.append(mounted)
            except RefloatError as error:
                report.check(f"mount {mounted.where}", False, error.message)
        yield root, tuple(places)


def find_root(filesystems: Sequence[Restored], names: Names, base: str, runner: Runner) -> Mounted | None:
    """The filesystem with an os-release and an fstab that mounts it at `/`; else the only one with an os-release."""
    found: list[tuple[bool, Mounted]] = []
    for each in filesystems:
        if each.content.type not in _FILESYSTEMS - {"vfat"}:
            continue
        for subvolume in _SUBVOLUMES if each.content.type == "btrfs" else ("",):
            place = Mounted("/", each.path, each.content.type, names.describe(each.path).uuid, subvolume)
            with contextlib.suppress(ToolError), contextlib.ExitStack() as stack:
                _mount(place, base, runner, True, stack)
                with Root(base, read_only=True) as root:
                    if _is_root(root):
                        found.append((_mounts_itself(root, names, each.path), place))
    found.sort(key=lambda pair: not pair[0])
    return found[0][1] if found and (found[0][0] or len(found) == 1) else None


def _is_root(root: Root) -> bool:
    return any(root.exists(path) for path in ("/etc/os-release", "/usr/lib/os-release")) and root.exists("/etc/fstab")


def _mounts_itself(root: Root, names: Names, path: str) -> bool:
    rows = fstab_rows(root.text("/etc/fstab") or "")
    return any(where == "/" and names.current(spec) == path for spec, where, _type, _options in rows)


def _wanted(root: Root, names: Names, found: Mounted) -> list[Mounted]:
    """What the server's fstab mounts from restored devices, outer ones first."""
    rows = []
    for spec, where, kind, options in fstab_rows(root.text("/etc/fstab") or ""):
        path = names.current(spec)
        if where in ("/", "none", "swap") or not where.startswith("/") or path is None or "bind" in options:
            continue
        if any(where == other or where.startswith(f"{other}/") for other in _OTHERS):
            continue
        facts = names.describe(path)
        if (kind if kind != "auto" else facts.type) in _FILESYSTEMS:
            subvolume = next((each[7:] for each in options if each.startswith("subvol=")), "")
            rows.append(Mounted(os.path.normpath(where), path, facts.type or kind, facts.uuid, subvolume))
    return sorted(rows, key=lambda row: row.where.count("/"))


def _prepared(root: Root, where: str) -> str:
    if not root.exists(where):
        root.make_folder(where)
    return root.outside(where)


def _mount(place: Mounted, where: str, runner: Runner, read_only: bool, stack: contextlib.ExitStack) -> None:
    options = [_SAFE, "ro" if read_only else "rw"]
    options += ["nouuid"] if place.type == "xfs" else []  # a surviving disk may hold the same filesystem
    options += [f"subvol={place.subvolume}"] if place.subvolume else []
    options += ["umask=0077"] if place.type == "vfat" else []
    argv = ["mount", "-t", place.type, "-o", ",".join(options), "--", place.path, where]
    runner.run(argv, purpose=f"mount {place.path}")
    stack.callback(runner.run, ["umount", "--", where], purpose=f"unmount {place.path}")


@contextlib.contextmanager
def mounted_esp(path: str, runner: Runner, *, read_only: bool) -> Iterator[Root]:
    """The ESP alone, in a folder of its own."""
    with contextlib.ExitStack() as stack:
        base = tempfile.mkdtemp(prefix="refloat-esp-", dir="/run" if os.path.isdir("/run") else None)
        stack.callback(os.rmdir, base)
        _mount(Mounted("/", path, "vfat", ""), base, runner, read_only, stack)
        yield stack.enter_context(Root(base, read_only=read_only))
