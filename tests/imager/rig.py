"""A server in a folder: keys, disks as plain files, sites of any kind; image and restore it without root or tools."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pyrage

from core.layout import Content, Disk, Layout, volumes_of
from core.monitor import Monitor
from core.run import SystemRunner
from imager.keys import Identities, ServerKeys
from imager.placing import VolumeReport, VolumeTarget
from imager.repository.capture import Capture, Request, SiteResult
from imager.repository.journal import load_journals
from imager.repository.parents import next_image_name, remember_attempt, remember_commit, survey, sweep_cache
from imager.repository.reader import OpenImage
from imager.repository.restore import Restore
from imager.repository.store import Repository
from imager.sites.base import Site
from imager.sites.memory import MemorySite
from imager.source import Source
from imager.target import Target

EPOCH = datetime(2026, 1, 1, 2, 0, tzinfo=UTC)


@dataclass
class Rig:
    """One server. Disks are files in `folder`; each is one volume, imaged whole unless a test says otherwise."""

    folder: Path
    sites: list[Site] = field(default_factory=lambda: [MemorySite("de1"), MemorySite("fr1")])
    name: str = "web1"
    pack_bytes: int = 1 << 20
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = self.folder / "state"
        self.cache = self.state / "maps"
        if not ServerKeys.path(self.state).exists():
            ServerKeys.create(self.state, self.name)
        self.cache.mkdir(exist_ok=True)
        self.keys = ServerKeys.load(self.state)
        secret = self.folder / "identity"
        if not secret.exists():
            secret.write_text(str(pyrage.x25519.Identity.generate()))
        self.identities = Identities.parse(secret.read_text())
        self.recipient = str(pyrage.x25519.Identity.from_str(secret.read_text()).to_public())

    def disk(self, name: str = "vda") -> Path:
        return self.folder / f"{name}.img"

    def layout(self, disks: Sequence[str]) -> Layout:
        sizes = {name: os.path.getsize(self.disk(name)) for name in disks}
        return Layout(
            disks=tuple(
                Disk(name=name, size_bytes=sizes[name], sector_bytes=512, content=Content(uuid=name)) for name in disks
            )
        )

    def sources(self, layout: Layout) -> tuple[Source, ...]:
        return tuple(Source(spec, str(self.disk(spec.disk)), spec.offset_bytes) for spec in volumes_of(layout))

    def repository(self, site: Site) -> Repository:
        return Repository(site, self.name, self.cache)

    def image(
        self,
        disks: Sequence[str] = ("vda",),
        *,
        sites: Sequence[Site] | None = None,
        now: datetime = EPOCH,
        sources: tuple[Source, ...] | None = None,
    ) -> list[SiteResult]:
        """One run as `appliance.image` makes it, less the second pass for laggards."""
        monitor = Monitor()
        chosen = self.sites if sites is None else sites
        journals, stale = load_journals(self.state / "journal", self.keys.server_id)
        for path in stale:
            path.unlink()
        states = [survey(self.repository(site), self.keys, self.state, journals, monitor) for site in chosen]
        sweep_cache(self.cache, states)
        layout, image = self.layout(disks), next_image_name(states, now)
        remember_attempt(self.state, image)
        request = Request(
            keys=self.keys, recipients=(self.recipient,), layout=layout, sources=sources or self.sources(layout),
            image=image, taken_at=now, state=self.state, pack_bytes=self.pack_bytes,
            level=1, threads=2,
        )  # fmt: skip
        try:
            results = Capture(request, states, SystemRunner(), monitor).run()
        finally:
            self.warnings = monitor.warnings
        for result in results:
            if result.status == "committed":
                remember_commit(self.state, result.name, request.image, result.digest)
        return results

    def images(self, site: Site) -> list[str]:
        return [row.image for row in self.repository(site).images()]

    def open(self, site: Site, image: str = "", identities: Identities | None = None) -> OpenImage:
        repository = Repository(site, self.name)
        stored = repository.load(image or self.images(site)[-1], self.keys.fingerprint)
        return OpenImage([repository], stored, identities or self.identities)

    def restore(self, site: Site, into: Path, image: str = "", **options: object) -> list[VolumeReport]:
        """Every volume of an image into files `into/VOLUME`, made blank when they are not there."""
        opened = self.open(site, image)
        into.mkdir(exist_ok=True)
        targets, disks = [], {}
        for volume in opened.manifest.volumes:
            path = into / volume.spec.name
            if not path.exists():
                path.touch()
                os.truncate(path, volume.spec.size_bytes)
            targets.append(VolumeTarget(volume.spec.name, str(path), 0, volume.spec.size_bytes))
            disks[str(path)] = Target(str(path))
        try:
            return Restore(opened, targets, disks, Monitor(), **options).run()  # type: ignore[arg-type]
        finally:
            for disk in disks.values():
                disk.close()
