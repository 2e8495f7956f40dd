"""Who uses a disk right now: mounts, swap, device-mapper and md, loop devices, exclusive or writing openers.

A snapshot; ask again before writing. Imports `core` and `hardware.{facts,machine,sitefind}`. What cannot be found out
raises SourceError; it is never taken for "nobody".
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from core.errors import SourceError
from hardware.facts import (
    Facts,
    Numbers,
    facts_of,
    holders_of,
    is_map,
    kernel_path,
    partition_nodes,
    read_sys,
    sys_folder,
)
from hardware.machine import Use, UseKind
from hardware.sitefind import holds_site

__all__ = ["Use", "UseKind", "holds_site", "uses_of"]


@dataclass(frozen=True)
class _Mount:
    where: str
    writable: bool


@dataclass(frozen=True)
class _Loop:
    name: str
    rdev: Numbers
    offset: int
    writable: bool
    file: tuple[int, int] | None  # device and inode of a backing file
    disk: Numbers | None  # or the backing device


@dataclass(frozen=True)
class _World:
    """What the kernel says of the whole machine, read once for one question."""

    mounts: dict[Numbers, list[_Mount]]
    swaps: dict[Numbers, str]
    loops: list[_Loop]


def uses_of(path: str) -> tuple[Use, ...]:
    """Everything that uses the device or file, its partitions, and whatever is stacked on them.

    `start_bytes` of a Use is the offset on `path` of the partition concerned, 0 for all of it, None when not known.
    """
    facts = facts_of(path)
    try:
        world = _world()
        if facts.rdev is None:
            found = _file_uses(facts, world)
        else:
            found = _device_uses(facts.rdev, 0, world, set(), partitions=True)
        return tuple(dict.fromkeys(found))
    except OSError as error:  # something went away while it was looked at
        raise SourceError(f"cannot tell what uses {path}: {error}", hint="are /proc and /sys mounted?") from error


def _device_uses(
    rdev: Numbers, start: int | None, world: _World, seen: set[Numbers], *, partitions: bool
) -> Iterator[Use]:
    """`start` is where this device lies on the disk asked for; with `partitions` its partitions add their offset."""
    if rdev in seen:
        return
    seen.add(rdev)
    node = f"/dev/{_name(rdev)}"
    nodes = partition_nodes(rdev) if partitions else {}
    above = list(_stacked(rdev, start, world, seen, {part for part, _offset, _size in nodes.values()}))
    for mount in world.mounts.get(rdev, ()):
        above.append(
            Use(kind=UseKind.MOUNTED, device=node, where=mount.where, start_bytes=start, writable=mount.writable)
        )
    if rdev in world.swaps:
        above.append(Use(kind=UseKind.SWAP, device=node, where="swap", start_bytes=start, writable=True))
    for number_rdev, offset, _size in nodes.values():
        above += _device_uses(number_rdev, None if start is None else start + offset, world, seen, partitions=False)
    yield from above
    # device-mapper itself claims a map that has partitions, for them
    if not above and not (nodes and is_map(rdev)) and _claimed(node):
        yield Use(
            kind=UseKind.OPEN, device=node, where="opened exclusively by something", start_bytes=start, writable=True
        )


def _stacked(
    rdev: Numbers, start: int | None, world: _World, seen: set[Numbers], partitions: Collection[Numbers]
) -> Iterator[Use]:
    """`partitions` are a map's own: mappings, but no uses of it."""
    for upper in holders_of(rdev):
        if upper in partitions:
            continue
        yield Use(
            kind=UseKind.HOLDER,
            device=f"/dev/{_name(rdev)}",
            where=kernel_path(upper),
            start_bytes=start,
            writable=True,
        )
        yield from _device_uses(upper, start, world, seen, partitions=is_map(upper))
    for loop in world.loops:
        if loop.disk == rdev:
            yield from _loop_uses(loop, start, world, seen)


def _loop_uses(loop: _Loop, start: int | None, world: _World, seen: set[Numbers]) -> Iterator[Use]:
    place = None if start is None else start + loop.offset
    yield Use(kind=UseKind.LOOP, device=loop.name, where="attached", start_bytes=place, writable=loop.writable)
    yield from _device_uses(loop.rdev, place, world, seen, partitions=True)


