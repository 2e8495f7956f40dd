"""A server whose nights go by quickly: images on a site with a clock of its own, pruned and collected, restored."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from appliance.config import RetentionConfig
from appliance.kit import KitServer
from appliance.retention.gc import Collection, GcReport
from appliance.retention.prune import Prune, PruneReport
from appliance.verify import Verify
from core.monitor import Monitor
from imager.sites.base import Site
from imager.sites.memory import MemorySite
from imager.spans import BLOCK_BYTES
from tests.imager.rig import Rig

START = datetime(2026, 1, 1, 2, 0, tzinfo=UTC)


@dataclass
class Years:
    """One disk of `blocks` blocks; `now` is the sites' clock, the server's is what a test says."""

    folder: Path
    blocks: int = 64
    seed: int = 1
    now: datetime = START
    config: RetentionConfig = RetentionConfig(copies=1)
    pack_bytes: int = 256 << 10
    names: tuple[str, ...] = ("de1",)
    remembers: bool = True
    taken: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.sites = [MemorySite(name, clock=lambda: self.now) for name in self.names]
        self.folder.mkdir(exist_ok=True)
        self.rig = Rig(self.folder, list[Site](self.sites), pack_bytes=self.pack_bytes)
        self.disk = bytearray().join(self.rng.randbytes(BLOCK_BYTES) for _ in range(self.blocks))
        self.rig.disk().write_bytes(self.disk)

    @property
    def pin(self) -> KitServer:
        keys = self.rig.keys
        return KitServer(name=keys.name, id=keys.server_id.hex(), fingerprint=keys.fingerprint)

    def write(self, block: int) -> None:
        self.disk[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES] = fresh = self.rng.randbytes(BLOCK_BYTES)
        with open(self.rig.disk(), "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), fresh, block * BLOCK_BYTES)

    def night(self, *, server_clock: datetime | None = None, pass_time: timedelta = timedelta(days=1)) -> str:
        """An image of the disk as it is; then time goes by."""
        results = self.rig.image(now=server_clock or self.now)
        assert all(each.status == "committed" for each in results)
        image = max(self.rig.images(self.sites[0]))
        if self.remembers:
            self.taken[image] = bytes(self.disk)
        self.now += pass_time
        return image

    def pruner(self, *, pins: bool = False) -> Prune:
        sites = [self.rig.repository(site) for site in self.sites]
        return Prune(sites, [self.pin] if pins else [], self.config, Monitor())

    def prune(self, site: str = "de1", **options: bool | list[str]) -> PruneReport:
        return self.pruner().run(site, apply=True, **options)  # type: ignore[arg-type]

    def gc(self, site: str = "de1", *, apply: bool = True) -> GcReport:
        run = self.pruner()
        return Collection(run, run.repository(site), self.config, Monitor()).run(apply=apply)

    def collect(self, site: str = "de1") -> GcReport:
        """Prune, and a delay later collect what was decided."""
        self.prune(site)
        self.now += timedelta(days=self.config.delay_days)
        return self.gc(site)

    def images(self, site: int = 0) -> list[str]:
        return self.rig.images(self.sites[site])

    def check(self, site: int = 0) -> None:
        """Every image that is there restores bit by bit and is proven intact; none is there that was not taken."""
        run = Verify(self.rig.repository(self.sites[site]), [self.pin], Monitor())
        assert run.run(threads=2).damage == []
        for image in self.images(site):
            into = self.folder / "out"
            for old in into.glob("*"):
                old.unlink()
            self.rig.restore(self.sites[site], into, image)
            (restored,) = into.iterdir()
            assert restored.read_bytes() == self.taken[image], image

    def objects(self, folder: str, site: int = 0) -> list[str]:
        return [info.name for info in self.sites[site].list(f"servers/web1/{folder}/")]
