"""Loop devices go away whatever happens to the process that made them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.errors import SourceError
from hardware.attach import attach
from hardware.uses import uses_of
from tests.hardware.disks import MIB, RUNNER, blank, gpt_script, partition, tool

pytestmark = pytest.mark.block
CHILD = """
import sys, time
from core.run import SystemRunner
from hardware.attach import attach
with attach(sys.argv[1], read_only=False, partitions=True, runner=SystemRunner()) as node:
    print(node, flush=True)
    time.sleep(60)
"""


def backing(node: str) -> str:
    """What a loop device is attached to; empty when to nothing."""
    path = Path("/sys/block") / os.path.basename(node) / "loop/backing_file"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_killed_process_leaves_no_loop(tmp_path: Path, how: signal.Signals) -> None:
    path = blank(tmp_path / "disk", 100 * MIB)
    partition(path, gpt_script())
    root = str(Path(__file__).parents[2])
    with subprocess.Popen([sys.executable, "-c", CHILD, path], stdout=subprocess.PIPE, text=True, cwd=root) as child:
        assert child.stdout is not None
        node = child.stdout.readline().strip()
        assert backing(node) == path and Path(f"{node}p1").is_block_device()
        assert uses_of(path)
        child.send_signal(how)
        child.wait(10)
    deadline = time.monotonic() + 5
    while backing(node) == path and time.monotonic() < deadline:
        time.sleep(0.02)
    assert backing(node) != path
    assert uses_of(path) == ()


def test_gone_when_the_block_is_left_also_by_an_error(tmp_path: Path) -> None:
    path = blank(tmp_path / "disk", 8 * MIB)
    with pytest.raises(ZeroDivisionError), attach(path, runner=RUNNER) as node:
        assert backing(node) == path
        raise ZeroDivisionError
    assert backing(node) != path


def test_range_sectors_and_writing(tmp_path: Path) -> None:
    path = blank(tmp_path / "disk", 8 * MIB)
    with attach(path, offset_bytes=MIB, size_bytes=2 * MIB, sector_bytes=4096, read_only=False, runner=RUNNER) as node:
        assert tool("blockdev", "--getss", "--getsize64", "--getro", node).split() == ["4096", str(2 * MIB), "0"]
        with open(node, "r+b") as file:
            file.write(b"here")
    assert Path(path).read_bytes()[MIB : MIB + 4] == b"here"
    with attach(path, runner=RUNNER) as node:
        assert tool("blockdev", "--getro", node).strip() == "1"
        with pytest.raises(PermissionError), open(node, "r+b", buffering=0) as file:
            file.write(bytes(512))


def test_somebody_still_using_it_is_waited_for(tmp_path: Path) -> None:
    path = blank(tmp_path / "disk", 8 * MIB)
    with attach(path, runner=RUNNER) as node, open(node, "rb") as stdin:
        other = subprocess.Popen(["sleep", "1"], stdin=stdin)
    assert backing(node) != path and other.wait(5) == 0


def test_range_beyond_the_end_is_refused(tmp_path: Path) -> None:
    path = blank(tmp_path / "disk", MIB)
    with pytest.raises(SourceError), attach(path, size_bytes=2 * MIB, runner=RUNNER):
        pass
