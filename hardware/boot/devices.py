"""What the restored server's files call a device, and what that device is called now.

`Names` is pure; `devices_now` asks blkid. A spec is what fstab(5), crypttab(5) or `root=` use: a path or `UUID=…`.
Imports `core`, `hardware.boot.values` and `hardware.multipath`.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from core.layout import Disk, Layout, partition_node
from core.run import Runner
from hardware.boot.values import BootRequest
from hardware.multipath import map_over, whole_of

_BY = re.compile(r"/dev/disk/by-(uuid|label|partuuid|partlabel)/(.+)")
_PART = re.compile(r"/dev/disk/by-(?:id|path|diskseq)/(.+?)(?:-part(\d+))?")
_TAGS = {"UUID": "uuid", "LABEL": "label", "PARTUUID": "partuuid", "PARTLABEL": "partlabel"}


@dataclass(frozen=True)
class Now:
    """A block device that is here now, as blkid sees it."""

    path: str
    uuid: str = ""
    label: str = ""
    partuuid: str = ""
    partlabel: str = ""
    type: str = ""


def devices_now(runner: Runner) -> tuple[Now, ...]:
    """Every block device with a filesystem, container or partition; what lies on a path is its map's. Raises
    ToolError."""
    text = runner.run(["blkid", "-c", "/dev/null", "-o", "export"], purpose="see what is on the disks", ok=(0, 2)).text
    found = []
    for block in text.split("\n\n"):
        facts = dict(line.partition("=")[::2] for line in block.splitlines() if "=" in line)
        if (path := facts.get("DEVNAME")) and not _is_a_path(path):
            keys = ("UUID", "LABEL", "PARTUUID", "PARTLABEL", "TYPE")
            found.append(Now(path, *(re.sub(r"\\(.)", r"\1", facts.get(key, "")) for key in keys)))
    return tuple(found)


def _is_a_path(path: str) -> bool:
    """Whether a device is a path of a multipath map, or a partition that the kernel found on one."""
    try:
        status = os.stat(path)
    except OSError:
        return False
    numbers = os.major(status.st_rdev), os.minor(status.st_rdev)
    return stat.S_ISBLK(status.st_mode) and map_over(whole_of(numbers)) is not None


class Names:
    """The old names of everything in the image's layout, and where it is now."""

    def __init__(self, request: BootRequest, now: Sequence[Now]) -> None:
        self.now = tuple(now)
        self._now = {each.path: each for each in now}
        stacked = {crypt.name: f"/dev/mapper/{crypt.name}" for crypt in request.crypts}
        stacked |= {array.name: f"/dev/{array.name}" for array in request.arrays}
        # what was restored is known better than by the name it should have
        self._nodes = {node: path for node, path in stacked.items() if path in self._now}
        self._nodes |= {each.node: each.path for each in request.filesystems}
        self._old: dict[str, str] = {}
        for node, uuid, names in _old_names(request.layout):
            where = self._nodes.get(node) or next((each.path for each in now if uuid and each.uuid == uuid), "")
            for name in names:
                self._old.setdefault(name, where)
        # multipath-tools give a map's name to its WWID: on another disk it may be another
        self._fleeting = {name for disk in request.layout.disks for name in _map_names(disk)}
        self._serials = {disk.serial: disk.name for disk in request.layout.disks if disk.serial}
        self._only = request.layout.disks[0].name if len(request.layout.disks) == 1 else ""
        self._raw = {
            node: where for node, _uuid, names in _old_names(request.layout) for where in [self._old[names[0]]]
        }

    def describe(self, path: str) -> Now:
        """What blkid says of a device; only its path when it says nothing."""
        return self._now.get(path) or Now(path)

    def current(self, spec: str) -> str | None:
        """The device that a spec of the old server means now; None when that is not here."""
        spec = _unquoted(spec)
        if (by := _BY.fullmatch(spec)) is not None:
            spec = f"{by[1].upper()}={by[2]}"
        if (old := self._old.get(_folded(spec))) is not None:
            return old or None
        tag, _equals, value = spec.partition("=")
        if tag in _TAGS:
            same = [each.path for each in self._now.values() if _same(getattr(each, _TAGS[tag]), value)]
            return same[0] if same else None
        if (part := _PART.fullmatch(spec)) is not None:
            return self._by_id(part[1], part[2])
        # a path that the old layout does not know may be some other device here by chance: only stacked ones keep names
        return spec if spec.startswith("/dev/mapper/") and spec in self._now else None

    def _by_id(self, text: str, number: str | None) -> str | None:
        disk = next((name for serial, name in self._serials.items() if serial.replace(" ", "_") in text), self._only)
        return self._raw.get(partition_node(disk, int(number)) if number else disk) or None

    def correct(self, spec: str) -> str | None:
        """The spec as it must be now: the same while it still means the right device, else by UUID; None when what it
        means is not here."""
        path = self.current(spec)
        if path is None:
            return None
        plain = _unquoted(spec)
        facts = self.describe(path)
        tag, _equals, value = plain.partition("=")
        if tag in _TAGS:
            if _same(getattr(facts, _TAGS[tag]), value):
                return spec
        elif (by := _BY.fullmatch(plain)) is not None:
            if _same(getattr(facts, by[1]), by[2]):
                return spec
        elif _stable(plain) and plain not in self._fleeting and self._old.get(plain) == path:
            return spec
        return f"UUID={facts.uuid}" if facts.uuid else path


