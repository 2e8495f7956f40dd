"""A freeze always ends: when the program is killed in it, when it takes too long, and when all goes well."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import SourceError
from core.run import SystemRunner
from imager.hold.freeze import Ward, freeze, guarded, thaw
from imager.hold.hooks import POST_THAW, PRE_FREEZE, Hooks, executables

pytestmark = pytest.mark.block
ROOT = Path(__file__).resolve().parents[3]
CHILD = """
import sys, time
from imager.hold.freeze import Ward, guarded
from imager.hold.hooks import Hooks
with guarded(Ward((sys.argv[1],), 60, hooks=Hooks(sys.argv[2], 10), image="IMAGE")) as guard:
    guard.freeze([sys.argv[1]])
    print("frozen", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A mounted ext4 of its own."""
    image, folder = tmp_path / "fs.img", tmp_path / "mnt"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", folder], capture_output=True)
        for _ in range(50):  # a guard that has done its work may not have ended yet, and has it open
            if subprocess.run(["umount", folder], capture_output=True).returncode == 0:
                break
            time.sleep(0.1)
        assert not folder.is_mount()


def _written(place: Path) -> threading.Event:
    """Set once a write has come through."""
    done = threading.Event()

    def write() -> None:
        (place / "written").write_bytes(b"x")
        done.set()

    threading.Thread(target=write, daemon=True).start()
    return done


def _hook(folder: Path, phase: str, text: str, name: str = "10-test") -> Path:
    (folder / f"{phase}.d").mkdir(parents=True, exist_ok=True)
    path = folder / f"{phase}.d" / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_writers_wait_and_go_on(place: Path) -> None:
    with guarded(Ward((str(place),), 30)) as guard:
        guard.freeze([str(place)])
        done = _written(place)
        assert not done.wait(0.5)
    assert done.wait(10) and not guard.late


def test_killed_in_a_freeze(place: Path, tmp_path: Path) -> None:
    """SIGKILL: the guard thaws, and the hooks that undo what the ones before the freeze did are run."""
    _hook(tmp_path / "hooks", POST_THAW, f'echo "$1 $2" > {tmp_path}/undone')
    argv = [sys.executable, "-c", CHILD, str(place), str(tmp_path / "hooks")]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=ROOT)
    assert child.stdout is not None and child.stdout.readline() == b"frozen\n"
    done = _written(place)
    assert not done.wait(0.5)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert done.wait(20)
    deadline = time.monotonic() + 20
    while not (tmp_path / "undone").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (tmp_path / "undone").read_text() == "post-thaw IMAGE\n"


def test_a_freeze_has_a_limit(place: Path) -> None:
    with guarded(Ward((str(place),), 1)) as guard:
        guard.freeze([str(place)])
        assert _written(place).wait(20)
    assert guard.late


def test_the_guard_asks_nothing_of_what_is_frozen(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Met in the lab: it resumed devices by a tool, and the first tool's temporary folder was on the suspended root."""
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    with guarded(Ward((), 1, devices=("none-of-this-name",))) as guard:
        handle = os.open(place, os.O_RDONLY)
        assert freeze(str(place), handle)
        rescue = threading.Timer(40, thaw, [handle])  # else a guard that waits for itself could not even be killed
        rescue.start()
        time.sleep(2)
    assert guard.late and rescue.is_alive()
    rescue.cancel()
    os.close(handle)


def test_what_somebody_else_froze_is_not_ours(place: Path) -> None:
    subprocess.run(["fsfreeze", "--freeze", place], check=True)
    with pytest.raises(SourceError, match="frozen already"), guarded(Ward((str(place),), 30)) as guard:
        guard.freeze([str(place)])
    subprocess.run(["fsfreeze", "--unfreeze", place], check=True)  # it still was


def test_hooks_run_by_name_and_failing_ones_are_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    _hook(tmp_path, PRE_FREEZE, f"echo second >> {log}", "20-b")
    _hook(tmp_path, PRE_FREEZE, f"echo first >> {log}; echo no >&2; exit 3", "10-a")
    _hook(tmp_path, PRE_FREEZE, "sleep 30", "30-slow")
    _hook(tmp_path, PRE_FREEZE, f"echo never >> {log}", "40-old~")
    _hook(tmp_path, PRE_FREEZE, f"echo never >> {log}", "50-plain").chmod(0o644)
    problems = Hooks(str(tmp_path), 1).run(PRE_FREEZE, "IMAGE", SystemRunner())
    assert log.read_text() == "first\nsecond\n"
    assert len(problems) == 2 and "10-a" in problems[0] and problems[0].endswith(": no") and "30-slow" in problems[1]
    assert Hooks(str(tmp_path), 1).run(POST_THAW, "IMAGE", SystemRunner()) == []
    _hook(tmp_path, PRE_FREEZE, "true", "60-open").chmod(0o777)
    with pytest.raises(SourceError, match="anybody can write"):
        executables(tmp_path / "pre-freeze.d")
    assert os.geteuid() == 0
