"""Paths and their maps: what leads to one disk, what device-mapper answers, and that only the map is a disk."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from core.errors import SourceError, TargetError, WriteError
from core.layout import Partition, Table, TableKind
from core.run import Result, Runner
from hardware import facts, kernelview, multipath
from hardware.devmap import linear_start
from hardware.facts import Numbers, partition_nodes
from hardware.machine import Device, Inventory, UseKind, find_device
from hardware.multipath import Lead, lone_paths, lone_use, map_over, paths_of, whole_of

WWN = "0x600a0b8000123400"


@pytest.mark.parametrize(
    ("others", "lone"),
    [
        (Lead("/dev/sdb", WWN, "S1"), True),
        (Lead("/dev/sdb", WWN, ""), True),
        # the same serial, cloned or a filler, is not the same disk; nor is a name made of model and serial
        (Lead("/dev/sdb", "0x600a0b8000999900", "S1"), False),
        (Lead("/dev/sdb", "", "S1"), False),
        # USB bridges give one name to every disk in them, and some makers to every disk
        (Lead("/dev/sdb", WWN, "S1", "usb"), False),
        (Lead("/dev/sdb", WWN, "S2"), False),
    ],
)
def test_paths_share_a_world_wide_name(others: Lead, lone: bool) -> None:
    found = lone_paths([Lead("/dev/sda", WWN, "S1", "scsi"), others])
    assert found == ({"/dev/sda": ("/dev/sdb",), "/dev/sdb": ("/dev/sda",)} if lone else {})


@pytest.mark.parametrize("wwn", ["", "0x0000000000000000", "t10.ATA QEMU HARDDISK 1", "nvme.1b36-4e-51-00000001"])
def test_what_is_no_world_wide_name_joins_nothing(wwn: str) -> None:
    assert lone_paths([Lead("/dev/sda", wwn, "S1"), Lead("/dev/sdb", wwn, "S1")]) == {}


def test_a_path_that_multipath_tools_claim_is_one_though_it_is_the_last() -> None:
    found = lone_paths([Lead("/dev/sda", WWN, "S1", claimed=True), Lead("/dev/sdb", "0x5000c500a1234567", "S2")])
    assert found == {"/dev/sda": ()}
    use = lone_use("/dev/sda", ())
    assert use.kind is UseKind.PATH and "another" not in use.describe() and "only one path" in use.describe()


def test_naming_a_path_names_the_map() -> None:
    device = Device(
        path="/dev/mapper/mpatha", name="mpatha", size_bytes=1, serial="LUN", paths=("/dev/sdx1y", "/dev/sdy1y")
    )
    inventory = Inventory(firmware="bios", devices=(device,))
    with pytest.raises(TargetError, match="only one path to the disk /dev/mapper/mpatha") as caught:
        find_device(inventory, "/dev/sdx1y")
    assert "LUN" in (caught.value.hint or "")
    assert find_device(inventory, "LUN") == find_device(inventory, "/dev/mapper/mpatha") == device


def grow(sys: Path, name: str, numbers: str, place: str, **attributes: str) -> Path:
    """A device of a recorded sysfs."""
    folder = sys / "devices" / place
    for each in ("holders", "slaves", "dm"):
        (folder / each).mkdir(parents=True, exist_ok=True)
    for key, text in {"dev": numbers, "size": "2048", **attributes}.items():
        (folder / key.replace("__", "/")).write_text(text + "\n")
    for link in (sys / "dev/block" / numbers, sys / "block" / name):
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(folder)
    return folder


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A map (252:1) of sdb and sdc with a partition mapping and a volume on the whole of it; sdb1 is what the kernel
    found on a path."""
    sys = tmp_path / "sys"
    paths = {"sdb": grow(sys, "sdb", "8:16", "host0/sdb"), "sdc": grow(sys, "sdc", "8:32", "host1/sdc")}
    part = grow(sys, "sdb1", "8:17", "host0/sdb/sdb1", partition="1", start="2048")
    joined = grow(sys, "dm-1", "252:1", "virtual/dm-1", dm__uuid="mpath-3600a0b8", dm__name="mpatha")
    above = {
        "dm-2": ("252:2", "part1-mpath-3600a0b8", "mpatha-part1"),
        "dm-3": ("252:3", "part1-mpath-3600a0b8999", "mpathb-part1"),
        "dm-4": ("252:4", "LVM-abc", "vg0-root"),
    }
    for name, folder in paths.items():
        (joined / "slaves" / name).symlink_to(folder)
        (folder / "holders/dm-1").symlink_to(joined)
    for name, (numbers, uuid, label) in above.items():
        folder = grow(sys, name, numbers, f"virtual/{name}", dm__uuid=uuid, dm__name=label)
        (joined / "holders" / name).symlink_to(folder)
    assert part.exists()
    for module in (facts, multipath):
        monkeypatch.setattr(module, "SYS", sys)
    return sys


