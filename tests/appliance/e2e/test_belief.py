"""When a filesystem's own word about what it uses is believed, and when it is not."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.appliance.e2e import disks
from tests.appliance.e2e.disks import Disk, Part
from tests.appliance.e2e.secrets import plain_frames
from tests.appliance.e2e.server import MIB, Server, blank, loop, mounted, tool

pytestmark = pytest.mark.block
MARKER = b"the customer's secret that was deleted "
SIZES = {"ext4": 32, "xfs": 320, "ntfs": 32, "vfat": 48, "btrfs": 128}


def _bare(path: Path, make: str) -> Disk:
    disk = Disk(blank(path, SIZES[make] * MIB), (Part(0, 0, SIZES[make] * MIB, make),))
    with disk.node(disk.parts[0]) as node:
        tool(*disks.MKFS[make], node)
    return disk


def _method(server: Server, volume: str) -> str:
    return str(server.show()["by_name"][volume]["method"])


def test_what_cannot_be_held_still_needs_live(tmp_path: Path) -> None:
    """A disk-image file that is attached and mounted somewhere: refused with a hint, and with --live imaged whole and
    marked; the other disk is read by its map all the same."""
    one, two = _bare(tmp_path / "one.img", "ext4"), _bare(tmp_path / "two.img", "ext4")
    with loop(one.path) as node, mounted(node, tmp_path / "mnt") as root:
        server = Server.new(tmp_path / "server", {"one": one.path, "two": two.path})
        (root / "file").write_bytes(MARKER * 1000)
        tool("sync", "--file-system", root)
        error = server.fails(40, "image", "--config", server.config)
        assert str(root) in error["message"] and "--live" in error["hint"]
        assert not list(server.sites["de"].glob("servers/*/images/*"))
        answer = server.image("--live")
        assert answer.status == 0, answer
        assert (_method(server, "one"), _method(server, "two")) == ("live", "used")
        target = blank(tmp_path / "target.img", SIZES["ext4"] * MIB)
        server.restore("--only", "one", to={"one": target})
        assert target.read_bytes() == one.path.read_bytes()
    assert "one" in answer.err and "live" not in _method(server, "two")


def test_a_mounted_filesystem_is_frozen_while_it_is_copied(tmp_path: Path) -> None:
    """It is written to all the time, and its image is one that was unmounted nowhere and is clean all the same."""
    disk = _bare(tmp_path / "one.img", "ext4")
    with loop(disk.path) as node, mounted(node, tmp_path / "mnt") as root:
        server = Server.new(tmp_path / "server", {"one": node})
        stop = threading.Event()
        writer = threading.Thread(target=_write_on, args=(root, stop))
        writer.start()
        try:
            taken = server.taken()
        finally:
            stop.set()
            writer.join(30)
        assert not writer.is_alive()  # nothing is frozen any more
        assert _method(server, "one") == "used"
        (root / "after").write_bytes(MARKER)
    server.ok("export", taken, "one", "-o", tmp_path / "out.img", *server.unlock)
    tool("e2fsck", "-fn", tmp_path / "out.img")
    with loop(tmp_path / "out.img", read_only=True) as node, mounted(node, tmp_path / "out", "ro,noload") as root:
        found = sorted(root.glob("busy *"))
        assert found and all(path.read_bytes() == bytes([7]) * 5000 for path in found[:-1])
        assert not (root / "after").exists()
    assert not list((tmp_path / "server").rglob("hold/*"))


def _write_on(root: Path, stop: threading.Event) -> None:
    number = 0
    while not stop.is_set():
        with (root / f"busy {number:05}").open("wb") as file:
            file.write(bytes([7]) * 5000)
            os.fsync(file.fileno())
        number = (number + 1) % 500


def _while_mounted(kind: str, place: Path) -> Path:
    """A copy of a filesystem as a power failure leaves it: written to, and never unmounted."""
    disk = _bare(place / "busy.img", kind)
    copy = place / "dirty.img"
    with disk.mounted(disk.parts[0]) as root:
        for number in range(20):
            (root / f"file {number}").write_bytes(bytes([number + 1]) * 100_000)
        tool("sync", "--file-system", root)
        with (root / "last").open("wb") as file:  # durable through the log alone, where there is one
            file.write(MARKER * 100)
            file.flush()
            os.fsync(file.fileno())
        tool("cp", "--sparse=always", disk.path, copy)
    return copy


def _flagged(kind: str, place: Path) -> Path:
    """FAT with the bit that says that it is mounted for writing; NTFS with the one that asks for a check."""
    disk = _bare(place / "dirty.img", kind)
    if kind == "ntfs":
        tool("ntfsfix", disk.path)
        return disk.path
    with disk.path.open("r+b") as file:
        file.seek(0x25)
        file.write(b"\x01")
    return disk.path


def _hibernated(kind: str, place: Path) -> Path:
    """NTFS under a Windows that sleeps and will go on with what it remembers."""
    disk = _bare(place / "asleep.img", kind)
    with disk.mounted(disk.parts[0]) as root:
        (root / "hiberfil.sys").write_bytes(b"HIBR" + bytes(4092))
    return disk.path


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("ext4", _while_mounted),
        ("xfs", _while_mounted),
        ("btrfs", _while_mounted),
        ("vfat", _flagged),
        ("ntfs", _flagged),
        ("ntfs", _hibernated),
    ],  # fmt: skip
)
def test_a_dirty_filesystem_is_imaged_whole(tmp_path: Path, kind: str, make: Callable[[str, Path], Path]) -> None:
    """And said to be; every byte of it comes back, log included."""
    path = make(kind, tmp_path)
    server = Server.new(tmp_path / "server", {"vda": path})
    answer = server.image()
    assert answer.status == 0, answer
    assert _method(server, "vda") == "whole"
    assert f"vda ({kind}) is imaged whole" in answer.err
    target = blank(tmp_path / "target.img", SIZES[kind] * MIB)
    server.restore(to=target)
    assert disks.digest(target) == disks.digest(path)


def test_what_was_deleted_does_not_live_on_in_an_image(tmp_path: Path) -> None:
    """Neither in blocks that nothing uses nor in free pages beside used ones. Imaged whole, it does: the proof that
    the search finds it."""
    disk = _bare(tmp_path / "vda.img", "ext4")
    with disk.mounted(disk.parts[0]) as root:
        (root / "big").write_bytes(MARKER * 50_000)
        for number in range(200):
            (root / f"small {number:03}").write_bytes(MARKER * 100 if number % 2 else b"harmless " * 400)
        tool("sync")
        for path in [root / "big", *(root / f"small {number:03}" for number in range(1, 200, 2))]:
            path.unlink()
    assert MARKER in disk.path.read_bytes()
    with loop(disk.path) as node:  # of a device nothing is known to be a hole
        server = Server.new(tmp_path / "server", {"vda": node})
        believed = server.taken()
        assert not any(MARKER in plain for plain in plain_frames(server, believed))
        whole = server.taken("--whole", "vda")
        assert any(MARKER in plain for plain in plain_frames(server, whole))
    assert b"harmless " * 400 in b"".join(plain_frames(server, believed))
    server.ok("export", believed, "vda", "-o", tmp_path / "out.img", *server.unlock)
    assert MARKER not in (tmp_path / "out.img").read_bytes()
    tool("e2fsck", "-fn", tmp_path / "out.img")


def test_a_map_that_grows_after_a_whole_image(tmp_path: Path) -> None:
    """Whole, then by its map, then whole again: each image is right, whatever the one before was."""
    disk = _bare(tmp_path / "vda.img", "ext4")
    server = Server.new(tmp_path / "server", {"vda": disk.path})
    wanted = {}
    for number, more in enumerate((["--whole", "vda"], [], ["--whole", "vda"], [])):
        with disk.mounted(disk.parts[0]) as root:
            (root / f"file {number}").write_bytes(MARKER * 3000 * (number + 1))
            (root / f"file {number - 2}").unlink(missing_ok=True)
        image = server.taken(*more)
        with disk.mounted(disk.parts[0], read_only=True) as root:
            wanted[image] = disks.files(root)
        if more:
            shutil.copyfile(disk.path, tmp_path / f"{image}.whole")
    for image, files in wanted.items():
        target = Disk(blank(tmp_path / f"{image}.img", SIZES["ext4"] * MIB), disk.parts)
        server.restore(image=image, to=target.path)
        disks.check(target, disk.parts[0])
        with target.mounted(disk.parts[0], read_only=True) as root:
            assert disks.files(root) == files
        if (tmp_path / f"{image}.whole").exists():
            # mounting it above wrote nothing: it was read-only
            assert disks.digest(target.path) == disks.digest(tmp_path / f"{image}.whole")
