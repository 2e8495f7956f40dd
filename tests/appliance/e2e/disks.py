"""Disks of every kind for the end-to-end proofs: made with stock tools, filled, lived in for a day, fingerprinted."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.appliance.e2e.server import MIB, loop, mounted, tool

MOUNTABLE = ("ext2", "ext3", "ext4", "xfs", "btrfs", "ntfs")
PARTCLONE = {"ext2": "extfs", "ext3": "extfs", "ext4": "extfs", "vfat": "fat"}
MKFS: dict[str, tuple[str, ...]] = {
    "ext2": ("mkfs.ext2", "-q", "-b", "1024"),
    "ext3": ("mkfs.ext3", "-q"),
    "ext4": ("mkfs.ext4", "-q", "-b", "4096"),
    "ext4-1k": ("mkfs.ext4", "-q", "-b", "1024"),
    "xfs": ("mkfs.xfs", "-q"),
    "btrfs": ("mkfs.btrfs", "-q", "--mixed"),
    "vfat": ("mkfs.vfat",),
    "ntfs": ("mkfs.ntfs", "--fast", "--quiet", "--force"),
    "swap": ("mkswap",),
}


@dataclass(frozen=True)
class Part:
    """A range of a disk and what is in it: a key of MKFS, `random` or nothing. Sizes in bytes."""

    number: int
    start: int
    size: int
    make: str

    @property
    def kind(self) -> str:
        """The filesystem as blkid names it."""
        return self.make.split("-")[0]


@dataclass
class Disk:
    """A disk-image file with its parts; one part numbered 0 is a bare filesystem."""

    path: Path
    parts: tuple[Part, ...]
    sector_bytes: int = 512

    @contextmanager
    def node(self, part: Part, *, read_only: bool = False) -> Iterator[Path]:
        """A device that shows one part alone."""
        with loop(self.path, part.start, part.size, sector_bytes=self.sector_bytes, read_only=read_only) as node:
            yield node

    @contextmanager
    def mounted(self, part: Part, *, read_only: bool = False) -> Iterator[Path]:
        """A part, mounted beside the disk's file."""
        options = (["ro"] if read_only else []) + (["nouuid"] if part.kind == "xfs" else [])
        with (
            self.node(part, read_only=read_only) as node,
            mounted(node, self.path.with_suffix(".mnt"), *options, kind=part.kind) as root,
        ):
            yield root

    def part(self, number: int) -> Part:
        """The part of that number."""
        return next(each for each in self.parts if each.number == number)

    def read(self, part: Part, offset: int, size: int) -> bytes:
        """Bytes of a part."""
        with self.path.open("rb") as file:
            return os.pread(file.fileno(), size, part.start + offset)


def make(disk: Disk, seed: int) -> Disk:
    """Filesystems into every part, and files into them."""
    rng = random.Random(seed)
    for part in disk.parts:
        if part.make == "random":
            with disk.path.open("r+b") as file:
                file.seek(part.start)
                file.write(rng.randbytes(part.size))
        elif part.make:
            with disk.node(part) as node:
                tool(*MKFS[part.make], node)
                if part.kind == "vfat":
                    _fill_vfat(disk, node, rng, "FIRST")
        if part.kind in MOUNTABLE:
            with disk.mounted(part) as root:
                _fill(root, rng, plain=part.kind == "ntfs")
    return disk


