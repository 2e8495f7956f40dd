"""One volume as a file, as a stream, and as a file behind FUSE: the same bytes, read-only, and damage shows."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.appliance.e2e import disks
from tests.appliance.e2e.conftest import DATA_SIZE, PARTS, SIZE, Small
from tests.appliance.e2e.disks import Disk
from tests.appliance.e2e.server import MIB, Server, blank, mounted, tool, wait_until

pytestmark = pytest.mark.block
VOLUMES = {"vda-head": MIB, "vda-part1": PARTS[0].size, "vda-part2": PARTS[1].size, "vda-part3": PARTS[2].size}


@contextlib.contextmanager
def _shown(server: Server, folder: Path) -> Iterator[Path]:
    """`refloat mount` in a child, until its folder is unmounted; it must then end well."""
    folder.mkdir()
    argv = server.command("mount", "latest", folder, *server.unlock)
    child = subprocess.Popen(argv, env=server.environment(), stdout=subprocess.DEVNULL)
    try:
        wait_until(folder.is_mount)
        yield folder
        tool("fusermount3", "-u", folder)
        assert child.wait(20) == 0
    finally:
        if folder.is_mount():
            tool("umount", "--lazy", folder)
        child.kill()
        child.wait()
    assert not list(folder.iterdir())


@pytest.fixture(scope="module")
def restored(small: Small, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What a restore onto blank disks makes of the image: what every other way must give, too."""
    targets = small.blanks(tmp_path_factory.mktemp("restored"))
    small.server.restore(to=targets)
    return targets


def _wanted(restored: dict[str, Path], volume: str) -> bytes:
    if volume == "vdb":
        return restored["vdb"].read_bytes()
    start = 0 if volume == "vda-head" else Disk(restored["vda"], PARTS).part(int(volume[-1])).start
    return restored["vda"].read_bytes()[start : start + VOLUMES[volume]]


@pytest.mark.parametrize("volume", ["vda-part1", "vda-part2", "vdb"])
def test_export(small: Small, restored: dict[str, Path], tmp_path: Path, volume: str) -> None:
    """To a file and to a pipe: the volume."""
    path = tmp_path / "out.img"
    report = small.server.ok("export", "latest", volume, "-o", path, *small.server.unlock)
    wanted = _wanted(restored, volume)
    assert report["size_bytes"] == len(wanted) and path.read_bytes() == wanted
    argv = small.server.command("export", "latest", volume, "-o", "-", *small.server.unlock)
    piped = subprocess.run(argv, capture_output=True, env=small.server.environment())
    assert piped.returncode == 0, piped.stderr
    assert hashlib.sha256(piped.stdout).digest() == hashlib.sha256(wanted).digest()
    assert os.listdir(tmp_path) == ["out.img"]


def test_an_export_does_not_overwrite(small: Small, tmp_path: Path) -> None:
    path = tmp_path / "out.img"
    path.write_bytes(b"precious")
    small.server.fails(10, "export", "latest", "vdb", "-o", path, *small.server.unlock)
    assert path.read_bytes() == b"precious"
    small.server.fails(10, "export", "latest", "no-such", "-o", tmp_path / "new", *small.server.unlock)
    small.server.fails(10, "export", "latest", "vdb", "-o", "-", *small.server.unlock)  # --json and raw bytes
    small.server.fails(52, "export", "latest", "vdb", "-o", tmp_path / "none" / "new", *small.server.unlock)
    with mounted(Path("tmpfs"), tmp_path / "mnt", "size=4m", kind="tmpfs") as root:
        error = small.server.fails(52, "export", "latest", "vdb", "-o", root / "new", *small.server.unlock)
        assert "No space left" in error["message"]
        assert not list(root.iterdir())


