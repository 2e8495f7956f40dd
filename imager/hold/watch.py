"""Watching snapshots while they are read: a thick one that fills up is extended, or ends the run before it overflows;
so does a thin pool that fills up. Lives as long as the reading. Imports `core` and its neighbours.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence

from core.errors import RefloatError, SourceError
from core.run import Runner
from imager.hold import lvm

_POLL_SECONDS = 2.0
_EXTEND_AT, _GIVE_UP_AT = 0.70, 0.97
_POOL_DATA_MAX = 0.98


def overflowed(snapshot: lvm.Snapshot, why: str) -> SourceError:
    """The error for a thick snapshot that had no room for what was written meanwhile."""
    return SourceError(
        f"the snapshot of {snapshot.group}/{snapshot.origin} is of no use any more: {why}",
        hint="more was written than there was room for: make room in the volume group, raise image.snapshot_share, or "
        "image at a quieter hour; nothing was committed",
    )


class Watch:
    """The state of snapshots, looked at every two seconds by a thread of its own."""

    def __init__(self, snapshots: Sequence[lvm.Snapshot], most: Mapping[str, int], runner: Runner) -> None:
        """`most` (by LV name) is how large a snapshot may ever have to be, in bytes."""
        self._thick = [each for each in snapshots if each.thin_id is None]
        self._pools = sorted({(each.group, each.pool) for each in snapshots if each.thin_id is not None})
        self._most, self._runner = most, runner
        self._problem: RefloatError | None = None
        self._end, self._one = threading.Event(), threading.Lock()
        self._last: dict[str, float] = {}
        self.extended: list[str] = []

    def check(self, last: bool = False) -> None:
        """Raise what went wrong. `last`: ask once more now; nothing may be committed before that."""
        if last:
            self._look()
        if self._problem is not None:
            raise self._problem

    def _look(self) -> None:
        try:
            with self._one:
                fills = lvm.snapshot_fills(self._runner) if self._thick else {}
                for snapshot in self._thick:
                    self._judge(snapshot, fills.get(snapshot.node, lvm.Fill(broken="gone")))
                for group, pool in self._pools:
                    self._judge_pool(group, pool)
        except RefloatError as error:
            self._problem = self._problem or error

    def _judge_pool(self, group: str, pool: str) -> None:
        """A full pool stops the server's own writes: the snapshots that make them cost room go before that."""
        fill = lvm.pool_fill(group, pool, self._runner)
        if fill.state or self._ahead(f"{group}/{pool}", fill.data) > _POOL_DATA_MAX:
            state = f", {fill.state}" if fill.state else ""
            raise SourceError(
                f"thin pool {group}/{pool} is about to be full: data {fill.data:.0%}{state}",
                hint="extend it (lvextend), or image at a quieter hour; the snapshots are removed now, and nothing was "
                "committed",
            )

    def _judge(self, snapshot: lvm.Snapshot, fill: lvm.Fill) -> None:
        if fill.broken:
            raise overflowed(snapshot, fill.broken)
        ahead = self._ahead(snapshot.full_name, fill.share)
        if ahead > _EXTEND_AT and not self._extend(snapshot, fill) and fill.share > _GIVE_UP_AT:
            raise SourceError(
                f"the snapshot of {snapshot.group}/{snapshot.origin} is full, and its volume group has no more room",
                hint="vgextend, or image at a quieter hour; nothing was committed",
            )

    def _ahead(self, name: str, share: float) -> float:
        """How full it will be two looks from now if it goes on as since the last one."""
        growth = max(0.0, share - self._last.get(name, share))
        self._last[name] = share
        return share + 2 * growth

    def _extend(self, snapshot: lvm.Snapshot, fill: lvm.Fill) -> bool:
        """Add half as much again, as far as the group has it."""
        size = fill.total * 512
        room = lvm.rooms(self._runner)[snapshot.group]
        want = min(max(size // 2, room.extent_bytes), self._most.get(snapshot.name, size) - size, room.free_bytes)
        want = want // room.extent_bytes * room.extent_bytes
        if want <= 0:
            return False
        lvm.extend(snapshot.group, snapshot.name, want, self._runner)
        self.extended.append(snapshot.name)
        return True

    def _run(self) -> None:
        while self._problem is None:
            self._look()
            if self._end.wait(_POLL_SECONDS):
                break

    @contextlib.contextmanager
    def running(self) -> Iterator[Watch]:
        """Watch for the length of a block."""
        thread = threading.Thread(target=self._run, name="watch snapshots")
        thread.start()
        try:
            yield self
        finally:
            self._end.set()
            thread.join()
