"""Which filesystem a path is on, and whether freezing it would stop this program. Reads /proc/self/mountinfo only.

Imports `core`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from core.errors import SourceError

#: A process that writes here while it is frozen waits for a thaw that cannot come: LVM archives and locks, logs,
#: programs and libraries that are not in memory.
_SYSTEM = (
    "/", "/etc", "/etc/lvm", "/run", "/run/lock", "/var", "/var/log", "/var/lib",
    "/var/tmp", "/tmp", "/usr", "/bin", "/sbin", "/lib", "/dev", "/root",  # noqa: S108 - nothing is written there
)  # fmt: skip


def parse(text: str) -> list[tuple[str, str]]:
    """(mount point, what identifies its filesystem) of every mount, later ones hiding earlier ones of the same point.

    A filesystem is known by its source device (btrfs gives every subvolume device numbers of its own), or by its
    numbers where the source is no path.
    """
    found = []
    for line in text.splitlines():
        left, separator, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        if not separator or len(fields) < 5 or len(tail) < 2:
            raise SourceError(f"/proc/self/mountinfo has a line that cannot be read: {line!r}")
        source = _plain(tail[1])
        where = source if source.startswith("/dev/") else fields[2]
        found.append((_plain(fields[4]), os.path.realpath(where) if where.startswith("/") else where))
    return found


def _plain(text: str) -> str:
    parts = text.split("\\")
    return parts[0] + "".join(chr(int(part[:3], 8)) + part[3:] for part in parts[1:])


def filesystem_of(path: str, mounts: Sequence[tuple[str, str]]) -> str:
    """What identifies the filesystem that holds a path. Raises SourceError when nothing is mounted above it."""
    real, best = os.path.realpath(path), ("", "")
    for where, which in mounts:
        inside = real == where or real.startswith(where.rstrip("/") + "/")
        if inside and len(where) >= len(best[0]):
            best = (where, which)
    if not best[0]:
        raise SourceError(f"cannot tell which filesystem holds {path}", hint="is /proc mounted?")
    return best[1]


def freezing_is_safe(own: Sequence[str]) -> Callable[[str], bool]:
    """A function that tells whether the filesystem at a mount point may be frozen from user space: not one that holds
    a part of the system, of this program, or one of `own` (state folder, sites, configuration)."""
    mounts = parse(Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape"))
    program = (sys.prefix, sys.base_prefix, sys.executable, __file__, tempfile.gettempdir(), os.getcwd(), *sys.path)
    vital = {filesystem_of(path, mounts) for path in (*_SYSTEM, *program, *own) if path and os.path.exists(path)}
    return lambda where: filesystem_of(where, mounts) not in vital