def live_a_day(disk: Disk, seed: int) -> None:
    """Files rewritten in places, new, gone, moved."""
    rng = random.Random(seed)
    for part in disk.parts:
        if part.kind == "vfat":
            with disk.node(part) as node:
                _fill_vfat(disk, node, rng, "SECOND")
        elif part.kind in MOUNTABLE:
            with disk.mounted(part) as root:
                _live(root, rng)
        elif part.make == "random":
            with disk.path.open("r+b") as file:
                file.seek(part.start + part.size // 2)
                file.write(rng.randbytes(100_000))


def _fill(root: Path, rng: random.Random, *, plain: bool) -> None:
    for number in range(3):
        folder = root / f"folder {number}" / "é"
        folder.mkdir(parents=True)
        for size in (0, 1, 4095, 70_000, 300_000):
            path = folder / f"file-{size}"
            path.write_bytes(rng.randbytes(size))
            if not plain:
                os.chown(path, 1000 + number, 33)
                path.chmod(0o4640)
                os.setxattr(path, "user.refloat", rng.randbytes(40))
            os.utime(path, ns=(10**18, 10**18 + 123_456_700))
    (root / "database").write_bytes(rng.randbytes(2 * MIB))
    (root / "gone").write_bytes(rng.randbytes(MIB))
    with (root / "sparse").open("wb") as file:
        file.seek(3 * MIB)
        file.write(b"end")
    if not plain:
        (root / "link").symlink_to("folder 0/é/file-1")
        os.link(root / "database", root / "hard")
        os.mkfifo(root / "pipe", 0o600)


def _live(root: Path, rng: random.Random) -> None:
    with (root / "database").open("r+b") as file:
        for _ in range(5):
            file.seek(rng.randrange(500) * 4096)
            file.write(rng.randbytes(4096))
    (root / "gone").unlink()
    (root / "folder 1").rename(root / "moved")
    (root / "new").write_bytes(rng.randbytes(400_000))


def _fill_vfat(disk: Disk, node: Path, rng: random.Random, name: str) -> None:
    path = disk.path.with_suffix(".esp")
    path.write_bytes(rng.randbytes(MIB))
    tool("mcopy", "-i", node, path, f"::{name}.EFI")
    if name == "SECOND":
        tool("mdel", "-i", node, "::FIRST.EFI")


def files(root: Path) -> dict[str, dict[str, object]]:
    """Everything below a folder: kind, mode, owner, times, extended attributes, links, content."""
    found: dict[str, dict[str, object]] = {}
    for folder, names, leaves in os.walk(root):
        for name in (*names, *leaves):
            path = Path(folder, name)
            state = path.lstat()
            row: dict[str, object] = {
                "mode": state.st_mode, "owner": (state.st_uid, state.st_gid), "mtime": state.st_mtime_ns,
                "links": state.st_nlink,
            }  # fmt: skip
            if stat.S_ISREG(state.st_mode):
                row["content"] = digest(path)
                row["xattrs"] = {key: os.getxattr(path, key) for key in os.listxattr(path)}
            elif stat.S_ISLNK(state.st_mode):
                row["target"] = os.readlink(path)
            found[str(path.relative_to(root))] = row
    return found


def fingerprint(disk: Disk, part: Part) -> dict[str, object]:
    """What a part holds, as those see it who use it."""
    if part.kind in MOUNTABLE:
        with disk.mounted(part, read_only=True) as root:
            return dict(files(root))
    if part.kind == "vfat":
        folder = disk.path.with_suffix(".files")
        folder.mkdir()
        with disk.node(part, read_only=True) as node:
            tool("mcopy", "-s", "-m", "-i", node, "::", folder)
        found = {name: (row["content"], row["mtime"]) for name, row in files(folder).items()}
        shutil.rmtree(folder)
        return dict(found)
    if part.kind == "swap":
        with disk.node(part, read_only=True) as node:
            words = tool("blkid", "-p", "-s", "UUID", "-s", "LABEL", "-s", "TYPE", "-o", "export", node)
        return {"swap": [line for line in words.splitlines() if not line.startswith("DEVNAME")]}
    return {"bytes": hashlib.sha256(disk.read(part, 0, part.size)).hexdigest()}


def check(disk: Disk, part: Part) -> None:
    """`fsck -n`; AssertionError with its words when the filesystem is not clean."""
    argv: dict[str, tuple[str, ...]] = {
        "vfat": ("fsck.vfat", "-n"), "xfs": ("xfs_repair", "-n"), "btrfs": ("btrfs", "check", "--readonly"),
        "ntfs": ("ntfsfix", "--no-action"), **dict.fromkeys(("ext2", "ext3", "ext4"), ("e2fsck", "-fn")),
    }  # fmt: skip
    if part.kind in argv:
        with disk.node(part, read_only=True) as node:
            tool(*argv[part.kind], node)


def digest(path: Path) -> str:
    """SHA-256 of a whole disk or file, which need not fit into memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def used_extents(disk: Disk, part: Part) -> list[tuple[int, int]]:
    """(offset, size) of what partclone says the filesystem uses."""
    with disk.node(part, read_only=True) as node:
        program = f"partclone.{PARTCLONE.get(part.kind, part.kind)}"
        text = tool(program, "-D", "-s", node, "-O", "/dev/stdout", "-L", "/dev/null", "-q")
    rows = re.findall(r"^0x([0-9A-Fa-f]+)\s+0x([0-9A-Fa-f]+)\s+\+", text, re.MULTILINE)
    assert rows, text
    return [(int(start, 16), int(size, 16)) for start, size in rows]


def same_bytes(one: Disk, other: Disk, part: Part, into: Part, extents: list[tuple[int, int]]) -> None:
    """AssertionError unless these extents of a part are the same on both disks."""
    for offset, size in extents:
        for at in range(offset, min(offset + size, part.size), MIB):
            length = min(MIB, offset + size - at)
            assert one.read(part, at, length) == other.read(into, at, length), f"part {part.number}, byte {at}"


def table(disk: Disk) -> dict[str, Any]:
    """The partition table as sfdisk reads it, without the disk's name; places in bytes."""
    with loop(disk.path, sector_bytes=disk.sector_bytes, read_only=True) as node:
        found = json.loads(tool("sfdisk", "--json", node))["partitiontable"]
        rows = {}
        for each in found["partitions"]:
            number = int(each.pop("node").removeprefix(str(node)).lstrip("p"))
            each["start"], each["size"] = each["start"] * disk.sector_bytes, each["size"] * disk.sector_bytes
            rows[number] = each
        return {"label": found["label"], "id": found["id"], "parts": rows}


def placed(disk: Disk, path: Path, sector_bytes: int | None = None) -> Disk:
    """The same parts as they stand on another disk, by its own table."""
    other = Disk(path, disk.parts, sector_bytes or disk.sector_bytes)
    if disk.parts[0].number == 0:
        return other
    rows = table(other)["parts"]
    other.parts = tuple(
        Part(each.number, rows[each.number]["start"], rows[each.number]["size"], each.make)
        for each in disk.parts
        if each.number in rows
    )
    return other
