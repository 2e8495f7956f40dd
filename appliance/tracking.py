"""Change tracking of a run: which kept snapshot is the state of each site's parent, and which are kept for the next.

Lives as long as a run. May import `imager`, `core`.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from core.monitor import Monitor
from core.run import Runner
from imager.hold import lvm
from imager.hold.bases import Base, Bases, Tracked, still_wanted
from imager.hold.decide import Facts
from imager.hold.window import too_full
from imager.repository.capture import SiteResult
from imager.repository.lineage import SiteState
from imager.volumes import Volume

#: A kept snapshot costs its pool what is overwritten until the next night.
_KEEP_BELOW = 0.85


@dataclass
class Tracking:
    """`thin` and `thick`: whether snapshots of that kind are kept between runs. `why_not` collects, by volume, why one
    is read in full."""

    folder: Path
    thin: bool
    thick: bool
    states: Sequence[SiteState] = ()
    why_not: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._bases = Bases(self.folder)
        self._kept: dict[str, tuple[lvm.Snapshot, Facts]] = {}

    @property
    def uuids(self) -> frozenset[str]:
        """The snapshots that are kept now."""
        return self._bases.uuids

    def give_up_full(self, server_id: bytes, runner: Runner, *, tight: bool = False) -> list[str]:
        """Forget what is kept in thin pools that are too full to snapshot, or too `tight` to keep something in until
        the next night: it costs the pool whatever the server overwrites. The pools' names. Raises ToolError,
        SourceError."""
        if not self._bases.all or not lvm.is_there():
            return []
        kept = [each for each in lvm.our_snapshots(server_id, runner) if each.uuid in self.uuids]
        full = {pool for pool in _pools(kept) if _has_no_room(lvm.pool_fill(*pool, runner), tight)}
        gone = {each.uuid for each in kept if (each.group, each.pool) in full}
        if gone:
            self._bases.save([each for each in self._bases.all if each.uuid not in gone], {})
        return sorted(f"{group}/{pool}" for group, pool in full)

    def look(self, facts: Facts, snapshot: lvm.Snapshot, ours: Sequence[lvm.Snapshot], runner: Runner) -> Tracked:
        """What is known to have changed in a volume that was just snapshotted."""
        name = facts.spec.name
        if not (self.thick if snapshot.thin_id is None else self.thin):
            which = "keep_snapshot" if snapshot.thin_id is None else "tracking"
            self.why_not[name] = f"image.{which} is off"
            return Tracked(None)
        self._kept[name] = (snapshot, facts)
        parents = {
            state.name: (state.parent.manifest.image, state.parent.digest) for state in self.states if state.parent
        }
        bases = (
            self._bases.find(facts.spec.key, parents) if len(parents) == len(self.states) else "a site has no parent"
        )
        if self._damaged(facts):
            bases = "a site's parent lacks parts of it that could not be read"
        found = self._bases.tracked(bases, snapshot, facts.spec.size_bytes, ours, runner)
        if found.changes is None:
            self.why_not[name] = found.why_not
        return found

    def _damaged(self, facts: Facts) -> bool:
        return any(
            volume.spec.key == facts.spec.key and volume.unreadable
            for state in self.states
            if state.parent
            for volume in state.parent.manifest.volumes
        )

    def conclude(
        self,
        image: str,
        results: Sequence[SiteResult],
        volumes: Sequence[Volume],
        zeros: Mapping[str, array[int]],
        configured: Sequence[str],
        runner: Runner,
        monitor: Monitor,
    ) -> frozenset[str]:
        """Note which snapshots are kept from now on; their UUIDs. Those are the state of `image` at the sites that
        committed it; older ones stay for sites that did not. None is kept in a thin pool that is nearly full."""
        for volume in volumes:
            if volume.spec.name in self._kept and not volume.tracked:
                reason = (
                    "the audit found it wrong" if volume.audit_missed else "a site has packs of a run that was killed"
                )
                self.why_not.setdefault(volume.spec.name, reason)
        sites = {each.name: each.digest for each in results if each.status == "committed"}
        bad = {volume.spec.name for volume in volumes if volume.unreadable or volume.method == "live"}
        kept = {name: row for name, row in self._kept.items() if sites and name not in bad and name in zeros}
        tight = _tight([snapshot for snapshot, _ in kept.values()], runner, monitor) if kept else set()
        kept = {name: row for name, row in kept.items() if (row[0].group, row[0].pool) not in tight}
        new = [_base(snapshot, facts, image, sites) for snapshot, facts in kept.values()]
        old = still_wanted(self._bases.all, sites, configured, datetime.now(UTC))
        if new or self._bases.all:
            self._bases.save([*old, *new], {kept[name][0].uuid: zeros[name] for name in kept})
        return self.uuids


def _pools(snapshots: Sequence[lvm.Snapshot]) -> set[tuple[str, str]]:
    return {(each.group, each.pool) for each in snapshots if each.thin_id is not None}


def _has_no_room(fill: lvm.PoolFill, tight: bool) -> bool:
    return too_full(fill) or (tight and fill.data > _KEEP_BELOW)


def _tight(snapshots: Sequence[lvm.Snapshot], runner: Runner, monitor: Monitor) -> set[tuple[str, str]]:
    """Thin pools in which nothing should stay until the next night; nobody watches them meanwhile."""
    found = set()
    for group, pool in sorted(_pools(snapshots)):
        fill = lvm.pool_fill(group, pool, runner)
        if _has_no_room(fill, tight=True):
            found.add((group, pool))
            monitor.warn(
                f"thin pool {group}/{pool} is {fill.data:.0%} full: no snapshot is kept in it, so that the next image "
                "reads its volumes in full; extend it"
            )
    return found


def _base(snapshot: lvm.Snapshot, facts: Facts, image: str, sites: dict[str, str]) -> Base:
    return Base(
        key=facts.spec.key, image=image, group=snapshot.group, name=snapshot.name, uuid=snapshot.uuid,
        origin_uuid=snapshot.origin_uuid, pool_uuid=snapshot.pool_uuid, thin_id=snapshot.thin_id,
        size_bytes=facts.spec.size_bytes, sites=dict(sites),
        shift_bytes=facts.crypt.header_bytes if facts.crypt else 0,
    )  # fmt: skip
