"""The file driver under kill -9: a child in the middle of a put is killed, at known points and at drawn moments."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.errors import ObjectMissingError
from imager.sites.file import FileSite

pytestmark = pytest.mark.block

CHILD = Path(__file__).with_name("crash_child.py")
NAME = "servers/a/packs/x"
MIB = 1 << 20


def start(root: Path, mib: int, draft: str, point: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(CHILD.parents[3]), "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [sys.executable, str(CHILD), str(root), str(mib), draft, point]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment)


def check_after(root: Path, mib: int, *, visible: bool | None) -> bool:
    """The object is there whole or not at all (None: either); another run can put it. Gives whether it was there."""
    site = FileSite("de", root)
    there = [info.name for info in site.list()] == ["servers/a/0", NAME]
    assert visible in (None, there)
    if there:
        assert site.get(NAME) == b"\xa5" * (mib * MIB)
    else:
        assert [info.name for info in site.list()] == ["servers/a/0"]
        with pytest.raises(ObjectMissingError):
            site.stat(NAME)
        site.put(NAME, [b"the next run"])
        assert site.get(NAME) == b"the next run"
    site.close()
    return there


@pytest.mark.parametrize("draft", ["unnamed", "named"])
@pytest.mark.parametrize(
    ("point", "visible"),
    [
        ("mkdir:1", False),  # the new folder
        ("fsync:1", False),  # made, not durable
        ("pwrite:1", False),
        ("pwrite:2", False),
        ("pwrite:7", False),
        ("fsync:2", False),  # the whole body is written
        ("posix_fadvise:1", False),
        ("link:1", False),  # durable, without a name
        ("fsync:3", True),  # named; the folder not yet fsynced
    ],
)
def test_killed_at_a_known_point(tmp_path: Path, draft: str, point: str, visible: bool) -> None:
    with start(tmp_path, 8, draft, point) as child:
        assert child.stdout is not None
        assert child.stdout.read() == b"go\n"
        assert child.wait(30) == -signal.SIGKILL
    left = os.listdir(tmp_path / ".tmp") if draft == "named" else []
    assert bool(left) is (draft == "named" and point not in ("mkdir:1", "fsync:1"))
    check_after(tmp_path, 8, visible=visible)


@pytest.mark.parametrize("draft", ["unnamed", "named"])
def test_killed_at_drawn_moments(tmp_path: Path, draft: str) -> None:
    draw = random.Random(11)
    ended = {True: 0, False: 0}
    for number in range(10):
        root = tmp_path / str(number)
        root.mkdir()
        with start(root, 96, draft, "never") as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"go\n"
            time.sleep(draw.uniform(0, 0.06))
            child.kill()
            child.wait(30)
        ended[check_after(root, 96, visible=None)] += 1
    assert ended[False], "every put had ended before its kill: the object is too small for this machine"


def test_what_kills_left_is_swept_a_day_later(tmp_path: Path, no_tmpfile: None) -> None:
    with start(tmp_path, 8, "named", "pwrite:3") as child:
        assert child.wait(30) == -signal.SIGKILL
    (left,) = (tmp_path / ".tmp").iterdir()
    site = FileSite("de", tmp_path)
    for age, survives in ((80_000, True), (90_000, False)):
        os.utime(left, (0, time.time() - age))
        site.put(f"age/{age}", [b"1"])
        assert left.exists() is survives
