"""Snapshots that no run needs any more, and those that a thin pool cannot bear any longer: removed.

Lives as long as a run. May import `imager`, `core`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from appliance.tracking import Tracking
from core.errors import RefloatError, ToolError
from core.monitor import Monitor
from core.run import Runner
from imager.hold import crypts, lvm


def sweep_snapshots(server_id: bytes, keep: frozenset[str], runner: Runner) -> list[str]:
    """Remove what killed runs left: opened containers, and this server's snapshots but those whose UUID is in `keep`.
    The names of those removed; nothing where there is no LVM."""
    if not lvm.is_there():
        return []
    crypts.sweep(runner)
    stale = [each for each in lvm.our_snapshots(server_id, runner) if each.uuid not in keep]
    for each in stale:
        lvm.remove(each, runner)
    return [each.full_name for each in stale]


@contextlib.contextmanager
def sweeping(server_id: bytes, tracking: Tracking, runner: Runner, monitor: Monitor) -> Iterator[None]:
    """Around a run: what a killed one left goes before it, what only the run before had needed after it. A thin pool
    that is nearly full, before or because of it, gets back what the change tracking keeps there."""
    _give_up_full(server_id, tracking, runner, monitor, tight=False)
    removed = sweep_snapshots(server_id, tracking.uuids, runner)
    if removed:
        monitor.step(f"removed snapshots that nobody needs: {', '.join(removed)}")
    try:
        yield
    except RefloatError:
        with contextlib.suppress(RefloatError):
            _give_up_full(server_id, tracking, runner, monitor, tight=True)
            sweep_snapshots(server_id, tracking.uuids, runner)
        raise
    try:
        sweep_snapshots(server_id, tracking.uuids, runner)
    except ToolError as error:  # it stays until the next run
        monitor.warn(error.message)


def _give_up_full(server_id: bytes, tracking: Tracking, runner: Runner, monitor: Monitor, *, tight: bool) -> None:
    for pool in tracking.give_up_full(server_id, runner, tight=tight):
        monitor.warn(f"thin pool {pool} is nearly full: the snapshots that were kept there are given up")
