"""The system tools Refloat starts, in which versions, and what cannot be done without them: one table for `doctor`.

Constant data and pure judgement, but for `look`, which asks the machine. May import `core` and `appliance.check`.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from appliance.check import Finding, fail, ok, warn
from core.errors import ToolError
from core.run import Runner, find_tool

Version = tuple[int, ...]


@dataclass(frozen=True)
class Tool:
    """A program. `without` completes "without it …"; `version_argv` empty: only its presence is asked.

    `stops`: without it no image or no restore; else only what `without` says. `limit`: what it does not do.
    """

    name: str
    package: str
    without: str
    minimum: Version = ()
    version_argv: tuple[str, ...] = ()
    stops: bool = True
    limit: str = ""


#: Minimum versions are those of Debian 11, but for partclone's; what the tests run with is Debian 12's and later.
TOOLS: tuple[Tool, ...] = (
    Tool("partclone.extfs", "partclone", "ext2/3/4 cannot be mapped", (0, 3, 20), ("-v",)),
    # partclone pull request 282 (0.3.40) mends its map of larger XFS; imaging does not rely on it in any version.
    Tool(
        "partclone.xfs",
        "partclone",
        "XFS cannot be mapped",
        (0, 3, 20),
        ("-v",),
        limit="; XFS above 16 TiB is imaged whole",
    ),
    Tool("partclone.btrfs", "partclone", "btrfs cannot be mapped"),
    Tool("partclone.fat", "partclone", "FAT (the ESP) cannot be mapped"),
    Tool("partclone.ntfs", "partclone", "NTFS cannot be mapped"),
    Tool("ntfs-3g.probe", "ntfs-3g", "a dirty NTFS cannot be told", stops=False),
    Tool("blkid", "util-linux", "nothing on a disk is recognised", (2, 36), ("--version",)),
    Tool("sfdisk", "fdisk", "partition tables cannot be written", (2, 36), ("--version",)),
    Tool("losetup", "mount", "partitions of disk-image files cannot be reached", (2, 36), ("--version",)),
    Tool("mount", "mount", "XFS and btrfs cannot be grown"),
    Tool("umount", "mount", "XFS and btrfs cannot be grown"),
    Tool("mkswap", "util-linux", "swap cannot be made again"),
    Tool("e2fsck", "e2fsprogs", "ext2/3/4 cannot be resized", (1, 46), ("-V",)),
    Tool("resize2fs", "e2fsprogs", "ext2/3/4 cannot be resized"),
    Tool("dumpe2fs", "e2fsprogs", "ext2/3/4 cannot be read about"),
    Tool("debugfs", "e2fsprogs", "a target that holds a site cannot be told"),
    Tool("xfs_db", "xfsprogs", "XFS cannot be read about", (5, 10), ("-V",)),
    Tool("xfs_logprint", "xfsprogs", "a clean XFS cannot be told from one that is not"),
    Tool("xfs_growfs", "xfsprogs", "XFS cannot be grown"),
    Tool("btrfs", "btrfs-progs", "btrfs cannot be read about or grown", (5, 10), ("--version",)),
    Tool("lvs", "lvm2", "volume groups cannot be imaged or restored", (2, 3), ("--version",), stops=False),
    Tool("thin_delta", "thin-provisioning-tools", "every night reads thin volumes in full", stops=False),
    Tool("mdadm", "mdadm", "md arrays cannot be imaged or restored", (4, 1), ("--version",), stops=False),
    Tool("cryptsetup", "cryptsetup-bin", "LUKS cannot be imaged or restored", (2, 3), ("--version",), stops=False),
    Tool("fusermount3", "fuse3", "`refloat mount` does not work", (3, 10), ("--version",), stops=False),
    Tool("zstd", "zstd", "archives cannot be written or read", (1, 4), ("--version",), stops=False),
    Tool("age", "age", "archives cannot be written or read", (1, 0), ("--version",), stops=False),
    Tool("udevadm", "udev", "disks are known by sysfs alone", stops=False),
)

#: Python modules that Debian brings (they cannot come from PyPI): import name → package.
MODULES = {"parted": "python3-parted", "pyudev": "python3-pyudev", "gi": "python3-gi"}


def look(runner: Runner, tools: Sequence[Tool] = TOOLS, find: Callable[[str], str | None] = find_tool) -> list[Finding]:
    """One finding a tool, and one for each Python module."""
    found = [
        judge(tool, find(tool.name), _version(tool, runner) if tool.version_argv and find(tool.name) else None)
        for tool in tools
    ]
    for module, package in MODULES.items():
        if importlib.util.find_spec(module) is None:
            found.append(fail(module, "missing: the storage stack cannot be read", f"apt install {package}"))
        else:
            found.append(ok(module, "there"))
    return found


def judge(tool: Tool, path: str | None, printed: str | None) -> Finding:
    """What to say of a tool found at `path` (None: not found) that printed this when asked for its version."""
    bad = fail if tool.stops else warn
    hint = f"apt install {tool.package}"
    if path is None:
        return bad(tool.name, f"missing: {tool.without}", hint)
    if printed is None:
        return ok(tool.name, path)
    version = parse_version(printed)
    wanted = show_version(tool.minimum)
    if version is None:
        return bad(tool.name, f"does not say which version it is ({wanted} is needed)", hint)
    if version < tool.minimum:
        return bad(tool.name, f"{show_version(version)} is too old ({wanted} is needed): {tool.without}", hint)
    return ok(tool.name, f"{show_version(version)}{tool.limit}")


def parse_version(printed: str) -> Version | None:
    """The first dotted number in what a tool printed, at most three parts; None when there is none."""
    match = re.search(r"(?<![\d.])v?(\d{1,5}(?:\.\d{1,5}){1,2})", printed[:4096])
    return tuple(int(part) for part in match[1].split(".")) if match else None


def show_version(version: Version) -> str:
    """`(0, 3, 20)` → `0.3.20`."""
    return ".".join(str(part) for part in version)


def _version(tool: Tool, runner: Runner) -> str:
    """What it printed, wherever it printed it; empty when it could not be asked."""
    try:
        result = runner.run(
            [tool.name, *tool.version_argv], purpose=f"ask {tool.name} for its version", ok=range(256), timeout=10
        )
    except ToolError:
        return ""
    return result.text + result.stderr.decode("utf-8", "replace")
