"""Targets that must not be written to, or cannot be: each refused with an exit code and a hint, and nothing lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.appliance.e2e import disks
from tests.appliance.e2e.conftest import DATA_SIZE, SIZE, Small
from tests.appliance.e2e.server import MIB, bad_disk, blank, loop, mounted, token, tool

pytestmark = pytest.mark.block


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A target for `vda` that already holds something: it must stay as it is."""
    path = tmp_path / "full.img"
    path.write_bytes(os.urandom(MIB) * (SIZE // MIB))
    before = disks.digest(path)
    yield path
    assert disks.digest(path) == before


def _refused(small: Small, status: int, *argv: str | Path, only: str = "vda") -> dict[str, Any]:
    return small.server.fails(status, "restore", "latest", *small.server.unlock, "--only", only, *argv)


def test_a_target_that_is_not_confirmed(small: Small, full: Path) -> None:
    error = _refused(small, 51, "--to", full)
    assert f"--confirm {token(full)}" in error["hint"]


@pytest.mark.parametrize("typed", ["", "yes", "full.img", "0"])
def test_a_wrong_confirmation(small: Small, full: Path, typed: str) -> None:
    _refused(small, 51, "--to", full, "--confirm", typed)


def test_a_confirmation_of_another_target(small: Small, full: Path, tmp_path: Path) -> None:
    """Two disks, one confirmed: neither is written."""
    other = blank(tmp_path / "other.img", DATA_SIZE)
    argv = ("--to", f"vda={full}", "--to", f"vdb={other}", "--confirm", token(other))
    error = small.server.fails(51, "restore", "latest", *small.server.unlock, *argv)
    assert str(full) in error["message"]
    assert os.stat(other).st_blocks == 0


def test_a_target_that_is_too_small(small: Small, tmp_path: Path) -> None:
    """The message says what is needed, and that size then is enough."""
    target = blank(tmp_path / "t.img", 20 * MIB)
    error = _refused(small, 50, "--to", target, "--confirm", token(target))
    plan = small.server.run("restore", "latest", *small.server.unlock, "--only", "vda", "--to", target, "--plan")
    assert plan.status == 50
    need = plan.value["plan"]["need_bytes"]["vda"]
    assert str(need) in error["message"]
    assert os.stat(target).st_blocks == 0
    enough = blank(tmp_path / "enough.img", need)
    small.server.restore("--only", "vda", "--scratch", tmp_path, to={"vda": enough})


def test_a_mounted_target(small: Small, tmp_path: Path) -> None:
    target = blank(tmp_path / "t.img", SIZE)
    tool("mkfs.ext4", "-q", target)
    with loop(target) as node, mounted(node, tmp_path / "mnt") as root:
        (root / "precious").write_bytes(b"precious")
        error = _refused(small, 50, "--to", node, "--confirm", token(node))
        assert str(root) in error["message"] and "umount" in error["hint"]
        error = _refused(small, 50, "--to", target, "--confirm", token(target))  # the file behind it, too
        assert "in use" in error["message"]
    tool("e2fsck", "-fn", target)
    assert tool("debugfs", "-R", "cat /precious", target) == "precious"


def test_a_target_that_holds_a_site(small: Small, tmp_path: Path) -> None:
    """The disk on which a site is: while it is mounted, and when nobody has mounted it."""
    disk = blank(tmp_path / "site.img", SIZE)
    tool("mkfs.ext4", "-q", disk)
    server = small.copied(tmp_path / "copy")
    with loop(disk) as node:
        with mounted(node, tmp_path / "mnt") as root:
            (root / "refloat").mkdir()
            server.sites["de"] = root / "refloat"
            server.configure()
            (server.state / "sites" / "de.json").unlink()  # else an empty folder is taken for a mount that is missing
            server.taken("--disk", f"vdb={small.vdb}")
            error = _refused(small, 50, "--to", node, "--confirm", token(node))
            assert "in use" in error["message"]
        before = disks.digest(disk)
        error = _refused(small, 50, "--to", node, "--confirm", token(node))
        assert "holds a site" in error["message"] and "another disk" in error["hint"]
        assert disks.digest(disk) == before


def test_one_target_for_two_disks(small: Small, full: Path) -> None:
    confirmed = ("--confirm", token(full))
    unlock = small.server.unlock
    error = small.server.fails(
        50, "restore", "latest", *unlock, "--to", f"vda={full}", "--to", f"vdb={full}", *confirmed
    )
    assert "same device" in error["message"]
    link = full.with_name("link")
    link.symlink_to(full)
    small.server.fails(50, "restore", "latest", *unlock, "--to", full, "--to", link, *confirmed)


def test_two_targets_for_one_disk_and_too_few(small: Small, full: Path, tmp_path: Path) -> None:
    other = blank(tmp_path / "other.img", SIZE)
    unlock = small.server.unlock
    small.server.fails(10, "restore", "latest", *unlock, "--to", f"vda={full}", "--to", f"vda={other}")
    error = small.server.fails(10, "restore", "latest", *unlock, "--to", full)
    assert "vda, vdb" in error["message"]
    small.server.fails(10, "restore", "latest", *unlock, "--to", f"sda={full}", "--to", f"vdb={other}")


def test_a_target_that_is_not_there(small: Small, tmp_path: Path) -> None:
    for path in (tmp_path / "none", "/dev/none", "NOSUCHSERIAL"):
        assert "no device" in _refused(small, 50, "--to", path)["message"]


def test_a_target_that_fails_while_it_is_written(small: Small, tmp_path: Path) -> None:
    """Bad sectors in the middle: told where; on a sound disk with what was written so far, the restore goes on."""
    target = blank(tmp_path / "t.img", DATA_SIZE)
    with bad_disk(target, tmp_path / "bad", (6 * MIB, 4096)) as path:
        error = _refused(small, 52, "--to", path, "--confirm", token(path), only="vdb")
    assert 5 * MIB <= error["offset_bytes"] <= 6 * MIB + 4096
    assert "again" in error["hint"]
    assert os.stat(target).st_blocks > 0
    report = small.server.restore("--only", "vdb", to={"vdb": target})
    assert 0 < report["volumes"][0]["written_bytes"] < DATA_SIZE
    assert target.read_bytes() == small.vdb.read_bytes()


def test_a_target_that_goes_full(small: Small, tmp_path: Path) -> None:
    """A sparse file on a filesystem without room: ENOSPC in the middle, and on it goes when there is room."""
    with mounted(Path("tmpfs"), tmp_path / "mnt", "size=5m", kind="tmpfs") as root:
        target = blank(root / "t.img", DATA_SIZE)
        error = _refused(small, 52, "--to", target, "--confirm", token(target), only="vdb")
        assert "No space left" in error["message"]
        tool("mount", "-o", "remount,size=20m", root)
        report = small.server.restore("--only", "vdb", to={"vdb": target})
        assert 0 < report["volumes"][0]["written_bytes"] < DATA_SIZE
        assert target.read_bytes() == small.vdb.read_bytes()


def test_a_disk_that_forgets_what_was_written(small: Small, tmp_path: Path) -> None:
    """A file cut off under the restore, as a device that vanishes: an error, not a report of success."""
    target = blank(tmp_path / "t.img", SIZE)
    words, confirmed = small.server.onto({"vda": target})
    argv = ("restore", "latest", *small.server.unlock, "--only", "vda", *words, *confirmed, "--json")
    with small.server.started(*argv) as child:
        child.when(lambda: os.stat(target).st_blocks > 2048)
        os.truncate(target, MIB)
        status, value = child.go_on()
    assert status == 52, value
    assert value["error"]["hint"]
    small.server.restore("--only", "vda", to={"vda": blank(target, SIZE)})
