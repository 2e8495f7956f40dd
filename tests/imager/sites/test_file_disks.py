"""The file driver on real filesystems (four kinds, sectors of 512 and 4096 bytes, full, read-only) and under strace."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.errors import ObjectExistsError, SiteError, SiteFullError
from imager.sites.base import Buffer
from imager.sites.file import FileSite

pytestmark = pytest.mark.block

MIB = 1 << 20
MKFS = {
    "ext4": (16, ["mkfs.ext4", "-q", "-E", "nodiscard"], ["-t", "ext4"]),
    "xfs": (320, ["mkfs.xfs", "-q", "-f", "-K"], ["-t", "xfs"]),
    "btrfs": (128, ["mkfs.btrfs", "-q", "-f", "-K"], ["-t", "btrfs"]),
    "ntfs": (64, ["mkfs.ntfs", "-q", "-f", "-F"], ["-t", "ntfs-3g"]),  # over FUSE, and without O_TMPFILE
}
Mount = Callable[..., Path]


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60).stdout


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Makes a filesystem of `kind` on a loop device and mounts it; all is taken down at the end, however it comes."""
    with contextlib.ExitStack() as undo:

        def make(kind: str, sector_bytes: int = 512) -> Path:
            mib, mkfs, options = MKFS[kind]
            image = tmp_path / f"{kind}.img"
            with image.open("wb") as file:
                file.truncate(mib * MIB)
            loop = run("losetup", "--find", "--show", "--sector-size", str(sector_bytes), str(image)).strip()
            undo.callback(run, "losetup", "--detach", loop)
            run(*mkfs, loop)
            point = tmp_path / kind
            point.mkdir()
            run("mount", *options, loop, str(point))
            undo.callback(run, "umount", "--lazy", str(point))  # a failed test may still hold it open
            return point

        yield make


@pytest.mark.parametrize(
    ("kind", "sector_bytes"), [("ext4", 512), ("ext4", 4096), ("xfs", 4096), ("btrfs", 4096), ("ntfs", 512)]
)
def test_a_round_trip_on_every_kind(mount: Mount, kind: str, sector_bytes: int) -> None:
    root = mount(kind, sector_bytes)
    site = FileSite("de", root)
    body = memoryview(mmap.mmap(-1, 2 * MIB))
    body[:] = random.Random(1).randbytes(len(body))
    bodies: dict[str, list[Buffer]] = {
        "servers/a/packs/00/aligned": [body],
        "servers/a/packs/00/tail": [body[: MIB + 513]],
        "servers/a/packs/01/mixed": [b"head", body[:-1], b"", b"tail"],
        "servers/a/server.json": [b"{}"],
        "servers/b/empty": [],
    }
    for name, parts in bodies.items():
        site.put(name, parts)
        with pytest.raises(ObjectExistsError):
            site.put(name, [b"other"])
    assert [info.name for info in site.list()] == sorted(bodies)
    with ThreadPoolExecutor(4) as pool:

        def race(number: int) -> bool:
            try:
                site.put("servers/a/same", [bytes([number]) * 200_000])
            except ObjectExistsError:
                return False
            return True

        won = list(pool.map(race, range(4)))
    assert won.count(True) == 1
    site.close()
    run("umount", str(root))
    run(
        "mount",
        "-t",
        MKFS[kind][2][1],
        run("losetup", "--noheadings", "-O", "NAME", "-j", f"{root}.img").strip(),
        str(root),
    )
    again = FileSite("de", root)
    for name, parts in bodies.items():
        assert again.get(name) == b"".join(parts)
    assert again.get("servers/a/same") == bytes([won.index(True)]) * 200_000
    again.delete("servers/a/same")
    assert [info.name for info in again.list()] == sorted(bodies)
    assert not any((root / ".tmp").glob("*"))
    again.close()


