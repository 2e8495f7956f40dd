"""Sites on disks are found wherever they can be; "none" is only said after looking everywhere."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from core.errors import SourceError
from hardware import sitefind
from hardware.attach import attach
from hardware.sitefind import MARKER, holds_site
from tests.hardware.disks import MIB, RUNNER, blank, gpt_script, partition, tool
from tests.hardware.test_uses import mounted

pytestmark = pytest.mark.block
ROOM = 330 * MIB
MAKE = {
    "ext2": ["mkfs.ext2", "-q"],
    "ext4": ["mkfs.ext4", "-q"],
    "xfs": ["mkfs.xfs", "-q"],
    "btrfs": ["mkfs.btrfs", "-q"],
    "vfat": ["mkfs.vfat"],
    "ntfs": ["mkntfs", "-Q", "-q", "-F"],
}


#: By depth: the root, then folders below one another, with blanks and quotes.
DEEP = ["", "srv/", "srv/a b/", 'srv/a b/c"d/', 'srv/a b/c"d/sites/', 'srv/a b/c"d/sites/de/']
DEEP += [f"{DEEP[5]}{'x/' * more}" for more in (1, 2)]


def fill(kind: str, path: str, name: str, tmp_path: Path) -> None:
    """A filesystem with a few folders, and an empty file of that name in it (empty: none)."""
    tool(*MAKE[kind], path)
    if kind == "vfat":
        name = name.replace('"', "")
        for folder in [*DEEP[1:], "var/", "usr/", "usr/a/", "usr/a/b/"]:
            tool("mmd", "-i", path, "::" + folder.rstrip("/").replace('"', ""))
        if name:
            tool("mcopy", "-i", path, "/dev/null", f"::{name}")
        return
    if kind == "ntfs":
        if name:
            tool("ntfscp", path, "/etc/hostname", f"/{name}")
        return
    with attach(path, read_only=False, runner=RUNNER) as node, mounted(node, tmp_path / "mnt") as where:
        for folder in [DEEP[-1], "var", "usr/a/b"]:
            (where / folder).mkdir(parents=True)
        (where / "srv" / "file").write_bytes(b"x" * 100)
        if name:
            (where / name).touch()


CASES = [(kind, depth) for kind in MAKE for depth in (0, 1, 2, 5, 6, 7) if not (kind == "ntfs" and depth)]


@pytest.mark.parametrize(("kind", "depth"), CASES)
def test_site_in_the_root_or_up_to_five_folders_below(tmp_path: Path, kind: str, depth: int) -> None:
    path = blank(tmp_path / "disk", ROOM)
    fill(kind, path, DEEP[depth] + MARKER, tmp_path)
    spots = holds_site(path, RUNNER)
    if depth > 5 + (kind == "btrfs"):  # there a subvolume may stand for the root
        assert spots == ()
    else:
        assert [(spot.start_bytes, spot.certain) for spot in spots] == [(0, True)] and spots[0].uuid


@pytest.mark.parametrize(("folder", "found"), [("usr/a/", True), ("usr/a/b/", False)])
def test_folders_of_the_system_are_searched_less_deep(tmp_path: Path, folder: str, found: bool) -> None:
    path = blank(tmp_path / "disk", ROOM)
    fill("ext4", path, folder + MARKER, tmp_path)
    assert bool(holds_site(path, RUNNER)) is found


@pytest.mark.parametrize(("kind", "limit"), [("ext4", "MAX_FOLDERS"), ("xfs", "MAX_FOLDERS"), ("btrfs", "MAX_SECONDS")])
def test_search_that_is_cut_off_is_no_all_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, limit: str
) -> None:
    path = blank(tmp_path / "disk", ROOM)
    fill(kind, path, "", tmp_path)
    monkeypatch.setattr(sitefind, limit, 3 if limit == "MAX_FOLDERS" else 0.0)
    (spot,) = holds_site(path, RUNNER)
    assert not spot.certain and "cut off" in spot.what


def test_search_over_many_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = blank(tmp_path / "disk", ROOM)
    fill("ext4", path, DEEP[4] + MARKER, tmp_path)
    monkeypatch.setattr(sitefind, "_BATCH", 1)
    assert [spot.certain for spot in holds_site(path, RUNNER)] == [True]


def test_rolled_back_root_of_a_btrfs(tmp_path: Path) -> None:
    """After a rollback the root is a snapshot, which `btrfs restore` passes over unless told."""
    path = blank(tmp_path / "disk", ROOM)
    tool("mkfs.btrfs", "-q", path)
    with attach(path, read_only=False, runner=RUNNER) as node, mounted(node, tmp_path / "mnt") as where:
        tool("btrfs", "subvolume", "create", str(where / "@"))
        (where / "@/backup").mkdir()
        (where / "@/backup" / MARKER).touch()
        tool("btrfs", "subvolume", "snapshot", str(where / "@"), str(where / "@new"))
        tool("btrfs", "subvolume", "delete", str(where / "@"))
    assert [spot.certain for spot in holds_site(path, RUNNER)] == [True]


@pytest.mark.parametrize("kind", MAKE)
def test_filesystem_without_a_site(tmp_path: Path, kind: str) -> None:
    path = blank(tmp_path / "disk", ROOM)
    fill(kind, path, "" if kind == "ntfs" else f"srv/x{MARKER}", tmp_path)
    assert holds_site(path, RUNNER) == ()


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_site_made_just_before_the_power_failed(tmp_path: Path, kind: str) -> None:
    """What fsync promised may be in the log alone; then it is found there, or the disk counts as unseen."""
    path = blank(tmp_path / "disk", ROOM)
    tool(*MAKE[kind], path)
    with attach(path, read_only=False, runner=RUNNER) as node, mounted(node, tmp_path / "mnt") as where:
        (where / "srv").mkdir()
        for name in (where / "srv" / MARKER, where / "srv", where):
            handle = os.open(name, os.O_RDONLY | os.O_CREAT if name.name == MARKER else os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
        shutil.copyfile(path, tmp_path / "crashed")
    spots = holds_site(str(tmp_path / "crashed"), RUNNER)
    assert len(spots) == 1
    if kind == "ext4":
        assert spots[0].certain


def test_crashed_ext4_without_a_site(tmp_path: Path) -> None:
    path = blank(tmp_path / "disk", 64 * MIB)
    tool("mkfs.ext4", "-q", path)
    with attach(path, read_only=False, runner=RUNNER) as node, mounted(node, tmp_path / "mnt") as where:
        (where / "file").touch()
        os.sync()
        shutil.copyfile(path, tmp_path / "crashed")
    assert "needs_recovery" in tool("dumpe2fs", "-h", str(tmp_path / "crashed"))
    assert holds_site(str(tmp_path / "crashed"), RUNNER) == ()


@pytest.mark.parametrize("sector", [512, 4096])
def test_site_in_a_partition(tmp_path: Path, sector: int) -> None:
    path = blank(tmp_path / "disk", 100 * MIB)
    with attach(path, sector_bytes=sector, read_only=False, runner=RUNNER) as node:
        partition(node, gpt_script(sector))
    place = (40 * MIB, 48 * MIB)
    with attach(
        path, offset_bytes=place[0], size_bytes=place[1], sector_bytes=sector, read_only=False, runner=RUNNER
    ) as node:
        tool("mkfs.ext4", "-q", node)
        with mounted(node, tmp_path / "mnt") as where:
            (where / MARKER).touch()
    assert [spot.start_bytes for spot in holds_site(path, RUNNER, sector_bytes=sector)] == [40 * MIB]
    # a torn table hides nothing
    with open(path, "r+b") as file:
        file.seek(sector)
        file.write(bytes(sector))
    spots = holds_site(path, RUNNER, sector_bytes=sector)
    assert [(spot.start_bytes, spot.certain) for spot in spots] == [(40 * MIB, True)]
    # and when nothing of it is left, nobody can tell
    with open(path, "r+b") as file:
        file.seek(100 * MIB - sector)
        file.write(bytes(sector))
    spots = holds_site(path, RUNNER, sector_bytes=sector)
    assert [(spot.start_bytes, spot.certain) for spot in spots] == [(0, False)]


def test_subvolume(tmp_path: Path) -> None:
    path = blank(tmp_path / "disk", ROOM)
    tool("mkfs.btrfs", "-q", path)
    with attach(path, read_only=False, runner=RUNNER) as node, mounted(node, tmp_path / "mnt") as where:
        tool("btrfs", "subvolume", "create", str(where / "@"))
        (where / "@/srv/site").mkdir(parents=True)
        (where / "@/srv/site" / MARKER).touch()
    assert [spot.certain for spot in holds_site(path, RUNNER)] == [True]


def test_container_cannot_be_looked_into(tmp_path: Path) -> None:
    path = blank(tmp_path / "disk", 8 * MIB)
    uuid = b"12345678-1234-4234-8234-123456789abc"
    with open(path, "r+b") as file:  # the LUKS1 header as far as blkid looks (LUKS On-Disk Format 1.2.3, 2.3)
        file.write(b"LUKS\xba\xbe\x00\x01" + bytes(160) + uuid)
    (spot,) = holds_site(path, RUNNER)
    assert (spot.certain, spot.uuid) == (False, uuid.decode()) and "crypto_LUKS" in spot.what


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_damaged_filesystem_is_not_taken_for_empty(tmp_path: Path, kind: str) -> None:
    path = blank(tmp_path / "disk", ROOM)
    fill(kind, path, "", tmp_path)
    superblock = {"ext4": 64 << 10, "xfs": 64 << 10, "btrfs": 68 << 10}[kind]
    with open(path, "r+b") as file:  # everything but the superblock
        file.seek(4096 if kind != "btrfs" else superblock)
        for _each in range(ROOM // MIB - 2):
            file.write(b"\xa5" * MIB)
    assert [spot.certain for spot in holds_site(path, RUNNER)] == [False]


@pytest.mark.parametrize("kind", ["blank", "swap"])
def test_nothing_there(tmp_path: Path, kind: str) -> None:
    path = blank(tmp_path / "disk", 8 * MIB)
    if kind == "swap":
        tool("mkswap", path)
    assert holds_site(path, RUNNER) == ()


def test_unreadable_disk_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        holds_site(str(tmp_path / "absent"), RUNNER)
