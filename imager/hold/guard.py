"""The guard: a process of its own that undoes a freeze when the program that made it cannot.

It waits for `done` on its stdin. The end of the pipe without it means that the program is dead: thaw, resume, run the
hooks that follow a thaw. A time limit that passes first: thaw, and say so. Started by `imager.hold.freeze`; imports
`core.run` and `imager.hold.hooks`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import sys
import tempfile
import time
from collections.abc import Sequence

from core.errors import RefloatError
from core.run import Runner, SystemRunner
from imager.hold.hooks import POST_THAW, Hooks

_FITHAW = 0xC0045878
#: A snapshot that LVM is making goes on without the program; only then what is left suspended is resumed.
_GRACE_SECONDS = 10


def main() -> None:
    """Run with the order (JSON) as last argument."""
    # a terminal's Ctrl-C, a service manager's stop: the guard goes last
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    order = json.loads(sys.argv[-1])
    # found by writing to it: once that is frozen, this process would wait for itself
    tempfile.gettempdir()
    handles = [os.open(where, os.O_RDONLY | os.O_CLOEXEC) for where in order["mounts"]]
    os.write(1, b"ready\n")
    word = _wait(order["limit"])
    if word == b"done\n":
        return
    runner = SystemRunner()
    _thaw(handles)
    if word == b"late":
        _resume(order["devices"], runner)
        with contextlib.suppress(OSError):
            os.write(1, b"late\n")
        if _wait(None) == b"done\n":
            return
    _resume(order["devices"], runner)
    if order["image"] and order["hooks"]:
        with contextlib.suppress(RefloatError):
            Hooks(*order["hooks"]).run(POST_THAW, order["image"], runner)


def _wait(limit: float | None) -> bytes:
    """What came: `done`, nothing at the pipe's end, or `late`."""
    ready, _, _ = select.select([0], [], [], limit)
    return os.read(0, 64) if ready else b"late"


def _thaw(handles: Sequence[int]) -> None:
    for handle in handles:
        with contextlib.suppress(OSError):  # EINVAL: it is not frozen
            fcntl.ioctl(handle, _FITHAW, 0)


def _resume(devices: Sequence[str], runner: Runner) -> None:
    deadline = time.monotonic() + _GRACE_SECONDS
    todo = list(devices)
    while todo:
        with contextlib.suppress(RefloatError):
            argv = ["dmsetup", "info", "--columns", "--noheadings", "--separator", " ", "-o", "name,suspended"]
            rows = runner.run(argv, purpose="see what is suspended").text.split("\n")
            todo = [name for name in todo if f"{name} Suspended" in rows]
        if todo and time.monotonic() > deadline:
            for name in todo:
                with contextlib.suppress(RefloatError):
                    runner.run(["dmsetup", "resume", name], purpose=f"resume {name}")
            return
        time.sleep(0.5 if todo else 0)
