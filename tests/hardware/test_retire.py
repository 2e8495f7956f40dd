"""A twin loses its signatures, and what the report keeps brings it back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from core.errors import TargetError
from core.monitor import Monitor
from core.sizes import MIB
from hardware.actions import RetireTwin, Spot
from hardware.attach import attach
from hardware.retire import retire
from tests.hardware.disks import LINUX, RUNNER, blank, partition, tool

pytestmark = pytest.mark.block


def test_signatures_go_and_come_back_from_the_report(tmp_path: Path) -> None:
    path = blank(tmp_path / "disk", 64 * MIB)
    partition(path, f"label: gpt\n1: start=2048, size=61440, type={LINUX}\n2: start=63488, size=61440, type={LINUX}\n")
    with attach(path, read_only=False, partitions=True, runner=RUNNER) as node:
        for number in (1, 2):
            tool("mke2fs", "-q", "-t", "ext4", f"{node}p{number}")
        before = [Path(f"{node}p{number}").read_bytes() for number in (1, 2)]
        spot = Spot(path=node, number=1, offset_bytes=MIB, size_bytes=30 * MIB)
        action = RetireTwin(spot=spot, what="ext4 of vda-part2")
        lines = retire(action, RUNNER, Monitor())
        assert tool("wipefs", "--no-act", f"{node}p1") == "" and "ext4" in lines[0]
        assert Path(f"{node}p2").read_bytes() == before[1]
        differ = [at for at, byte in enumerate(Path(f"{node}p1").read_bytes()) if byte != before[0][at]]
        assert differ == [1080, 1081]
        assert retire(action, RUNNER, Monitor()) == []
        for line in lines:
            found = re.search(r"at byte (\d+), it was ([0-9a-f]+)$", line)
            assert found is not None
            with Path(f"{node}p1").open("r+b") as file:
                file.seek(int(found[1]))
                file.write(bytes.fromhex(found[2]))
        assert Path(f"{node}p1").read_bytes() == before[0]


def test_a_table_goes_after_its_partitions_and_its_bytes_stay(tmp_path: Path) -> None:
    path = blank(tmp_path / "disk", 64 * MIB)
    partition(path, f"label: gpt\n1: start=2048, size=61440, type={LINUX}\n")
    with attach(path, read_only=False, partitions=True, runner=RUNNER) as node:
        tool("mke2fs", "-q", "-t", "ext4", f"{node}p1")
        before = Path(node).read_bytes()
        lines = retire(RetireTwin(spot=Spot(path=node, size_bytes=64 * MIB), what="table"), RUNNER, Monitor())
        assert tool("wipefs", "--no-act", node) == "" and len(lines) == 3
        assert not Path(f"{node}p1").exists()
        after = Path(node).read_bytes()
        assert sum(one != other for one, other in zip(before, after, strict=True)) == 8 + 8 + 2


def test_what_is_mounted_is_not_retired(tmp_path: Path) -> None:
    path = blank(tmp_path / "disk", 32 * MIB)
    tool("mke2fs", "-q", "-t", "ext4", path)
    (tmp_path / "mnt").mkdir()
    with attach(path, read_only=False, runner=RUNNER) as node:
        tool("mount", node, str(tmp_path / "mnt"))
        try:
            with pytest.raises(TargetError, match="in use"):
                retire(RetireTwin(spot=Spot(path=node, size_bytes=32 * MIB), what="ext4"), RUNNER, Monitor())
        finally:
            tool("umount", node)
        assert "ext4" in tool("wipefs", "--no-act", node)