def test_a_map_and_its_paths(tree: Path) -> None:
    assert paths_of((252, 1)) == ("/dev/sdb", "/dev/sdc")
    assert map_over((8, 16)) == map_over((8, 32)) == "/dev/mapper/mpatha"
    assert map_over(whole_of((8, 17))) == "/dev/mapper/mpatha"
    assert map_over((252, 1)) is None


def test_partitions_of_a_map_are_told_by_uuid(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(mapping: Numbers, below: Numbers) -> int:
        assert below == (252, 1)
        return {(252, 2): 1 << 20}[mapping]

    monkeypatch.setattr(facts, "linear_start", asked)
    assert partition_nodes((252, 1)) == {1: ((252, 2), 1 << 20, 2048 * 512)}
    assert partition_nodes((8, 16)) == {1: ((8, 17), 2048 * 512, 2048 * 512)}


class Recorder:
    """A runner that takes mappings away and makes one, as the tools do."""

    def __init__(self, nodes: dict[int, tuple[Numbers, int, int]]) -> None:
        self.nodes, self.called = nodes, list[str]()

    def run(self, argv: Sequence[str], **_words: object) -> Result:
        self.called.append(" ".join(argv))
        if argv[0] == "dmsetup":
            self.nodes.pop(2)
        if argv[0] == "kpartx":
            self.nodes[1] = ((252, 2), 1 << 20, 4 << 20)
        return Result(tuple(argv), 0, b"", b"")


@pytest.mark.parametrize("empty", [False, True])
def test_partitions_of_a_map_are_mapped_again(tree: Path, monkeypatch: pytest.MonkeyPatch, empty: bool) -> None:
    grow(tree, "dm-9", "252:9", "virtual/dm-9", dm__uuid="part2-mpath-3600a0b8", dm__name="mpatha-part2")
    runner = Recorder({2: ((252, 9), 8 << 20, 1 << 20)})
    monkeypatch.setattr(kernelview, "partition_nodes", lambda _rdev: dict(runner.nodes))
    monkeypatch.setattr(kernelview, "settle", lambda _runner: None)
    part = Partition(number=1, start_bytes=1 << 20, size_bytes=4 << 20, type="83")
    table = None if empty else Table(kind=TableKind.DOS, id="0x1", partitions=(part,))
    disk = facts.Facts("/dev/dm-1", 1 << 30, 512, 512, False, (252, 1))
    kernelview.refresh(disk, table, cast("Runner", runner))
    assert runner.called == ["dmsetup remove --retry mpatha-part2"] + ["kpartx -u -s -p -part /dev/dm-1"] * (not empty)
    runner.nodes[7] = ((252, 9), 0, 512)
    monkeypatch.setattr(runner, "run", lambda argv, **_words: Result(tuple(argv), 0, b"", b""))
    with pytest.raises(WriteError, match="not mapped"):
        kernelview.refresh(disk, table, cast("Runner", runner))


@pytest.mark.parametrize(
    ("targets", "kind", "parameters", "start"),
    [
        (1, b"linear", b"252:1 2048", 2048 * 512),
        (1, b"linear", b"252:9 2048", None),
        (1, b"crypt", b"252:1 2048", None),
        (2, b"linear", b"252:1 2048", None),
        (0, b"", b"", None),
    ],
)
def test_where_a_mapping_begins(
    monkeypatch: pytest.MonkeyPatch, targets: int, kind: bytes, parameters: bytes, start: int | None
) -> None:
    def ioctl(_handle: int, request: int, buffer: bytearray) -> int:
        assert request == 0xC138FD0C and struct.unpack_from("=Q", buffer, 40) == ((252 << 8) | 2,)
        struct.pack_into("=II", buffer, 16, 312, targets)
        struct.pack_into("=QQiI16s", buffer, 312, 0, 4096, 0, 0, kind)
        buffer[352 : 352 + len(parameters)] = parameters
        return 0

    monkeypatch.setattr("hardware.devmap._CONTROL", "/dev/null")
    monkeypatch.setattr("fcntl.ioctl", ioctl)
    if start is None:
        with pytest.raises(SourceError, match="no partition"):
            linear_start((252, 2), (252, 1))
    else:
        assert linear_start((252, 2), (252, 1)) == start
