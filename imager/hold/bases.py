"""Tracking bases: snapshots kept between nights, and which image at which site each is the state of.

One JSON file in the state folder, written before a base may be relied on, and a file of block numbers for each. What
the file does not name is swept. Imports `core` and its neighbours.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from core.errors import RefloatError, SourceError
from core.files import replace
from core.run import Runner
from imager.changes import Changes
from imager.hold import delta, lvm
from imager.spans import BLOCK_BYTES

#: A base costs the pool whatever was overwritten since: a site that is away for longer is read in full when it is back.
_KEEP = timedelta(days=7)
_TIME = "%Y%m%dT%H%M%SZ"


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """A kept snapshot. `sites` maps the sites that have its image to the manifest's digest there; `shift_bytes` is
    where the volume begins on the snapshot (behind a LUKS header)."""

    key: str
    image: str
    group: str
    name: str
    uuid: str
    origin_uuid: str
    pool_uuid: str
    thin_id: int | None
    size_bytes: int
    sites: dict[str, str]
    shift_bytes: int = 0


@dataclass(frozen=True)
class Tracked:
    """What is known to have changed in a volume, or why that is not known. `by` is `thin` or `cow`."""

    changes: Changes | None
    by: str = ""
    why_not: str = ""


class Bases:
    """The file, and what it names. A file that cannot be read is none: everything is read in full then."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self.all = msgspec.json.decode((folder / "bases.json").read_bytes(), type=list[Base])
        except (OSError, msgspec.MsgspecError):
            self.all = list[Base]()

    @property
    def uuids(self) -> frozenset[str]:
        return frozenset(base.uuid for base in self.all)

    def save(self, bases: Sequence[Base], zeros: Mapping[str, array[int]]) -> None:
        """From now on these; `zeros` (by UUID) are the blocks of new ones that are zero only because free pages are
        taken as zeros."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for uuid, blocks in zeros.items():
            replace(self._zeros(uuid), blocks.tobytes())
        replace(self._folder / "bases.json", msgspec.json.encode(list(bases)))
        self.all = list(bases)
        for path in self._folder.glob("*.zeros"):
            if path.stem not in self.uuids:
                path.unlink()

    def find(self, key: str, parents: Mapping[str, tuple[str, str]]) -> list[Base] | str:
        """The bases that are the state of these parents (site → image, digest) of a volume, or why there are none."""
        found: dict[str, Base] = {}
        for site, (image, digest) in parents.items():
            for base in self.all:
                if base.key == key and base.image == image and base.sites.get(site) == digest:
                    found[base.uuid] = base
                    break
            else:
                return f"no snapshot was kept of the parent at site {site}"
        return list(found.values()) or "no site has a parent"

    def tracked(
        self,
        bases: Sequence[Base] | str,
        now: lvm.Snapshot,
        size_bytes: int,
        there: Iterable[lvm.Snapshot],
        runner: Runner,
    ) -> Tracked:
        """What changed in a volume of `size_bytes` since any of the bases, of which `now` is the snapshot. Anything
        odd means that it is not known."""
        if isinstance(bases, str):
            return Tracked(None, why_not=bases)
        known = {each.uuid: each for each in there}
        try:
            ranges = delta.Ranges()
            for base in bases:
                if base.size_bytes != size_bytes:
                    raise SourceError("the volume has another size now")
                shift = base.shift_bytes
                ranges += [(start - shift, stop - shift) for start, stop in self._since(base, now, known, runner)]
                ranges += [(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES) for block in self._read_zeros(base.uuid)]
            changes = Changes.of_bytes((max(start, 0), stop) for start, stop in ranges if stop > 0)
            return Tracked(changes, "cow" if now.thin_id is None else "thin")
        except (RefloatError, OSError) as error:
            return Tracked(None, why_not=str(error))

    def _since(self, base: Base, now: lvm.Snapshot, known: Mapping[str, lvm.Snapshot], runner: Runner) -> delta.Ranges:
        there = known.get(base.uuid)
        if there is None or there.invalid:
            raise SourceError("the snapshot that was kept is gone, or overflowed")
        kept = (base.origin_uuid, base.pool_uuid, base.thin_id, base.name)
        if kept != (there.origin_uuid, there.pool_uuid, there.thin_id, there.name):
            raise SourceError("the snapshot that was kept is not what it was")
        if there.origin_uuid != now.origin_uuid or there.pool_uuid != now.pool_uuid:
            raise SourceError("the snapshot that was kept is of another volume")
        if now.thin_id is None:
            return delta.thick_changes(there)
        if there.thin_id is None:
            raise SourceError("the snapshot that was kept is no thin one")
        with delta.metadata_snapshot(now.group, now.pool, runner) as metadata:
            return delta.thin_changes(metadata, there.thin_id, now.thin_id, runner)

    def _zeros(self, uuid: str) -> Path:
        return self._folder / f"{uuid}.zeros"

    def _read_zeros(self, uuid: str) -> array[int]:
        blocks = array("Q")
        blocks.frombytes(self._zeros(uuid).read_bytes())
        return blocks


def still_wanted(
    bases: Iterable[Base], committed: Iterable[str], configured: Iterable[str], now: datetime
) -> list[Base]:
    """Old bases that are kept after a run: those of sites that did not commit it, less those too old."""
    away = set(configured) - set(committed)
    found = []
    for base in bases:
        sites = {site: digest for site, digest in base.sites.items() if site in away}
        if sites and now - datetime.strptime(base.image, _TIME).replace(tzinfo=UTC) < _KEEP:
            found.append(msgspec.structs.replace(base, sites=sites))
    return found