def test_mount(small: Small, restored: dict[str, Path], tmp_path: Path) -> None:
    """Raw files for dd; a filesystem in one is mounted from it; nothing can be written, by nobody."""
    with _shown(small.server, tmp_path / "image") as folder:
        sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
        assert sizes == VOLUMES | {"vdb": DATA_SIZE}
        tool("dd", f"if={folder}/vdb", f"of={tmp_path}/vdb.img", "bs=1000003")
        assert (tmp_path / "vdb.img").read_bytes() == _wanted(restored, "vdb")
        with (folder / "vda-part1").open("rb") as file:  # anywhere, any length
            wanted = _wanted(restored, "vda-part1")
            for at, size in ((1, 1), (65535, 2), (65536 * 3 - 7, 200_000), (len(wanted) - 5, 100), (len(wanted), 1)):
                assert os.pread(file.fileno(), size, at) == wanted[at : at + size]
        _is_read_only(folder)
        with mounted(folder / "vda-part2", tmp_path / "files", "loop", "ro") as root:
            assert disks.files(root) == disks.fingerprint(small.vda, PARTS[1])
            with pytest.raises(OSError) as caught:
                (root / "new").touch()
            assert caught.value.errno == errno.EROFS


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_unmounts_and_is_a_normal_end(small: Small, tmp_path: Path, how: signal.Signals) -> None:
    folder = tmp_path / "image"
    folder.mkdir()
    argv = small.server.command("mount", "latest", folder, *small.server.unlock)
    child = subprocess.Popen(argv, env=small.server.environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        wait_until(folder.is_mount)
        assert (folder / "vdb").stat().st_size == DATA_SIZE  # it is being served
        child.send_signal(how)
        _, err = child.communicate(timeout=20)
        assert (child.returncode, err) == (0, b"")
        assert not folder.is_mount()
    finally:
        child.kill()
        child.wait()
        if folder.is_mount():
            tool("umount", "--lazy", folder)


def _is_read_only(folder: Path) -> None:
    for attempt in (
        lambda: os.open(folder / "vdb", os.O_WRONLY),
        lambda: os.open(folder / "vdb", os.O_RDWR),
        lambda: os.truncate(folder / "vdb", 0),
        lambda: os.unlink(folder / "vdb"),
        lambda: (folder / "new").touch(),
    ):
        with pytest.raises(OSError) as caught:
            attempt()
        assert caught.value.errno == errno.EROFS


def test_a_damaged_pack_is_an_io_error(small: Small, tmp_path: Path) -> None:
    """Where it is needed, and nowhere else; an export leaves nothing half behind."""
    server = small.copied(tmp_path / "copy")
    largest = max(server.packs("de"), key=os.path.getsize)
    for site in server.sites:
        path = next(each for each in server.packs(site) if each.name == largest.name)
        with path.open("r+b") as file:
            file.seek(os.path.getsize(path) * 3 // 4)
            file.write(os.urandom(64))
    good, bad = 0, []
    with _shown(server, tmp_path / "image") as folder:
        for name, size in (VOLUMES | {"vdb": DATA_SIZE}).items():
            with (folder / name).open("rb", buffering=0) as file:
                for at in range(0, size, 65536):
                    try:
                        os.pread(file.fileno(), 4096, at)
                        good += 1
                    except OSError as error:
                        assert error.errno == errno.EIO
                        bad.append((name, at))
    assert 0 < len(bad) < good
    out = tmp_path / "out"
    out.mkdir()
    failure = server.fails(23, "export", "latest", bad[0][0], "-o", out / "x.img", *server.unlock)
    assert largest.name in failure["message"]
    assert not list(out.iterdir())
    argv = server.command("export", "latest", bad[0][0], "-o", "-", *server.unlock)
    piped = subprocess.run(argv, capture_output=True, env=server.environment())
    assert piped.returncode == 23 and len(piped.stdout) < SIZE


def test_mounting_where_it_does_not_belong(small: Small, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for folder in (tmp_path / "full", tmp_path / "none", blank(tmp_path / "file", 1)):
        small.server.fails(10, "mount", "latest", folder, *small.server.unlock)
