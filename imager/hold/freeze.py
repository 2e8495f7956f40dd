"""Freezing filesystems from user space (FIFREEZE, ioctl_fs(2)) under a guard that thaws them whatever happens here.

A freeze holds writers, never readers. Imports `core`, `imager.hold.hooks`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from core.errors import SourceError
from core.run import Companion, start_companion
from imager.hold.hooks import Hooks

_FIFREEZE, _FITHAW = 0xC0045877, 0xC0045878  # linux/fs.h
DONE, LATE = b"done\n", b"late\n"


@dataclass(frozen=True)
class Ward:
    """What the guard undoes: `mounts` are thawed, `devices` (device-mapper names) resumed; then hooks, when
    `image` is given, are run. `limit_seconds` is how long anything may stay frozen."""

    mounts: tuple[str, ...]
    limit_seconds: float
    devices: tuple[str, ...] = ()
    hooks: Hooks | None = None
    image: str = ""


def freeze(where: str, handle: int) -> bool:
    """Freeze the filesystem of an open folder. False when somebody else has it frozen already."""
    try:
        fcntl.ioctl(handle, _FIFREEZE, 0)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        raise SourceError(f"{where} cannot be frozen: {error.strerror}", hint="is it still mounted?") from error
    return True


def thaw(handle: int) -> bool:
    """Thaw it. False when it was not frozen (any more)."""
    try:
        fcntl.ioctl(handle, _FITHAW, 0)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    return True


@dataclass
class Guarded:
    """What is frozen now. `late` after it: the guard's time limit came first, so that it was not frozen throughout."""

    handles: dict[str, int]
    frozen: list[str] = field(default_factory=list)
    late: bool = False

    def freeze(self, mounts: Sequence[str]) -> None:
        """Freeze these of the ward's mount points, in order. Raises SourceError."""
        for where in mounts:
            if not freeze(where, self.handles[where]):
                raise SourceError(
                    f"{where} is frozen already", hint=f"by another backup? `fsfreeze --unfreeze {where}` ends it"
                )
            self.frozen.append(where)

    def thaw(self) -> None:
        """Thaw all of them."""
        while self.frozen:
            if not thaw(self.handles[self.frozen.pop()]):
                self.late = True


@contextlib.contextmanager
def guarded(ward: Ward) -> Iterator[Guarded]:
    """A guard for the length of a block. It is another process: when this one dies, even by SIGKILL, it thaws, resumes
    and runs the hooks; when the time limit passes, it thaws."""
    with contextlib.ExitStack() as stack:
        handles: dict[str, int] = {}
        for where in ward.mounts:
            handles[where] = os.open(where, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, handles[where])
        guard = _start(ward)
        state = Guarded(handles)
        try:
            yield state
        finally:
            state.thaw()
            guard.send(DONE)
            state.late = guard.finish() == LATE or state.late


def _start(ward: Ward) -> Companion:
    """A fresh interpreter, not a fork: threads of this one may hold any lock. It says `ready` once it needs nothing
    from a disk any more."""
    code = f"import sys; sys.path[:] = {sys.path!r}; from imager.hold.guard import main; main()"
    order = json.dumps(
        {
            "mounts": ward.mounts, "devices": ward.devices, "limit": ward.limit_seconds, "image": ward.image,
            "hooks": [ward.hooks.folder, ward.hooks.seconds] if ward.hooks else [],
        }
    )  # fmt: skip
    guard = start_companion([sys.executable, "-c", code, order], purpose="start the guard of the freeze")
    if guard.receive() != b"ready\n":
        guard.finish()
        raise SourceError("the guard that would thaw the filesystems did not start", hint="see the system's log")
    return guard
