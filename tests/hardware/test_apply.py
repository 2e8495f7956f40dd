"""Applying on real disks: what is written reads back identical, twice is nothing, torn is repaired, busy is refused."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from core.errors import TargetError, WriteError
from core.layout import Disk, Table, TableKind
from core.monitor import Monitor
from hardware.actions import ClearSpace, ClearTable, GrowFilesystem, MakeSwap, WriteTable
from hardware.apply import clear_range, clear_space, clear_table, grow_filesystem, make_swap, write_table
from hardware.attach import attach
from hardware.facts import facts_of, partition_nodes
from hardware.read import DiskSource, read_layout
from tests.hardware.disks import DOS_SCRIPT, MIB, RUNNER, blank, gpt_script, partition, tool

pytestmark = pytest.mark.block
SIZE = 100 * MIB
MONITOR = Monitor()


def read(path: str, sector: int = 512) -> Disk:
    return read_layout([DiskSource(path, sector_bytes=sector)], RUNNER).disks[0]


def table_of(path: str, sector: int = 512) -> Table:
    table = read(path, sector).table
    assert table is not None
    return table


def bare(table: Table) -> Table:
    return replace(table, partitions=tuple(sorted(table.partitions, key=lambda part: part.number)))


def write(path: str, table: Table, size: int = SIZE, sector: int = 512) -> bool:
    action = WriteTable(disk="vda", path=path, table=table, disk_bytes=size, sector_bytes=sector)
    return write_table(action, RUNNER, MONITOR)


def scripts() -> dict[str, str]:
    wide = "label: gpt\ntable-length: 256\nfirst-lba: 2048\n\n200 : start=2048, size=2048\n3 : start=8192, size=2048\n"
    hole = "label: dos\nlabel-id: 0xcafebabe\n\n3 : start=2048, size=2048, type=83\n"
    crossed = (
        "label: dos\nlabel-id: 0x1\n\n3 : start=2048, size=2048, type=83\n2 : start=20480, size=100000, type=f\n"
        "5 : start=80000, size=20480, type=83\n6 : start=40960, size=20480, type=83\n"
    )
    tight = (
        "label: dos\nlabel-id: 0x2\n\n1 : start=63, size=20417, type=83, bootable\n"
        "3 : start=20480, size=100000, type=f\n"
        "5 : start=20543, size=20417, type=82\n6 : start=41023, size=2048, type=83\n"
    )
    empty = "label: gpt\n"
    bodies = (gpt_script(), DOS_SCRIPT, wide, hole, crossed, tight, empty)
    return dict(zip(("gpt", "dos", "wide", "hole", "crossed", "tight", "empty"), bodies, strict=True))


@pytest.mark.parametrize("name", sorted(scripts()))
@pytest.mark.parametrize("sector", [512, 4096])
def test_table_comes_back_identical(tmp_path: Path, name: str, sector: int) -> None:
    script = gpt_script(sector) if name == "gpt" else scripts()[name]
    size = SIZE * (sector // 512)  # the scripts count in sectors
    source, target = blank(tmp_path / "source", size), blank(tmp_path / "target", size)
    with attach(source, sector_bytes=sector, read_only=False, runner=RUNNER) as node:
        partition(node, script)
    wanted = table_of(source, sector)
    assert write(target, wanted, size, sector) is True
    assert bare(table_of(target, sector)) == bare(wanted)
    before = os.stat(target)
    assert write(target, wanted, size, sector) is False
    assert os.stat(target).st_mtime_ns == before.st_mtime_ns


def test_over_an_old_filesystem_and_an_old_table(tmp_path: Path) -> None:
    wanted = table_of(partition(blank(tmp_path / "source", SIZE), DOS_SCRIPT))
    target = blank(tmp_path / "target", SIZE)
    tool("mkfs.ext4", "-q", target)
    assert write(target, wanted)
    assert bare(table_of(target)) == bare(wanted)
    partition(target, gpt_script())
    assert write(target, wanted)
    assert bare(table_of(target)) == bare(wanted)


def test_larger_disk_gets_its_backup_at_its_end(tmp_path: Path) -> None:
    source = partition(blank(tmp_path / "source", SIZE), gpt_script())
    wanted = table_of(source)
    os.truncate(source, 2 * SIZE)
    assert write(source, wanted, 2 * SIZE) is True
    assert write(source, wanted, 2 * SIZE) is False
    with open(source, "rb") as file:
        file.seek(2 * SIZE - 512)
        assert file.read(8) == b"EFI PART"


@pytest.mark.parametrize("offset", [0, 512, 1024, SIZE - 512, SIZE - 33 * 512])
def test_torn_table_is_repaired_by_a_second_run(tmp_path: Path, offset: int) -> None:
    """After a power failure any sector may be old, new or neither."""
    target = partition(blank(tmp_path / "target", SIZE), gpt_script())
    wanted = table_of(target)
    other = partition(blank(tmp_path / "other", SIZE), gpt_script().replace("4c1e1d3a", "5c1e1d3a"))
    for data in (os.urandom(512), Path(other).read_bytes()[offset : offset + 512]):
        with open(target, "r+b") as file:
            file.seek(offset)
            file.write(data)
        write(target, wanted)
        assert bare(table_of(target)) == bare(wanted)


def test_kernel_sees_the_new_partitions(tmp_path: Path) -> None:
    wanted = table_of(partition(blank(tmp_path / "source", SIZE), gpt_script()))
    target = partition(blank(tmp_path / "target", SIZE), DOS_SCRIPT)
    with attach(target, read_only=False, partitions=True, runner=RUNNER) as node:
        rdev = facts_of(node).rdev
        assert rdev is not None
        assert sorted(partition_nodes(rdev)) == [1, 2, 4, 5, 6]
        assert write(node, wanted) is True
        places = {number: (start, size) for number, (_, start, size) in partition_nodes(rdev).items()}
        assert places == {part.number: (part.start_bytes, part.size_bytes) for part in wanted.partitions}
        assert write(node, wanted) is False


def test_disk_in_use_is_refused(tmp_path: Path) -> None:
    wanted = table_of(partition(blank(tmp_path / "source", SIZE), gpt_script()))
    target = partition(blank(tmp_path / "target", SIZE), DOS_SCRIPT)
    where = tmp_path / "mnt"
    where.mkdir()
    with attach(target, read_only=False, partitions=True, runner=RUNNER) as node:
        tool("mkfs.ext4", "-q", f"{node}p1")
        tool("mount", f"{node}p1", str(where))
        try:
            with pytest.raises(TargetError, match="in use"):
                write(node, wanted)
        finally:
            tool("umount", str(where))
        assert table_of(node).kind is TableKind.DOS


def test_size_that_changed_since_the_plan_is_refused(tmp_path: Path) -> None:
    wanted = table_of(partition(blank(tmp_path / "source", SIZE), gpt_script()))
    with pytest.raises(TargetError, match="not the size"):
        write(blank(tmp_path / "target", SIZE // 2), wanted)


def test_table_that_reads_back_otherwise_is_an_error(tmp_path: Path) -> None:
    """libfdisk cannot set reserved attribute bits; if a plan asked for them, it must not pass silently."""
    wanted = table_of(partition(blank(tmp_path / "source", SIZE), gpt_script()))
    odd = replace(wanted, partitions=(replace(wanted.partitions[0], attrs=1 << 5), *wanted.partitions[1:]))
    with pytest.raises(WriteError, match="reads back"):
        write(blank(tmp_path / "target", SIZE), odd)


@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize("uuid", ["d5b7b9a0-8f4e-4a8a-9a53-0123456789ab", ""])
def test_swap_has_its_old_names(tmp_path: Path, sector: int, uuid: str) -> None:
    path = blank(tmp_path / "disk", SIZE)
    action = MakeSwap(
        disk="vda", path=path, partition=3, uuid=uuid, label="swäp", offset_bytes=40 * MIB, size_bytes=20 * MIB,
        sector_bytes=sector,
    )  # fmt: skip
    assert make_swap(action, RUNNER, MONITOR) is True
    seen = tool("blkid", "--probe", "--offset", str(40 * MIB), "--output", "udev", path)
    assert "ID_FS_TYPE=swap" in seen and f"ID_FS_UUID={uuid}" in seen + "\nID_FS_UUID=" and "ID_FS_LABEL=swäp" in seen
    assert make_swap(action, RUNNER, MONITOR) is False
    assert make_swap(msgspec.structs.replace(action, size_bytes=30 * MIB), RUNNER, MONITOR) is True
    data = Path(path).read_bytes()
    assert not any(data[: 40 * MIB]) and not any(data[40 * MIB + 4096 :])


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
@pytest.mark.parametrize("sector", [512, 4096])
def test_filesystem_grows_to_fill_its_partition(tmp_path: Path, kind: str, sector: int) -> None:
    path, old, new = blank(tmp_path / "disk", 900 * MIB), 330 * MIB, 800 * MIB
    with attach(
        path, offset_bytes=8 * MIB, size_bytes=old, sector_bytes=sector, read_only=False, runner=RUNNER
    ) as node:
        tool(f"mkfs.{kind}", "-q", node)
    action = GrowFilesystem(
        volume="vda-part1", disk="vda", path=path, type=kind, offset_bytes=8 * MIB, from_bytes=old, to_bytes=new,
        sector_bytes=sector,
    )  # fmt: skip
    check = {"ext4": ["e2fsck", "-f", "-n"], "xfs": ["xfs_repair", "-n"], "btrfs": ["btrfs", "check"]}[kind]
    for _twice in range(2):
        grow_filesystem(action, RUNNER, MONITOR)
        with attach(path, offset_bytes=8 * MIB, size_bytes=new, sector_bytes=sector, runner=RUNNER) as node:
            tool(*check, node)
            content = read(node, sector).content
        assert content.size_bytes == new


def test_old_tables_are_cleared_for_a_bare_filesystem(tmp_path: Path) -> None:
    for script in (gpt_script(), DOS_SCRIPT):
        path = partition(blank(tmp_path / "disk", SIZE), script)
        action = ClearTable(disk="vda", path=path, sector_bytes=512)
        assert clear_table(action, RUNNER, MONITOR) is True
        assert read(path).table is None
        assert clear_table(action, RUNNER, MONITOR) is False


@pytest.mark.parametrize("how", ["zero", "discard"])
def test_space_outside_partitions_is_cleared_and_nothing_else(tmp_path: Path, how: str) -> None:
    path = blank(tmp_path / "disk", 8 * MIB)
    Path(path).write_bytes(b"x" * 8 * MIB)
    ranges = ((MIB, 2 * MIB), (5 * MIB, 5 * MIB + 4096))
    action = ClearSpace(disk="vda", path=path, how=how, ranges=ranges, sector_bytes=512)
    clear_space(action, RUNNER, MONITOR)
    data = Path(path).read_bytes()
    assert data.count(b"x") == 7 * MIB - 4096 and not any(data[MIB : 2 * MIB])
    with attach(path, read_only=False, runner=RUNNER) as node:
        clear_range(node, 6 * MIB, MIB, how, RUNNER)
    data = Path(path).read_bytes()
    assert data.count(b"x") == 6 * MIB - 4096 and not any(data[6 * MIB : 7 * MIB])
