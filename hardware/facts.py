"""Facts the kernel tells of one path: size, sector sizes, partition nodes. Read fresh each time, nothing is kept.

Imports `core` and `hardware.devmap`. Everything here raises SourceError when it cannot be told; unknown is never zero.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from core.errors import SourceError
from hardware.devmap import linear_start

# linux/fs.h; the same on every architecture Debian supports
_BLKROGET, _BLKSSZGET, _BLKPBSZGET, _BLKGETSIZE64 = 0x125E, 0x1268, 0x127B, 0x80081272
SYS = Path("/sys")
#: How multipath-tools and kpartx call their mappings to device-mapper, whatever name they have (libmultipath, kpartx).
_MAP, _MAP_PARTITION = "mpath-", re.compile(r"part(\d+)-(mpath-.+)")

Numbers = tuple[int, int]  # major, minor


@dataclass(frozen=True)
class Facts:
    """`path` with links followed; `rdev` (major, minor) of a device, None for a file; `partition`: its number or 0."""

    path: str
    size_bytes: int
    sector_bytes: int
    physical_sector_bytes: int
    read_only: bool
    rdev: tuple[int, int] | None = None
    partition: int = 0

    @property
    def is_file(self) -> bool:
        """True for a regular file."""
        return self.rdev is None


def facts_of(path: str, sector_bytes: int | None = None) -> Facts:
    """Size and sector sizes of a block device or an image file.

    `sector_bytes` states what an image file was made for (512 when None); for a device the kernel's word counts, and
    stating another raises. Raises SourceError when there is no such device or it cannot be opened.
    """
    real = os.path.realpath(path)
    try:
        handle = os.open(real, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SourceError(
            f"cannot open {path}: {error.strerror}", hint="check the path; reading disks needs root", path=path
        ) from error
    try:
        status = os.fstat(handle)
        if stat.S_ISREG(status.st_mode):
            return _file_facts(real, status.st_size, sector_bytes or 512)
        if not stat.S_ISBLK(status.st_mode):
            raise SourceError(
                f"{path} is neither a block device nor a file", hint="name a disk or an image file", path=path
            )
        return _device_facts(real, handle, status.st_rdev, sector_bytes)
    except OSError as error:
        raise SourceError(f"cannot examine {path}: {error.strerror}", path=path) from error
    finally:
        os.close(handle)


def _file_facts(path: str, size_bytes: int, sector_bytes: int) -> Facts:
    if sector_bytes not in (512, 1024, 2048, 4096):
        raise SourceError(f"no disk has sectors of {sector_bytes} bytes", hint="use 512 or 4096", path=path)
    if size_bytes % sector_bytes:
        raise SourceError(
            f"{path} is no disk image: its {size_bytes} bytes are no whole number of {sector_bytes}-byte sectors",
            hint=f"if nothing was cut off, pad it: truncate -s %{sector_bytes} {path}",
            path=path,
        )
    return Facts(path, size_bytes, sector_bytes, sector_bytes, not os.access(path, os.W_OK))


def _device_facts(path: str, handle: int, rdev: int, stated: int | None) -> Facts:
    sector = _ioctl(handle, _BLKSSZGET, "i")
    if stated not in (None, sector):
        raise SourceError(
            f"{path} has sectors of {sector} bytes, not {stated}", hint="leave sector_bytes out for devices", path=path
        )
    numbers = (os.major(rdev), os.minor(rdev))
    return Facts(
        path=path,
        size_bytes=_ioctl(handle, _BLKGETSIZE64, "Q"),
        sector_bytes=sector,
        physical_sector_bytes=_ioctl(handle, _BLKPBSZGET, "I"),
        read_only=bool(_ioctl(handle, _BLKROGET, "i")),
        rdev=numbers,
        partition=int(read_sys(sys_folder(numbers) / "partition") or 0),
    )


def _ioctl(handle: int, request: int, form: str) -> int:
    answer = fcntl.ioctl(handle, request, bytes(struct.calcsize(form)))
    return int(struct.unpack(form, answer)[0])


def sys_folder(rdev: tuple[int, int]) -> Path:
    """The device's folder in sysfs. Raises SourceError when the kernel has none."""
    link = SYS / "dev/block" / f"{rdev[0]}:{rdev[1]}"
    if not link.exists():
        raise SourceError(f"the kernel lists no block device {rdev[0]}:{rdev[1]}", hint="is /sys mounted?")
    return link.resolve()


