"""Takes the signatures off a twin, so that nothing finds it by name any more; a record of every byte is kept.

Imports `core` and `hardware.{actions,apply,attach,facts,kernelview,stack}`.
"""

from __future__ import annotations

import json
import os

from core.errors import FormatError, TargetError, WriteError
from core.monitor import Monitor
from core.run import Runner
from hardware.actions import RetireTwin
from hardware.apply import is_claimed_for_partitions
from hardware.attach import settle
from hardware.facts import facts_of, read_range
from hardware.kernelview import refresh
from hardware.stack.build import spot_path


def retire(action: RetireTwin, runner: Runner, monitor: Monitor) -> list[str]:
    """What was taken off, a line for each signature with its bytes in hex: written back, they bring the twin back.

    Raises TargetError when the device is in use, WriteError when it cannot be written to.
    """
    path = spot_path(action.spot)
    monitor.step(action.describe())
    found = [(at, read_range(path, at, size), kind) for at, size, kind in _signatures(path, runner)]
    told = [f"{path}: {kind} taken off at byte {at}, it was {data.hex()}" for at, data, kind in found]
    for line in told:
        monitor.step(line)  # before it is done: nobody may be left to say it afterwards
    exclusive = 0 if is_claimed_for_partitions(path) else os.O_EXCL
    try:
        handle = os.open(path, os.O_RDWR | exclusive | os.O_CLOEXEC)
    except OSError as error:
        raise TargetError(f"{path} is in use now: {error.strerror}", hint="see who: lsblk, fuser -v") from error
    try:
        for at, data, _kind in found:
            os.pwrite(handle, bytes(len(data)), at)
        os.fsync(handle)
    except OSError as error:
        raise WriteError(f"cannot write to {path}: {error.strerror}", path=path) from error
    finally:
        os.close(handle)
    if not action.spot.number:
        refresh(facts_of(path), None, runner)  # the partitions of a table that is gone
    settle(runner)
    if left := _signatures(path, runner):
        raise WriteError(f"{path} still has signatures: {', '.join(kind for _at, _size, kind in left)}", path=path)
    return told


def _signatures(path: str, runner: Runner) -> list[tuple[int, int, str]]:
    """(offset, length, type) of each; wipefs(8) sees also those that a newer one hides."""
    argv = ["wipefs", "--no-act", "--json", "--output", "OFFSET,LENGTH,TYPE", path]
    text = runner.run(argv, purpose=f"see the signatures on {path}").text
    try:
        rows = json.loads(text or "{}").get("signatures", [])
        return [(int(str(row["offset"]), 0), int(row["length"]), str(row["type"])) for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"wipefs says what cannot be read: {text[:200]!r}") from error
