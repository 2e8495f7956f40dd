"""A server's disk for the demo: GPT, BIOS-boot, ESP, /boot, root (ext4), data (xfs), swap; its day; its fingerprint."""

from __future__ import annotations

import hashlib
import json
import os
import random
import stat
from pathlib import Path

from tests.bench.workload import MIB, PAGE_BYTES, copy_usr, database_page
from tests.demo.stage import mounted, partition, partitioned, tool

SIZE_BYTES = 6144 * MIB
BIGGER_BYTES = 8192 * MIB
#: Less than the partitions add up to: unallocated space, swap and the root filesystem have to give way.
SMALLER_BYTES = 4608 * MIB

_TABLE = """\
label: gpt
label-id: 6A1F0E2C-52B7-4C2B-9D1E-0123456789AB
start=1MiB, size=1MiB, type=21686148-6449-6E6F-744E-656564454649, name="bios boot"
size=100MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name="ESP"
size=256MiB, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name="boot", attrs="LegacyBIOSBootable"
size=3072MiB, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name="root"
size=1280MiB, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name="data"
size=512MiB, type=0657FD6D-A4AB-43C4-84E5-0933C84B4F4F, name="swap"
"""
BIOS, ESP, BOOT, ROOT, DATA, SWAP = range(1, 7)
_FILES = {BOOT: "boot", ROOT: "root", DATA: "data"}


def make(image: Path, place: Path, rng: random.Random) -> int:
    """Build the disk in a file; gives the bytes of real files on it."""
    with image.open("wb") as file:
        file.truncate(SIZE_BYTES)
        file.write(rng.randbytes(440))
    tool("sfdisk", "--quiet", image, stdin=_TABLE)
    with partitioned(image) as disk:
        partition(disk, BIOS).write_bytes(rng.randbytes(MIB))
        tool("mkfs.vfat", "-n", "ESP", partition(disk, ESP))
        tool("mkfs.ext4", "-q", "-L", "boot", partition(disk, BOOT))
        tool("mkfs.ext4", "-q", "-L", "root", partition(disk, ROOT))
        tool("mkfs.xfs", "-q", "-L", "data", partition(disk, DATA))
        tool("mkswap", "-L", "swap", partition(disk, SWAP))
        loader = place / "BOOTX64.EFI"
        loader.write_bytes(rng.randbytes(2 * MIB))
        tool("mmd", "-i", partition(disk, ESP), "::EFI", "::EFI/BOOT")
        tool("mcopy", "-i", partition(disk, ESP), loader, "::EFI/BOOT/BOOTX64.EFI")
        with mounted(partition(disk, BOOT), place / "mnt") as root:
            (root / "vmlinuz").write_bytes(rng.randbytes(8 * MIB))
            (root / "initrd.img").write_bytes(rng.randbytes(40 * MIB))
        with mounted(partition(disk, ROOT), place / "mnt") as root:
            copied = copy_usr(root / "usr", lambda done: 1100 * MIB - done)
            (root / "log").write_bytes(b"first day\n" * 100_000)
        with mounted(partition(disk, DATA), place / "mnt") as root:
            copied += copy_usr(root / "srv", lambda done: 600 * MIB - done)
            with (root / "database").open("wb") as file:
                for number in range(128 * MIB // PAGE_BYTES):
                    file.write(database_page(number, rng))
        tool("sync")
    return copied


def live_a_day(image: Path, place: Path, rng: random.Random) -> None:
    """What a day does: pages of the database rewritten, a log appended, files new, gone and renamed."""
    with partitioned(image) as disk:
        with mounted(partition(disk, ROOT), place / "mnt") as root:
            with (root / "log").open("ab") as file:
                file.write(b"second day\n" * 100_000)
            (root / "new").write_bytes(rng.randbytes(8 * MIB))
            folder = next(path for path in sorted((root / "usr/0").iterdir()) if path.is_dir())
            folder.rename(root / "moved")
        with mounted(partition(disk, DATA), place / "mnt") as root:
            with (root / "database").open("r+b") as file:
                for _ in range(200):
                    number = rng.randrange(128 * MIB // PAGE_BYTES)
                    file.seek(number * PAGE_BYTES)
                    file.write(database_page(number, rng))
            for path in [path for path in sorted((root / "srv").rglob("*")) if path.is_file()][:200]:
                path.unlink()
        tool("sync")


def fingerprint(disk: Path, place: Path) -> dict[str, object]:
    """All that must come back: boot code, BIOS-boot partition, table, ESP's files, every file with its attributes."""
    with disk.open("rb") as file:
        found: dict[str, object] = {"boot code": hashlib.sha256(file.read(440)).hexdigest()}
    found["bios boot"] = hashlib.sha256(partition(disk, BIOS).read_bytes()).hexdigest()
    found["table"] = _table(disk)
    esp = place / "esp"
    esp.mkdir()
    tool("mcopy", "-s", "-m", "-i", partition(disk, ESP), "::", esp)
    found["ESP"] = {name: each["sha256"] for name, each in files(esp).items() if "sha256" in each}
    tool("rm", "-r", esp)
    for number, name in _FILES.items():
        with mounted(partition(disk, number), place / "mnt", "ro") as root:
            found[name] = files(root)
    found["swap"] = tool(
        "blkid", "-p", "-s", "UUID", "-s", "LABEL", "-o", "export", partition(disk, SWAP)
    ).splitlines()[1:]
    return found


def _table(disk: Path) -> object:
    """What must be the same on any disk: ids, types, names, attributes, numbers; not places and sizes."""
    table = json.loads(tool("sfdisk", "--json", disk))["partitiontable"]
    parts = [{key: each.get(key) for key in ("type", "uuid", "name", "attrs")} for each in table["partitions"]]
    return {"id": table["id"], "partitions": parts}


def files(root: Path) -> dict[str, dict[str, object]]:
    """Everything below a folder: kind, mode, owner, times, extended attributes, content."""
    found: dict[str, dict[str, object]] = {}
    for folder, names, leaves in os.walk(root):
        for name in (*names, *leaves):
            path = Path(folder, name)
            state = path.lstat()
            row: dict[str, object] = {
                "mode": state.st_mode,
                "owner": (state.st_uid, state.st_gid),
                "mtime": state.st_mtime_ns,
            }
            if stat.S_ISREG(state.st_mode):
                with path.open("rb") as file:
                    row["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
                row["xattrs"] = {key: os.getxattr(path, key).hex() for key in os.listxattr(path)}
            elif stat.S_ISLNK(state.st_mode):
                row["target"] = os.readlink(path)
            found[str(path.relative_to(root))] = row
    return found


def check_filesystems(disk: Path) -> None:
    """`fsck -n` of every filesystem; CalledProcessError when one is not clean."""
    tool("fsck.vfat", "-n", partition(disk, ESP))
    tool("e2fsck", "-fn", partition(disk, BOOT))
    tool("e2fsck", "-fn", partition(disk, ROOT))
    tool("xfs_repair", "-n", partition(disk, DATA))
