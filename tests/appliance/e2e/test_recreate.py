"""`refloat restore --recreate`: filesystems made anew where they cannot be put back as they are, with awkward files."""

from __future__ import annotations

import os
import random
import socket
import stat
import struct
from contextlib import ExitStack, nullcontext
from pathlib import Path

import pytest

from tests.appliance.e2e import disks
from tests.appliance.e2e.disks import Disk, Part
from tests.appliance.e2e.server import MIB, Server, blank, loop, mounted, tool, wait_until

pytestmark = pytest.mark.block
PARTS = (
    Part(1, 1 * MIB, 64 * MIB, "ext4"),
    Part(2, 65 * MIB, 96 * MIB, "ext4-1k"),
    Part(3, 161 * MIB, 512 * MIB, "xfs"),
    Part(4, 673 * MIB, 512 * MIB, "btrfs"),
)
SIZE = 1200 * MIB
#: Neither the xfs nor the btrfs fits as it is, and both do when they are made anew.
SMALLER = 800 * MIB


def _make(path: Path) -> Disk:
    rows = [f"{each.number} : start={each.start // 512}, size={each.size // 512}" for each in PARTS]
    tool("sfdisk", "--quiet", "--no-reread", blank(path, SIZE), stdin="label: gpt\n\n" + "\n".join(rows))
    disk = disks.make(Disk(path, PARTS), 5)
    with disk.node(disk.part(4)) as node:  # the stock one has data and metadata in the same chunks
        tool("mkfs.btrfs", "-q", "-f", "-L", "with blanks", "-R", "^free-space-tree", node)
    with disk.node(disk.part(3)) as node:  # as a server made it whose kernel knew less
        tool("mkfs.xfs", "-q", "-f", "-L", "data", "-m", "reflink=0,bigtime=0,inobtcount=0", node)
    for part in PARTS[1:]:
        with disk.mounted(part) as root:
            _awkward(root, random.Random(part.number))
    return disk


def _awkward(root: Path, rng: random.Random) -> None:
    """Whatever a copy may lose."""
    here = os.fsencode(root)
    for name in (b"line\nbreak", b"\xff\xfe not text", b"n" * 255, b"-rf", b" "):
        Path(os.fsdecode(os.path.join(here, name))).write_bytes(rng.randbytes(5000))
    deep = root / "/".join(["deep"] * 40).lstrip("/")
    deep.mkdir(parents=True)
    (deep / "twin").write_bytes(rng.randbytes(100_001))
    os.link(deep / "twin", root / "twin")
    os.mkfifo(root / "fifo", 0o620)
    os.mknod(root / "char", stat.S_IFCHR | 0o660, os.makedev(1, 3))
    os.mknod(root / "block", stat.S_IFBLK | 0o600, os.makedev(259, 70000))
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(root / "socket"))
    (root / "dangling").symlink_to("/nowhere/\udcff")
    os.lchown(root / "dangling", 12, 34)
    os.utime(root / "dangling", ns=(5, 1_234_567_890_123_456_789), follow_symlinks=False)
    with (root / "sparse").open("wb") as file:
        for at in (0, 8 * MIB, 300 * MIB):
            file.seek(at)
            file.write(rng.randbytes(4096))
        file.truncate(1024 * MIB)
    program = root / "program"
    program.write_bytes(b"#!/bin/true\n")
    os.chown(program, 0, 1234)
    program.chmod(0o6755)
    # struct vfs_cap_data, revision 2: CAP_NET_BIND_SERVICE, effective
    os.setxattr(program, "security.capability", struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0))
    shared = root / "shared"
    shared.mkdir()
    shared.chmod(0o3770)
    # struct posix_acl_xattr_header and entries: owner, user 1001, group, mask, others
    rows = [(1, 7, 2**32 - 1), (2, 5, 1001), (4, 5, 2**32 - 1), (16, 7, 2**32 - 1), (32, 0, 2**32 - 1)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *row) for row in rows)
    for key in ("system.posix_acl_access", "system.posix_acl_default"):
        os.setxattr(shared, key, acl)
    os.setxattr(shared, "trusted.refloat", rng.randbytes(100))
    os.setxattr(shared, "user.Beagle.skipped", b"cp leaves this out")
    os.setxattr(root / "dangling", "security.selinux", b"system_u:object_r:etc_t:s0\0", follow_symlinks=False)
    (root / "fixed").write_bytes(b"never changes")
    (root / "log").write_bytes(b"only grows")
    os.utime(root / "log", ns=(-(10**18), -(10**18)))
    tool("chattr", "+i", root / "fixed")
    tool("chattr", "+a", root / "log")
    root.chmod(0o1751)
    os.utime(root, ns=(10**18, 10**18 + 1))


