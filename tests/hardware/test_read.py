"""Reading disks: tables and contents as they are, and nothing that is not sound."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import SourceError
from core.layout import Disk, Role, TableKind
from hardware.attach import attach
from hardware.read import DiskSource, disk_names, read_layout
from tests.hardware.disks import BIOS_BOOT, DOS_SCRIPT, ESP, LINUX, MIB, RUNNER, blank, gpt_script, partition, tool


def read(path: str, sector_bytes: int | None = None) -> Disk:
    return read_layout([DiskSource(path, sector_bytes=sector_bytes)], RUNNER).disks[0]


@pytest.fixture
def gpt(tmp_path: Path) -> str:
    return partition(blank(tmp_path / "vda.img", 100 * MIB), gpt_script())


def poke(path: str, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def test_names_are_safe_and_unique() -> None:
    assert disk_names(["sda", "a b/é.img", "sda", "../x", "...", "sda"]) == [
        "sda",
        "a_b_.img",
        "sda-2",
        "x",
        "disk",
        "sda-3",
    ]


@pytest.mark.block
def test_gpt_with_everything(gpt: str) -> None:
    with attach(gpt, offset_bytes=40 * MIB, size_bytes=48 * MIB, read_only=False, runner=RUNNER) as node:
        tool("mkfs.ext4", "-q", "-L", 'a "b" é', "-b", "1024", node)
    with attach(gpt, offset_bytes=2 * MIB, size_bytes=36 * MIB, read_only=False, runner=RUNNER) as node:
        tool("mkfs.vfat", "-n", "ESP", node)
    disk = read(gpt)
    assert disk.table is not None and disk.table.kind is TableKind.GPT
    assert (disk.table.id, disk.table.first_bytes, disk.table.entries) == (
        "4C1E1D3A-0000-4000-8000-000000000000",
        40 * 512,
        128,
    )
    parts = {part.number: part for part in disk.table.partitions}
    assert sorted(parts) == [1, 3, 14, 15]
    assert (parts[14].type, parts[14].attrs, parts[14].name) == (BIOS_BOOT, 1 << 2, "bios")
    assert (parts[15].type, parts[15].attrs, parts[15].name) == (ESP, 1 | 1 << 48 | 1 << 63, 'EFI "sys" \\ é $x')
    assert (parts[1].start_bytes, parts[1].size_bytes, parts[1].type) == (40 * MIB, 48 * MIB, LINUX)
    root = parts[1].content
    assert (root.type, root.label, root.size_bytes, root.block_bytes) == ("ext4", 'a "b" é', 48 * MIB, 1024)
    assert root.min_bytes is not None and root.used_bytes is not None
    assert 0 < root.used_bytes < root.min_bytes < 48 * MIB
    assert (parts[15].content.type, parts[15].content.sector_bytes) == ("vfat", 512)
    assert parts[3].content.type == ""


@pytest.mark.block
def test_dos_with_logical_partitions(tmp_path: Path) -> None:
    disk = read(partition(blank(tmp_path / "disk", 100 * MIB), DOS_SCRIPT))
    assert disk.table is not None and (disk.table.kind, disk.table.id) == (TableKind.DOS, "0x1234abcd")
    rows = [(part.number, part.role, part.type, part.active, part.start_bytes // 512) for part in disk.table.partitions]
    assert sorted(rows) == [
        (1, Role.PRIMARY, "83", True, 2048),
        (2, Role.EXTENDED, "5", False, 40960),
        (4, Role.PRIMARY, "c", False, 22528),
        (5, Role.LOGICAL, "82", False, 43008),
        (6, Role.LOGICAL, "83", False, 80000),
    ]
    assert {part.uuid for part in disk.table.partitions} >= {"1234abcd-01", "1234abcd-06"}


@pytest.mark.block
def test_4096_byte_sectors_on_a_file_and_a_device(tmp_path: Path) -> None:
    path = blank(tmp_path / "disk", 100 * MIB)
    with attach(path, sector_bytes=4096, read_only=False, runner=RUNNER) as node:
        partition(node, gpt_script(4096))
        by_device = read(node)
    by_file = read(path, 4096)
    assert by_file.table == by_device.table and by_file.sector_bytes == 4096
    assert by_file.table is not None and by_file.table.first_bytes == 40 * 4096
    with pytest.raises(SourceError) as caught:
        read(path)
    assert caught.value.hint == "for an image file, state sector_bytes = 4096"


@pytest.mark.block
@pytest.mark.parametrize("kind", ["ext2", "xfs", "btrfs", "vfat", "swap"])
def test_bare_filesystem(tmp_path: Path, kind: str) -> None:
    path = blank(tmp_path / "disk", 320 * MIB)
    tool(*(["mkswap", path] if kind == "swap" else [f"mkfs.{kind}", path]))
    disk = read(path)
    assert disk.table is None and disk.content.type == kind and disk.content.uuid
    if kind != "swap":
        assert 320 * MIB - 65536 <= disk.content.size_bytes <= 320 * MIB  # FAT leaves an incomplete track


@pytest.mark.block
def test_blank_disk_is_known_to_be_blank(tmp_path: Path) -> None:
    disk = read(blank(tmp_path / "disk", 8 * MIB))
    assert disk.table is None and disk.content.type == ""


@pytest.mark.block
def test_mounted_filesystem_promises_nothing(gpt: str, tmp_path: Path) -> None:
    where = tmp_path / "mnt"
    where.mkdir()
    with attach(gpt, offset_bytes=40 * MIB, size_bytes=48 * MIB, read_only=False, runner=RUNNER) as node:
        tool("mkfs.ext4", "-q", node)
        tool("mount", node, str(where))
        try:
            disk = read(gpt)
        finally:
            tool("umount", str(where))
    assert disk.table is not None
    (root,) = (part.content for part in disk.table.partitions if part.number == 1)
    assert root.type == "ext4" and root.min_bytes is None and root.used_bytes is None


SECTOR = 512
END = 100 * MIB


@pytest.mark.block
@pytest.mark.parametrize(
    ("offset", "data", "says"),
    [
        (SECTOR + 16, b"XXXX", "primary GPT is damaged"),
        (2 * SECTOR + 60, b"XXXX", "primary GPT is damaged"),
        (END - SECTOR, bytes(SECTOR), "backup GPT is damaged"),
        (END - 33 * SECTOR + 40, b"XXXX", "backup GPT is damaged"),
        (446 + 16 + 4, b"\x83", "hybrid"),
        (510, b"\0\0", "without a protective MBR"),
    ],
)
def test_damaged_gpt_is_an_error_with_a_hint(gpt: str, offset: int, data: bytes, says: str) -> None:
    poke(gpt, offset, data)
    with pytest.raises(SourceError, match=says) as caught:
        read(gpt)
    assert caught.value.hint


@pytest.mark.block
def test_two_valid_copies_that_disagree(gpt: str, tmp_path: Path) -> None:
    other = partition(blank(tmp_path / "other", END), gpt_script().replace(f"size={4 * 2048}", f"size={2 * 2048}"))
    with open(other, "rb") as file:
        file.seek(END - 33 * SECTOR)
        backup = file.read()
    poke(gpt, END - 33 * SECTOR, backup)
    with pytest.raises(SourceError, match="disagree"):
        read(gpt)


@pytest.mark.block
def test_two_kinds_of_signature(tmp_path: Path) -> None:
    path = blank(tmp_path / "disk", 128 * MIB)
    tool("mkfs.btrfs", "-q", path)
    tool("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "--wipe", "never", path, stdin=DOS_SCRIPT)
    with pytest.raises(SourceError, match="more than one kind"):
        read(path)


@pytest.mark.block
def test_broken_extended_chain(tmp_path: Path) -> None:
    path = partition(blank(tmp_path / "disk", 100 * MIB), DOS_SCRIPT)
    poke(path, 40960 * 512 + 510, b"\0\0")
    with pytest.raises(SourceError):
        read(path)


@pytest.mark.block
def test_enlarged_disk_is_read_as_it_is(gpt: str) -> None:
    blank(Path(gpt), 150 * MIB)
    disk = read(gpt)
    assert disk.size_bytes == 150 * MIB and disk.table is not None and len(disk.table.partitions) == 4


@pytest.mark.block
def test_what_is_no_disk(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="too small"):
        read(blank(tmp_path / "empty", 0))
    with pytest.raises(SourceError, match="cannot open"):
        read(str(tmp_path / "absent"))
    with pytest.raises(SourceError, match="neither"):
        read("/dev/null")
    path = blank(tmp_path / "twice", MIB)
    with pytest.raises(SourceError, match="twice"):
        read_layout([DiskSource(path), DiskSource(path)], RUNNER)
