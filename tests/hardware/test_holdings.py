"""A used disk never looks like a blank one, and an unreadable one never looks empty."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardware.attach import attach
from hardware.holdings import NOTHING, holdings
from tests.hardware.disks import MIB, RUNNER, blank, gpt_script, partition, tool

pytestmark = pytest.mark.block


@pytest.mark.parametrize("sector", [512, 4096])
def test_table_and_partitions(tmp_path: Path, sector: int) -> None:
    path = blank(tmp_path / "disk", 100 * MIB)
    with attach(path, sector_bytes=sector, read_only=False, runner=RUNNER) as node:
        partition(node, gpt_script(sector))
    with attach(
        path, offset_bytes=40 * MIB, size_bytes=48 * MIB, sector_bytes=sector, read_only=False, runner=RUNNER
    ) as node:
        tool("mkfs.ext4", "-q", "-L", "pay roll", node)
    first, *parts = holdings(path, RUNNER, sector_bytes=sector)
    assert first == "GPT with 4 partitions"
    assert parts[0] == f"partition 14 (bios), 1.0 MiB: {NOTHING}"
    assert parts[2] == "partition 1, 48.0 MiB: ext4 'pay roll'"


def test_without_a_table(tmp_path: Path) -> None:
    path = blank(tmp_path / "disk", 16 * MIB)
    assert holdings(path, RUNNER) == [NOTHING]
    tool("mkfs.ext4", "-q", "-L", "root", path)
    assert holdings(path, RUNNER) == ["ext4 'root' without a table"]


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    path = blank(tmp_path / "disk", 100 * MIB)
    partition(path, gpt_script())
    with open(path, "r+b") as file:
        file.seek(512)
        file.write(bytes(512))
    (line,) = holdings(path, RUNNER)
    assert line.startswith("cannot be read: ") and "primary GPT" in line
    (line,) = holdings(str(tmp_path / "absent"), RUNNER)
    assert line.startswith("cannot be read: ")