def is_device(spec: str) -> bool:
    """Whether a spec means a block device at all, and not a network share, `tmpfs`, or a file."""
    spec = _unquoted(spec)
    return spec.partition("=")[0] in _TAGS or (
        spec.startswith("/dev/") and not re.match(r"/dev/(sr|cdrom|fd|dvd|shm|zvol|loop|zram|ram|nbd|rbd|drbd)", spec)
    )


def _stable(path: str) -> bool:
    """LVM and device-mapper names are made from what is on the disks."""
    return path.startswith("/dev/mapper/") or bool(re.fullmatch(r"/dev/(?!disk/|md/)[^/]+/[^/]+", path))


def _unquoted(spec: str) -> str:
    tag, equals, value = spec.strip('"').partition("=")
    return f"{tag}{equals}" + value.strip('"')


def _folded(spec: str) -> str:
    tag, _equals, value = spec.partition("=")
    return f"{tag}={value.lower()}" if tag in ("UUID", "PARTUUID") else spec


def _same(have: str, want: str) -> bool:
    return bool(have) and have.lower() == want.lower()


def kernel_name(disk: str, number: int) -> str:
    """`sda`, 1 → `sda1`; `nvme0n1`, 1 → `nvme0n1p1` (block/partitions/core.c)."""
    return f"{disk}p{number}" if disk[-1:].isdigit() else f"{disk}{number}"


def _map_names(disk: Disk, number: int = -1) -> list[str]:
    """What a multipath map's partition `number` was called (0: the map itself, -1: all of them): Debian's kpartx says
    `mpatha-part1`, others `mpatha1`."""
    if not disk.multipath:
        return []
    numbers = [0, *(part.number for part in disk.table.partitions)] if disk.table else [0]
    if number < 0:
        return [name for each in numbers for name in _map_names(disk, each)]
    whole = f"/dev/mapper/{disk.name}"
    return [f"{whole}-part{number}", f"/dev/mapper/{kernel_name(disk.name, number)}"] if number else [whole]


def _old_names(layout: Layout) -> Iterator[tuple[str, str, list[str]]]:
    """(node, UUID of what it held, every spec it was known by), the node's own path first."""
    for disk in layout.disks:
        names = _map_names(disk, 0) or [f"/dev/{disk.name}"]
        yield disk.name, disk.content.uuid, [*names, *_tags(disk.content.uuid, disk.content.label)]
        for part in disk.table.partitions if disk.table else ():
            names = _map_names(disk, part.number) or [f"/dev/{kernel_name(disk.name, part.number)}"]
            specs = [*names, *_tags(part.content.uuid, part.content.label)]
            specs += [f"PARTUUID={part.uuid.lower()}"] if part.uuid else []
            specs += [f"PARTLABEL={part.name}"] if part.name else []
            yield partition_node(disk.name, part.number), part.content.uuid, specs
    for array in layout.arrays:
        names = [f"/dev/{array.name}", f"/dev/md/{array.label.rpartition(':')[2] or array.name.removeprefix('md')}"]
        yield array.name, array.content.uuid, [*names, *_tags(array.content.uuid, array.content.label)]
    for crypt in layout.crypts:
        specs = [f"/dev/mapper/{crypt.name}", *_tags(crypt.content.uuid, crypt.content.label)]
        yield crypt.name, crypt.content.uuid, specs
    for group in layout.groups:
        for volume in group.volumes:
            specs = [f"/dev/mapper/{volume.node}", f"/dev/{group.name}/{volume.name}"]
            yield volume.node, volume.content.uuid, [*specs, *_tags(volume.content.uuid, volume.content.label)]


def _tags(uuid: str, label: str) -> list[str]:
    return [*([f"UUID={uuid.lower()}"] if uuid else []), *([f"LABEL={label}"] if label else [])]


def kernel_basename(path: str) -> str:
    """`/dev/mapper/vg0-root` → `dm-0`: the name under /sys/class/block."""
    return os.path.basename(os.path.realpath(path))
