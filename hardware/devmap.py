"""What device-mapper itself says of a mapping, asked through its control device: sysfs does not tell where one begins.

Imports `core` only. The numbers are those of linux/dm-ioctl.h; nothing is changed by asking.
"""

from __future__ import annotations

import fcntl
import os
import struct

from core.errors import SourceError

_CONTROL = "/dev/mapper/control"
_TABLE_STATUS = 0xC138FD0C  # _IOWR(0xfd, 12, struct dm_ioctl)
_WANT_TABLE = 1 << 4  # DM_STATUS_TABLE_FLAG
#: struct dm_ioctl up to `dev`: version[3], data_size, data_start, target_count, open_count, flags, event_nr, padding.
_HEADER = struct.Struct("=6Ii3IQ")
_HEADER_BYTES = 312
#: struct dm_target_spec: sector_start, length, status, next, target_type; the parameters follow, ended by a zero.
_SPEC = struct.Struct("=QQiI16s")
_SECTOR = 512
_ROOM = 4096


def linear_start(mapping: tuple[int, int], below: tuple[int, int]) -> int:
    """Where a mapping (major, minor) begins on the device it is a linear piece of, in bytes.

    Raises SourceError when it cannot be asked, or is anything else than one piece of `below`.
    """
    count, length, kind, parameters = _table(mapping)
    where, _, start = parameters.partition(" ")
    if (count, kind, where) != (1, "linear", f"{below[0]}:{below[1]}") or not start.isdigit() or not length:
        raise SourceError(
            f"the mapping {mapping[0]}:{mapping[1]} is no partition: {kind} {parameters}", hint="see `dmsetup table`"
        )
    return int(start) * _SECTOR


def _table(mapping: tuple[int, int]) -> tuple[int, int, str, str]:
    """Number of targets; length in sectors, kind and parameters of the first."""
    numbers = os.makedev(*mapping)
    header = _HEADER.pack(4, 0, 0, _ROOM, _HEADER_BYTES, 0, 0, _WANT_TABLE, 0, 0, numbers)
    buffer = bytearray(header.ljust(_ROOM, b"\0"))
    try:
        handle = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(handle, _TABLE_STATUS, buffer)
        finally:
            os.close(handle)
    except OSError as error:
        raise SourceError(
            f"cannot ask device-mapper for {mapping[0]}:{mapping[1]}: {error.strerror}", hint="run as root"
        ) from error
    return _first_target(bytes(buffer))


def _first_target(answer: bytes) -> tuple[int, int, str, str]:
    data_start, count = struct.unpack_from("=II", answer, 16)
    if not count:
        return 0, 0, "empty", ""
    _start, length, _status, _next, kind = _SPEC.unpack_from(answer, data_start)
    parameters = answer[data_start + _SPEC.size :].split(b"\0", 1)[0].decode("ascii", "replace")
    return count, length, kind.rstrip(b"\0").decode("ascii", "replace"), parameters.strip()