def read_sys(path: Path) -> str:
    """A sysfs attribute without its newline; empty when there is no such attribute or it has no value now.

    The kernel answers EINVAL or ENODEV for attributes that make no sense at the moment (speed of a NIC without link).
    """
    try:
        return path.read_text("utf-8", "replace").strip("\n\0 ")
    except FileNotFoundError:
        return ""
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENODEV, errno.ENXIO, errno.EOPNOTSUPP, errno.ENOTDIR):
            return ""
        raise SourceError(f"cannot read {path}: {error.strerror}", hint="run as root") from error


def numbers_of(folder: Path) -> Numbers:
    """The numbers of the device that a sysfs folder is of. Raises SourceError when it has none, or has them no more."""
    major, _, minor = read_sys(folder / "dev").partition(":")
    if not minor:
        raise SourceError(f"{folder.name} went away while it was examined", hint="try again; is its cable sound?")
    return int(major), int(minor)


def holders_of(rdev: Numbers) -> list[Numbers]:
    """What the kernel has built on a device, in order of name."""
    folder = sys_folder(rdev) / "holders"
    return [numbers_of(entry) for entry in sorted(folder.iterdir())] if folder.exists() else []


def dm_uuid(rdev: Numbers) -> str:
    """`LVM-…`, `CRYPT-LUKS2-…`, `mpath-…`; empty for what is not device-mapper's."""
    return read_sys(sys_folder(rdev) / "dm/uuid")


def is_map(rdev: Numbers) -> bool:
    """Whether the device is a multipath map: a disk, put together from its paths."""
    return dm_uuid(rdev).startswith(_MAP)


def kernel_path(rdev: Numbers) -> str:
    """`/dev/md0`; for device-mapper `/dev/mapper/NAME`, the name that stays."""
    folder = sys_folder(rdev)
    name = read_sys(folder / "dm/name")
    return f"/dev/mapper/{name}" if name else f"/dev/{folder.name.replace('!', '/')}"


def partition_nodes(rdev: Numbers) -> dict[int, tuple[Numbers, int, int]]:
    """What partitions the kernel sees on a disk now: number → (device numbers, start, size), in bytes.

    sysfs counts in 512-byte units whatever the sector size (Documentation/ABI/stable/sysfs-block). The kernel reads no
    tables on device-mapper's devices: a map's partitions are mappings that kpartx made.
    """
    uuid = dm_uuid(rdev)
    if uuid.startswith(_MAP):
        mapped = ((holder, _MAP_PARTITION.fullmatch(dm_uuid(holder))) for holder in holders_of(rdev))
        return {
            int(match[1]): (holder, linear_start(holder, rdev), int(read_sys(sys_folder(holder) / "size")) * 512)
            for holder, match in mapped
            if match and match[2] == uuid
        }
    found = {}
    for entry in sys_folder(rdev).iterdir():
        texts = [read_sys(entry / name) for name in ("partition", "dev", "start", "size")] if entry.is_dir() else [""]
        if all(texts):  # one that is just being removed has some of them no more
            found[int(texts[0])] = (numbers_of(entry), int(texts[2]) * 512, int(texts[3]) * 512)
    return found


def read_range(path: str, offset: int, length: int) -> bytes:
    """Exactly these bytes. Raises SourceError when they cannot be read: what is unreadable must not look blank."""
    data = b""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # what is read before a bad sector comes short, and only the next read tells the error (read(2))
            while len(data) < length and (more := os.pread(handle, length - len(data), offset + len(data))):
                data += more
        finally:
            os.close(handle)
    except OSError as error:
        raise SourceError(
            f"cannot read {length - len(data)} bytes at {offset + len(data)} of {path}: {error.strerror}",
            hint="the disk may be failing: look at the kernel log",
            path=path,
        ) from error
    if len(data) != length:
        raise SourceError(
            f"{path} ends at {offset + len(data)}, before {offset + length}",
            hint="it became smaller, or is not the disk that was meant",
            path=path,
        )
    return data