def _seen(root: Path) -> dict[str, object]:
    """What `disks.files` does not tell: devices, twins, folders' attributes, flags, holes, and the root itself."""
    top = root.stat()
    found: dict[str, object] = {"": (top.st_mode, top.st_uid, top.st_mtime_ns, _xattrs(root))}
    first: dict[int, str] = {}
    for path in sorted(root.rglob("*")):
        state, name = path.lstat(), str(path.relative_to(root))
        flags = "".join(sorted(set(tool("lsattr", "-d", path).split()[0]) & set("iad"))) if _plain(path) else ""
        attributes = _xattrs(path)
        twin = first.setdefault(state.st_ino, name)
        found[name] = (state.st_rdev, twin, attributes, flags, state.st_blocks * 512 <= state.st_size + 65536)
    return found


def _plain(path: Path) -> bool:
    return path.name in ("fixed", "log", "shared", "program", "twin")


def _xattrs(path: Path) -> dict[str, bytes]:
    return {
        key: os.getxattr(path, key, follow_symlinks=False) for key in sorted(os.listxattr(path, follow_symlinks=False))
    }


def _all(disk: Disk, part: Part) -> tuple[object, ...]:
    with disk.mounted(part, read_only=True) as root:
        return disks.files(root), _seen(root)


def _names(disk: Disk, part: Part) -> list[str]:
    with disk.node(part, read_only=True) as node:
        words = tool("blkid", "-p", "-s", "UUID", "-s", "LABEL", "-s", "TYPE", "-o", "export", node)
    return sorted(line for line in words.splitlines() if not line.startswith("DEVNAME"))


class Made:
    def __init__(self, place: Path) -> None:
        self.disk = _make(place / "vda.img")
        self.server = Server.new(place / "server", {"vda": self.disk.path})
        self.server.taken()
        self.names = {part.number: _names(self.disk, part) for part in PARTS}
        self.files = {part.number: _all(self.disk, part) for part in PARTS}

    def prove(self, path: Path, sector: int = 512) -> Disk:
        """Every file, and the names of every filesystem, are there, and each is sound."""
        now = disks.placed(self.disk, path, sector)
        assert [part.number for part in now.parts] == [part.number for part in PARTS]
        for part in now.parts:
            disks.check(now, part)
            assert _names(now, part) == self.names[part.number]
            assert _all(now, part) == self.files[part.number], part
        return now


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("recreate"))


def _how(report: dict[str, object]) -> list[str]:
    steps = report["steps"]
    assert isinstance(steps, list)
    return [step for step in steps if "anew" in step]


def test_a_smaller_disk_is_refused_and_the_hint_says_what_helps(made: Made, tmp_path: Path) -> None:
    target = blank(tmp_path / "t.img", SMALLER)
    words, confirmed = made.server.onto(target)
    error = made.server.fails(50, "restore", "latest", *made.server.unlock, *words, *confirmed)
    assert "--recreate vda-part3 --recreate vda-part4" in error["hint"]
    assert os.stat(target).st_blocks == 0


def test_onto_a_smaller_disk_twice(made: Made, tmp_path: Path) -> None:
    """xfs and btrfs are made anew, with their features; ext4, which can shrink, is not. Once more does it again."""
    target = blank(tmp_path / "t.img", SMALLER)
    for there in (False, True):
        with made.disk.node(PARTS[3], read_only=True) if there else nullcontext():  # the old UUID, on a device
            report = made.server.restore("--recreate", "all", to=target)
        assert len(_how(report)) == 2
        now = made.prove(target)
        assert now.part(3).size < 512 * MIB and now.part(4).size < 512 * MIB
    with now.node(now.part(3), read_only=True) as node:
        flags = tool("xfs_db", "-r", "-c", "version", node)
        assert "FTYPE" in flags and not any(each in flags for each in ("BIGTIME", "REFLINK", "INOBTCNT"))
    with now.node(now.part(4), read_only=True) as node:
        superblock = tool("btrfs", "inspect-internal", "dump-super", node)
        assert "NO_HOLES" in superblock and "FREE_SPACE_TREE" not in superblock and "METADATA_UUID" not in superblock


