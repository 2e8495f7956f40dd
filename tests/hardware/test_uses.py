"""Who uses a disk: everything that could be hurt is found, with its place; what cannot be told is an error."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import SourceError
from hardware.attach import attach
from hardware.machine import Use, UseKind
from hardware.uses import parse_mountinfo, unescape_octal, uses_of
from tests.hardware.disks import DOS_SCRIPT, MIB, RUNNER, blank, gpt_script, partition, tool


@contextlib.contextmanager
def mounted(node: str, where: Path, options: str = "rw") -> Iterator[Path]:
    where.mkdir(exist_ok=True)
    tool("mount", "-o", options, node, str(where))
    try:
        yield where
    finally:
        tool("umount", str(where))


def short(uses: tuple[Use, ...]) -> list[tuple[str, int | None, bool]]:
    return sorted((use.kind.value, use.start_bytes, use.writable) for use in uses)


def test_mountinfo() -> None:
    text = (
        "22 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw,errors=remount-ro\n"
        "23 22 8:17 /sub /mnt/a\\040b ro,relatime - xfs /dev/sdb1 rw\n"
        "24 22 7:0 / /snap ro - squashfs /dev/loop0 ro\n"
        "25 22 0:21 / /proc rw - proc proc rw\n"
    )
    found = parse_mountinfo(text)
    assert [(mount.where, mount.writable) for mount in found[(8, 2)]] == [("/", True)]
    # mounted read-only here, but the filesystem itself is writable elsewhere
    assert [(mount.where, mount.writable) for mount in found[(8, 17)]] == [("/mnt/a b", True)]
    assert [mount.writable for mount in found[(7, 0)]] == [False]


@pytest.mark.parametrize("line", ["22 1 8:2 / / rw,relatime ext4 /dev/sda2 rw", "garbage", "1 2 3 4 5 6 - a"])
def test_mountinfo_that_cannot_be_read_is_an_error(line: str) -> None:
    with pytest.raises(SourceError):
        parse_mountinfo(line + "\n")


def test_octal() -> None:
    assert unescape_octal("/a\\040b\\134c\\011") == "/a b\\c\t"


@pytest.mark.block
def test_nobody(tmp_path: Path) -> None:
    path = blank(tmp_path / "disk", 8 * MIB)
    assert uses_of(path) == ()
    with attach(path, runner=RUNNER) as node:
        assert uses_of(node) == ()


@pytest.mark.block
def test_file_that_somebody_writes(tmp_path: Path) -> None:
    path = blank(tmp_path / "disk", 8 * MIB)
    with open(path, "r+b"):
        assert short(uses_of(path)) == [("open", None, True)]
    assert uses_of(path) == ()


@pytest.mark.block
def test_file_attached_and_mounted_at_an_offset(tmp_path: Path) -> None:
    path = partition(blank(tmp_path / "disk", 100 * MIB), gpt_script())
    with attach(path, offset_bytes=40 * MIB, size_bytes=48 * MIB, read_only=False, runner=RUNNER) as node:
        tool("mkfs.ext4", "-q", node)
        assert short(uses_of(path)) == [("loop", 40 * MIB, True)]
        with mounted(node, tmp_path / "mnt"):
            assert short(uses_of(path)) == [("loop", 40 * MIB, True), ("mounted", 40 * MIB, True)]
            assert short(uses_of(node)) == [("mounted", 0, True)]
            assert {use.where for use in uses_of(node)} == {str(tmp_path / "mnt")}
        with mounted(node, tmp_path / "mnt", "ro"):
            assert short(uses_of(node)) == [("mounted", 0, False)]
    assert uses_of(path) == ()


@pytest.mark.block
def test_partition_of_a_disk(tmp_path: Path) -> None:
    path = partition(blank(tmp_path / "disk", 100 * MIB), DOS_SCRIPT)
    with attach(path, read_only=False, partitions=True, runner=RUNNER) as node:
        tool("mkfs.ext4", "-q", f"{node}p6")
        with mounted(f"{node}p6", tmp_path / "mnt"):
            assert short(uses_of(node)) == [("mounted", 80000 * 512, True)]
            assert ("mounted", 80000 * 512, True) in short(uses_of(path))
        assert uses_of(node) == ()


@pytest.mark.block
def test_btrfs_has_device_numbers_of_its_own(tmp_path: Path) -> None:
    path = blank(tmp_path / "disk", 128 * MIB)
    tool("mkfs.btrfs", "-q", path)
    with attach(path, read_only=False, runner=RUNNER) as node, mounted(node, tmp_path / "mnt"):
        assert short(uses_of(node)) == [("mounted", 0, True)]
        assert ("mounted", 0, True) in short(uses_of(path))


@pytest.mark.block
def test_loop_device_on_a_loop_device(tmp_path: Path) -> None:
    path = blank(tmp_path / "disk", 8 * MIB)
    with (
        attach(path, offset_bytes=MIB, read_only=False, runner=RUNNER) as lower,
        attach(lower, offset_bytes=2 * MIB, runner=RUNNER),
    ):
        assert short(uses_of(lower)) == [("loop", 2 * MIB, False)]
        assert short(uses_of(path)) == [("loop", MIB, True), ("loop", 3 * MIB, False)]


@pytest.mark.block
def test_claimed_by_something_that_is_not_listed_anywhere(tmp_path: Path) -> None:
    with attach(blank(tmp_path / "disk", 8 * MIB), read_only=False, runner=RUNNER) as node:
        handle = os.open(node, os.O_RDONLY | os.O_EXCL)
        try:
            assert short(uses_of(node)) == [("open", 0, True)]
        finally:
            os.close(handle)
        assert uses_of(node) == ()


@pytest.mark.block
def test_hard_link_is_the_same_file(tmp_path: Path) -> None:
    path = blank(tmp_path / "disk", 8 * MIB)
    os.link(path, tmp_path / "other")
    with attach(path, runner=RUNNER):
        assert [use.kind for use in uses_of(str(tmp_path / "other"))] == [UseKind.LOOP]


@pytest.mark.block
def test_no_such_device(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        uses_of(str(tmp_path / "absent"))
