"""Nothing in the restored system leads out of it, and nothing that is written loses what was there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from core.errors import TargetError, WriteError
from hardware.boot.inside import BEFORE, Root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    server = tmp_path / "server"
    (server / "etc").mkdir(parents=True)
    (tmp_path / "secret").write_text("the rescue environment's\n")
    return server


def test_absolute_and_climbing_links_stay_inside(tree: Path) -> None:
    secret = str(tree.parent / "secret")
    (tree / "etc/fstab").symlink_to(secret)
    (tree / "etc/hosts").symlink_to("../../secret")
    (tree / "etc/passwd").symlink_to("/etc/group")
    (tree / "etc/group").write_text("inside\n")
    (tree / "up").symlink_to("/")
    with Root(str(tree)) as root:
        assert root.read("/etc/fstab") is None and root.read("/etc/hosts") is None
        assert root.text("/etc/passwd") == "inside\n" and root.real("/up/up/etc/passwd") == "/etc/group"
        assert root.write("/etc/passwd", "changed\n")
        root.write("/etc/fstab", "new\n")
        assert root.text("/etc/fstab") == "new\n"
    assert (tree.parent / "secret").read_text() == "the rescue environment's\n"
    assert (tree / "etc/passwd").is_symlink() and (tree / "etc/group").read_text() == "changed\n"
    assert not (tree / "etc/fstab").is_symlink()


def test_a_linked_folder_is_written_through_inside(tree: Path) -> None:
    (tree / "elsewhere").mkdir()
    (tree / "etc/netplan").symlink_to("/elsewhere")
    (tree / "etc/out").symlink_to(str(tree.parent))
    with Root(str(tree)) as root:
        root.write("/etc/netplan/a.yaml", "x")
        root.write("/etc/netplan/a.yaml", "y")
        assert root.glob("/etc/netplan/*.yaml") == ["/etc/netplan/a.yaml"]
        with pytest.raises((TargetError, OSError)):
            root.outside("/etc/out/secret")
    assert (tree / "elsewhere/a.yaml").read_text() == "y"
    assert (tree / f"{BEFORE[1:]}/elsewhere/a.yaml").read_text() == "x"


def test_only_plain_files_are_read(tree: Path) -> None:
    os.mkfifo(tree / "etc/pipe")
    (tree / "etc/loop").symlink_to("loop")
    with Root(str(tree)) as root:
        for path in ("/etc/pipe", "/etc", "/etc/loop"):
            with pytest.raises(TargetError):
                root.read(path)
        assert root.read("/etc/none/none") is None and root.names("/none") == [] and root.glob("/none/*") == []


def test_mode_stays_original_is_kept_once_and_same_bytes_are_not_written(tree: Path) -> None:
    path = tree / "etc/crypttab"
    path.write_text("first")
    path.chmod(0o640)
    with Root(str(tree)) as root:
        assert root.write("/etc/crypttab", "second") and root.write("/etc/crypttab", "third")
        assert not root.write("/etc/crypttab", "third")
        assert root.changed.count("/etc/crypttab") == 2
    kept = tree / f"{BEFORE[1:]}/etc/crypttab"
    assert (path.read_text(), kept.read_text()) == ("third", "first")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(kept.stat().st_mode) == 0o640
    assert sorted(os.listdir(tree / "etc")) == ["crypttab"]


def test_set_aside_moves_the_link_itself(tree: Path) -> None:
    (tree / "etc/target").write_text("stays")
    (tree / "etc/link").symlink_to("target")
    (tree / "etc/folder").mkdir()
    with Root(str(tree)) as root:
        assert root.set_aside("/etc/link") and root.set_aside("/etc/folder") and not root.set_aside("/etc/link")
        assert root.remove("/etc/target") and not root.remove("/etc/target")
    assert os.listdir(tree / "etc") == []
    assert os.path.islink(tree / f"{BEFORE[1:]}/etc/link")


def test_read_only_tells_and_writes_nothing(tree: Path) -> None:
    (tree / "etc/fstab").write_text("a")
    with Root(str(tree), read_only=True) as root:
        assert root.write("/etc/fstab", "b") and root.remove("/etc/fstab") and root.set_aside("/etc/fstab")
        root.make_folder("/boot/efi")
        assert root.changed == ["/etc/fstab"] * 3
    assert (tree / "etc/fstab").read_text() == "a" and os.listdir(tree) == ["etc"]


def test_the_running_system_is_a_root_too() -> None:
    with Root("/", read_only=True) as root:
        assert root.real("/proc/version") == "/proc/version" == root.outside("/proc/version")
        assert root.outside("/") == "/"


def test_a_folder_that_is_a_link_to_nothing_is_told(tree: Path) -> None:
    (tree / "etc/netplan").symlink_to(tree.parent)
    with Root(str(tree)) as root, pytest.raises(WriteError):
        root.write("/etc/netplan/a.yaml", "x")
    assert sorted(path.name for path in tree.parent.iterdir()) == ["secret", "server"]