def test_onto_larger_sectors(made: Made, tmp_path: Path) -> None:
    """What can live there is written as it is, the rest made anew; what nobody named is refused before any write."""
    path = blank(tmp_path / "t.img", SIZE + 8 * MIB)
    with loop(path, sector_bytes=4096) as node:
        words, confirmed = made.server.onto(node)
        argv = ("restore", "latest", *made.server.unlock, *words, *confirmed)
        error = made.server.fails(50, *argv)
        assert "4096" in error["message"] and "--recreate all" in error["hint"]
        error = made.server.fails(50, *argv, "--recreate", "vda-part3")
        assert "vda-part2" in error["message"] and "--recreate vda-part2" in error["hint"]
        assert os.stat(path).st_blocks == 0
        report = made.server.ok(*argv, "--recreate", "vda-part3", "--recreate", "vda-part2")
        assert [any(name in step for name in ("vda-part2", "vda-part3")) for step in _how(report)] == [True, True]
    now = made.prove(path, 4096)
    with ExitStack() as stack:  # and the kernel takes them there, by the table
        node = stack.enter_context(loop(path, sector_bytes=4096))
        for part in now.parts:
            with loop(path, part.start, part.size, sector_bytes=4096, read_only=True) as each:
                with mounted(each, tmp_path / "m", "ro", *(["nouuid"] if part.kind == "xfs" else []), kind=part.kind):
                    pass


def _copying() -> bool:
    """Whether the program is filling a filesystem now."""
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b'"do":"fill"' in line.read_bytes():
                return True
        except OSError:
            continue  # it ended meanwhile
    return False


def test_a_killed_one_leaves_no_device_and_is_made_once_more(made: Made, tmp_path: Path) -> None:
    """A dead mount may stay: libfuse takes it away when nothing holds it, and the loop device goes a moment later."""
    target = blank(tmp_path / "t.img", SMALLER)
    words, confirmed = made.server.onto(target)
    argv = ("restore", "latest", *made.server.unlock, *words, *confirmed, "--recreate", "all")
    with made.server.started(*argv, TMPDIR=str(tmp_path)) as child:
        child.when(_copying)
        child.process.kill()
        assert child.process.wait() == -9
    wait_until(lambda: not _copying())
    wait_until(lambda: str(target) not in tool("losetup", "--list", "--noheadings", "--output", "BACK-FILE"))
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if line.split()[4].startswith(f"{tmp_path}/"):
            tool("umount", "--lazy", line.split()[4])
    made.server.restore("--recreate", "all", to=target)
    made.prove(target)


def test_one_volume_into_a_smaller_partition(made: Made, tmp_path: Path) -> None:
    target = blank(tmp_path / "t.img", SMALLER)
    made.server.restore("--recreate", "all", to=target)
    before = target.read_bytes()
    report = made.server.restore("--only", "vda-part3", "--recreate", "vda-part3", to=target)
    assert [each["volume"] for each in report["volumes"]] == ["vda-part3"]
    now = made.prove(target)
    after, part = target.read_bytes(), now.part(3)
    assert after[: part.start] == before[: part.start]
    assert after[part.start + part.size :] == before[part.start + part.size :]


def test_what_cannot_be_copied_is_refused_before_the_first_write(tmp_path: Path) -> None:
    """Subvolumes; and files that need more room than the map of used blocks told (compressed, shared)."""
    disk = Disk(blank(tmp_path / "vda.img", 512 * MIB), (Part(0, 0, 512 * MIB, "btrfs"),))
    with disk.node(disk.parts[0]) as node:
        tool("mkfs.btrfs", "-q", "-f", node)
    server = Server.new(tmp_path / "server", {"vda": disk.path})
    with disk.mounted(disk.parts[0]) as root:
        with (root / "full").open("wb") as file:
            tool("btrfs", "property", "set", root / "full", "compression", "zstd")
            for _ in range(300):
                file.write(bytes(MIB - 1) + b"x")
    server.taken()
    target = blank(tmp_path / "t.img", 320 * MIB)
    words, confirmed = server.onto(target)
    argv = ("restore", "latest", *server.unlock, *words, *confirmed, "--recreate", "all")
    error = server.fails(50, *argv)
    assert "files need" in error["message"] and os.stat(target).st_blocks == 0
    with disk.mounted(disk.parts[0]) as root:
        (root / "full").unlink()
        tool("btrfs", "subvolume", "create", root / "home")
    server.taken()
    error = server.fails(50, *argv)
    assert "home is a subvolume" in error["message"] and os.stat(target).st_blocks == 0