def _file_uses(facts: Facts, world: _World) -> Iterator[Use]:
    status = os.stat(facts.path)
    identity = (status.st_dev, status.st_ino)
    found = [use for loop in world.loops if loop.file == identity for use in _loop_uses(loop, 0, world, set())]
    yield from found
    if not found and _written_by_another(facts.path):
        yield Use(kind=UseKind.OPEN, device=facts.path, where="open for writing", start_bytes=None, writable=True)


def _claimed(node: str) -> bool:
    """Whether somebody (ZFS, another mount namespace, an array being assembled) holds a claim: O_EXCL meets EBUSY."""
    try:
        os.close(os.open(node, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return True
        raise SourceError(
            f"cannot tell whether {node} is in use: {error.strerror}", hint="run as root", path=node
        ) from error
    return False


def _written_by_another(path: str) -> bool:
    """A read lease is refused while a file is open for writing (fcntl(2)); without leases it cannot be told."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    finally:
        os.close(handle)
    return False


def _world() -> _World:
    mountinfo = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
    swaps = Path("/proc/swaps").read_text("utf-8", "surrogateescape")
    loops = [loop for folder in sorted(Path("/sys/block").glob("loop*")) if (loop := _loop(folder))]
    return _World(parse_mountinfo(mountinfo), _swap_devices(swaps), loops)


def parse_mountinfo(text: str) -> dict[Numbers, list[_Mount]]:
    """Mounts by device numbers. A filesystem with made-up numbers (btrfs: 0:NN) counts for its source device too."""
    found: dict[Numbers, list[_Mount]] = {}
    for line in text.splitlines():
        left, separator, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        if not separator or len(fields) < 6 or len(tail) < 3:
            raise SourceError(f"/proc/self/mountinfo has a line that cannot be read: {line!r}")
        # a read-only bind mount of a writable filesystem does not make it read-only: the superblock's options decide
        mount = _Mount(unescape_octal(fields[4]), "ro" not in tail[2].split(","))
        numbers = {_numbers(fields[2])}
        source = unescape_octal(tail[1])
        if fields[2].startswith("0:") and source.startswith("/"):
            numbers |= _device_numbers(source)
        if tail[0] == "btrfs":
            numbers |= _btrfs_members(source)
        for each in numbers:
            found.setdefault(each, []).append(mount)
    return found


def unescape_octal(text: str) -> str:
    """`\\040` as mountinfo and /proc/swaps write blanks."""
    parts = text.split("\\")
    return parts[0] + "".join(chr(int(part[:3], 8)) + part[3:] for part in parts[1:])


def _device_numbers(path: str) -> set[Numbers]:
    try:
        status = os.stat(path)
    except OSError:
        return set()  # a source that is only a word, such as a network share or a pool
    return {(os.major(status.st_rdev), os.minor(status.st_rdev))} if stat.S_ISBLK(status.st_mode) else set()


def _btrfs_members(source: str) -> set[Numbers]:
    """All devices of a mounted btrfs of several: /sys/fs/btrfs/UUID/devices holds a link for each."""
    own = _device_numbers(source)
    for folder in Path("/sys/fs/btrfs").glob("*/devices"):
        members = {_numbers(read_sys(link / "dev") or "0:0") for link in folder.iterdir()}
        if own & members:
            return members
    return own


def _swap_devices(text: str) -> dict[Numbers, str]:
    names = [unescape_octal(line.split()[0]) for line in text.splitlines()[1:] if line.split()]
    return {numbers: name for name in names for numbers in _device_numbers(name)}


def _loop(folder: Path) -> _Loop | None:
    backing, offset = read_sys(folder / "loop/backing_file"), read_sys(folder / "loop/offset")
    if not backing or not offset:  # detached, perhaps just now
        return None
    disk, file = None, None
    try:
        status = os.stat(backing)
        if stat.S_ISBLK(status.st_mode):
            disk = (os.major(status.st_rdev), os.minor(status.st_rdev))
        else:
            file = (status.st_dev, status.st_ino)
    except OSError:
        pass  # deleted, or in another mount namespace: then it is nothing that a path here can name
    rdev = _numbers(read_sys(folder / "dev"))
    writable = read_sys(folder / "ro") == "0"
    return _Loop(f"/dev/{folder.name}", rdev, int(offset), writable, file, disk)


def _numbers(text: str) -> Numbers:
    major, _, minor = text.partition(":")
    return int(major), int(minor)


def _name(rdev: Numbers) -> str:
    return sys_folder(rdev).name.replace("!", "/")