@pytest.mark.parametrize("straight", [True, False], ids=["mapped", "bytes"])
def test_a_full_disk_is_said_and_cleaned_up(mount: Mount, straight: bool) -> None:
    """16 MiB of ext4: objects go in until one does not, that one leaves nothing, and smaller ones still do."""
    root = mount("ext4")
    site = FileSite("de", root)
    mapped = mmap.mmap(-1, 3 * MIB)
    pack = memoryview(mapped)
    pack[:] = random.Random(2).randbytes(len(pack))
    body = pack if straight else bytes(pack)
    stored: list[str] = []
    with pytest.raises(SiteFullError) as caught:
        for number in range(10):
            site.put(f"packs/{number}", [body])
            stored.append(f"packs/{number}")
    assert 2 <= len(stored) <= 5
    assert caught.value.fields == {"site": "de", "name": f"packs/{len(stored)}"}
    assert [info.name for info in site.list()] == stored
    free = os.statvfs(root).f_bavail * os.statvfs(root).f_frsize
    site.put("small", [bytes(free // 2)])
    assert all(hashlib.sha256(site.get(name)).digest() == hashlib.sha256(pack).digest() for name in stored)
    site.delete(stored[0])
    site.put("packs/again", [body])
    site.close()
    pack.release()
    mapped.close()  # BufferError if the traceback of the full disk, kept in `caught`, held a view


def test_a_disk_that_turned_read_only(mount: Mount) -> None:
    root = mount("ext4")
    site = FileSite("de", root)
    site.put("a/x", [b"1"])
    run("mount", "-o", "remount,ro", str(root))
    attempts: list[Callable[[], object]] = [
        lambda: site.put("a/y", [b"1"]),
        lambda: site.put("b/y", [b"1"]),
        lambda: site.delete("a/x"),
    ]
    for attempt in attempts:
        with pytest.raises(SiteError) as caught:
            attempt()
        assert "read-only" in (caught.value.hint or "")
        assert caught.value.fields["transient"] is False
    assert site.get("a/x") == b"1"
    site.close()


def test_another_filesystem_inside_the_site_is_refused(mount: Mount) -> None:
    """Where `.tmp` is needed (no O_TMPFILE over there), a draft cannot be linked across."""
    root, other = mount("ext4"), mount("ntfs")
    site = FileSite("de", root)
    site.put("a/x", [b"1"])
    run("mount", "--bind", str(other), str(root / "a"))
    try:
        with pytest.raises(SiteError) as caught:
            site.put("a/y", [b"1"])
        assert "lives on one" in (caught.value.hint or "")
        assert list((root / ".tmp").iterdir()) == list(other.iterdir()) == []
    finally:
        run("umount", "--lazy", str(root / "a"))
        site.close()


def test_an_open_site_holds_its_mount(mount: Mount) -> None:
    root = mount("ext4")
    site = FileSite("de", root)
    site.put("a", [b"1"])
    with pytest.raises(subprocess.CalledProcessError):
        run("umount", str(root))
    site.close()


def test_objects_stay_out_of_the_page_cache(mount: Mount) -> None:
    root = mount("ext4")
    site = FileSite("de", root)
    site.put("direct", [b"x" * (2 * MIB)])
    site.put("buffered", [b"x" * 100_000])
    cached = run("fincore", "--bytes", "--noheadings", "--output", "RES", str(root / "direct"), str(root / "buffered"))
    assert [int(each) for each in cached.split()] == [0, 0]
    site.close()


#: What to look for in a trace; a file without a name shows as `/#inode` or `(deleted)`.
STEPS = {
    "draft": r'openat\(\d+<.*/a>, "\.", .*O_TMPFILE',
    "direct": r"fcntl\(.*F_SETFL, .*O_DIRECT",
    "body": r"pwrite64\(",
    "fsync file": r"fsync\(\d+<.*(\(deleted\)|/#\d+).*\) += 0",
    "link": r'linkat\(AT_FDCWD.*, "/proc/self/fd/\d+", .*/a>, "x", AT_SYMLINK_FOLLOW\) += 0',
    "fsync folder": r"fsync\(\d+<.*/a>\) += 0",
}


def test_the_kernel_is_asked_in_the_right_order(mount: Mount, tmp_path: Path) -> None:
    """By strace: body, fsync of the file, linkat, fsync of the folder, and only then the answer."""
    root = mount("ext4")
    program = (
        "import os, sys; from imager.sites.file import FileSite; site = FileSite('de', sys.argv[1]);"
        "site.put('a/0', []); os.write(1, b'begin'); site.put('a/x', [bytes(2 << 20)]); os.write(1, b'answer')"
    )
    trace = tmp_path / "trace"
    argv = ["strace", "-y", "-e", "trace=openat,pwrite64,fsync,linkat,write,fcntl", "-o", str(trace)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    subprocess.run(
        [*argv, sys.executable, "-c", program, str(root)], check=True, capture_output=True, env=environment, timeout=60
    )
    lines = trace.read_text().split('"begin"')[1].split('"answer"')[0].splitlines()
    assert [step for line in lines for step, pattern in STEPS.items() if re.match(pattern, line)] == [
        "draft", "direct", "body", "body", "fsync file", "link", "fsync folder"
    ]  # fmt: skip
