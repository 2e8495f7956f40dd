"""Fills an empty filesystem with the files of another. Imports `core`, `attributes` and `survey`."""

from __future__ import annotations

import contextlib
import os
import stat

from core.run import Runner
from hardware.trees.attributes import marks, set_marks, set_xattrs, xattrs
from hardware.trees.survey import entries

_DAYS = 7 * 24 * 3600.0


def fill(source: bytes, target: bytes, runner: Runner) -> None:
    """Everything from `source` into `target`, the folder itself included: cp copies (owners, modes, times, hard links,
    holes, devices), then follow the attributes and flags it leaves out. Raises ToolError or OSError."""
    if not os.path.lexists(os.path.join(source, b"lost+found")):
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(os.path.join(target, b"lost+found"))
    argv = ["cp", "--archive", "--no-target-directory", "--", os.fsdecode(source), os.fsdecode(target)]
    runner.run(argv, purpose="copy the files", timeout=_DAYS)
    for path, state in entries(source):
        copy = os.path.join(target, os.path.relpath(path, source))
        if (wanted := xattrs(path)) != (now := xattrs(copy)):
            set_xattrs(copy, wanted, now)
        if stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode):
            there = marks(path, state.st_mode)
            if there != marks(copy, state.st_mode):
                set_marks(copy, there)
