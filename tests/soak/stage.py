"""A whole server in a folder, for the soak: keys, two disks, two file sites, imaged by `appliance.image`, restored by
`imager`. No root needed.

A Stage can be copied (`clone`), so that each kill meets the same past. It knows what every image must restore to.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyrage

from appliance.config import Config, DiskConfig, ImageConfig, SiteConfig
from appliance.image import ImageOptions, ImageOutcome, take_image
from appliance.kit import KitServer
from appliance.verify import Verify
from core.monitor import Monitor
from core.run import SystemRunner
from imager.keys import Identities, ServerKeys
from imager.placing import VolumeReport, VolumeTarget
from imager.repository.reader import OpenImage
from imager.repository.restore import Restore
from imager.repository.store import Repository
from imager.sites.base import Site
from imager.sites.file import FileSite
from imager.spans import BLOCK_BYTES
from imager.target import Target

MIB = 1 << 20
SERVER = "web1"
SITES = {"de": "DE", "fr": "FR"}
_STATE = re.compile(r"lock|attempts\.json|hold|keys\.json|journal|sites|sites/(de|fr)\.json|maps|maps/[0-9a-f]{64}")

Content = dict[str, bytes]
"""Volume (here: disk) name → its bytes."""


class Stage:
    """The server in `folder`. `known` maps (site, image) to what that image holds."""

    def __init__(self, folder: Path, known: dict[tuple[str, str], Content]) -> None:
        self.folder, self.known = folder, known
        self.state = folder / "state"
        self.sizes = {path.stem: path.stat().st_size for path in sorted(folder.glob("*.img"))}
        self.keys = ServerKeys.load(self.state)
        self.identities = Identities.parse((folder / "identity").read_text())
        self.sites: dict[str, Site] = {name: FileSite(name, folder / name) for name in SITES}

    @classmethod
    def create(cls, folder: Path, rng: random.Random, sizes: dict[str, int]) -> Stage:
        """Keys, empty sites, and disks of these sizes (bytes) with something on them."""
        for name in SITES:
            (folder / name).mkdir(parents=True)
        ServerKeys.create(folder / "state", SERVER)
        (folder / "identity").write_text(str(pyrage.x25519.Identity.generate()))
        for name, size in sizes.items():
            (folder / f"{name}.img").touch()
            os.truncate(folder / f"{name}.img", size)
        stage = cls(folder, {})
        stage.scribble(rng, 40)
        return stage

    def clone(self, folder: Path) -> Stage:
        """The same server, as if it had always been in that folder."""
        shutil.copytree(self.folder, folder)
        return Stage(folder, dict(self.known))

    @property
    def config(self) -> Config:
        recipient = str(pyrage.x25519.Identity.from_str((self.folder / "identity").read_text()).to_public())
        return Config(
            server=SERVER,
            state=str(self.state),
            recipients=(recipient,),
            disks=tuple(DiskConfig(path=str(self.folder / f"{name}.img"), name=name) for name in self.sizes),
            image=ImageConfig(nice=0, io_class="none", pack_size=MIB, level=1, threads=2),
            sites=tuple(
                SiteConfig(name=name, country=country, url=f"file://{self.folder}/{name}")
                for name, country in SITES.items()
            ),
        )

    def repository(self, site: str) -> Repository:
        return Repository(self.sites[site], SERVER)

    def scribble(self, rng: random.Random, count: int) -> None:
        """Change the disks as a day would: noise, text, zeros. The first block stays text, so that nothing is taken for
        a filesystem."""
        for name, size in self.sizes.items():
            with open(self.folder / f"{name}.img", "r+b") as file:
                for _ in range(count):
                    file.seek(rng.randrange(0, size))
                    length = min(rng.choice((512, 4096, 30_000, 400_000)), size - file.tell())
                    kind = rng.randrange(4)
                    file.write(rng.randbytes(length) if kind < 2 else (b"\0" if kind == 2 else b"t") * length)
                file.seek(0)
                file.write(b"plain text\n" * 6000)

    def disks(self) -> Content:
        """What is on the disks now."""
        return {name: (self.folder / f"{name}.img").read_bytes() for name in self.sizes}

    def image(self, only: tuple[str, ...] = ()) -> ImageOutcome:
        """One run as the program makes it; what it committed is known from then on."""
        outcome = take_image(self.config, ImageOptions(only=only), SystemRunner(), Monitor())
        for site in outcome.sites:
            if site.status == "committed":
                self.known[site.name, outcome.image] = self.disks()
        return outcome

    def images(self, site: str) -> list[str]:
        return [row.image for row in self.repository(site).images()]

    def open(self, site: str, image: str = "", *others: str) -> OpenImage:
        """The image from that site (and `others` behind it); the newest when none is named."""
        repository = self.repository(site)
        stored = repository.load(image or self.images(site)[-1], self.keys.fingerprint)
        return OpenImage([repository, *map(self.repository, others)], stored, self.identities)

    def restore(self, site: str, into: Path, image: str = "", *others: str) -> list[VolumeReport]:
        """Every volume of an image into files of `into`."""
        return restore_into(self.open(site, image, *others), into)

    def verify(self, site: str) -> Verify:
        """A keyless verification of everything at a site, run."""
        pin = KitServer(name=self.keys.name, id=self.keys.server_id.hex(), fingerprint=self.keys.fingerprint)
        run = Verify(self.repository(site), [pin], Monitor())
        run.run(threads=2)
        return run

    def needed(self, site: str) -> set[str]:
        """Names of all objects that some image at the site rests on. (Layers that were merged leave others.)"""
        repository = self.repository(site)
        found = {repository.card_name}
        for image in self.images(site):
            found.add(repository.image_name(image))
            manifest = repository.load(image, self.keys.fingerprint).manifest
            for ref in (ref for layer in manifest.layers for ref in layer):
                found.add(repository.map_name(ref.digest))
                found |= {repository.pack_name(pack) for pack in repository.segment(ref, manifest.server_id).packs}
        return found

    def check_past(self, scratch: Path) -> None:
        """Every listed image is one we know, proves intact without keys, and restores bit by bit."""
        for site in SITES:
            names = self.images(site)
            assert names == sorted(image for where, image in self.known if where == site), f"images listed at {site}"
            if names:
                assert self.verify(site).report.damage == []
            for image in names:
                self.restore(site, scratch, image)
                assert content_of(scratch) == self.known[site, image], f"image {image} at {site}"

    def check_swept(self) -> None:
        """Nothing of a killed run is left on the server."""
        left = {str(path.relative_to(self.state)) for path in self.state.rglob("*")}
        stale = [each for each in sorted(left) if not _STATE.fullmatch(each)]
        assert not stale, f"left in the state folder: {stale}"
        for site in SITES:
            assert list((self.folder / site).glob(".tmp/*")) == []


def restore_into(opened: OpenImage, into: Path) -> list[VolumeReport]:
    """Every volume of an image into files `into/VOLUME`; made blank when they are not there."""
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
        return Restore(opened, targets, disks, Monitor()).run()
    finally:
        for disk in disks.values():
            disk.close()


def content_of(folder: Path) -> Content:
    """The files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def tree_digest(folder: Path) -> str:
    """A digest of every name and byte below a folder."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        total.update(f"{path.relative_to(folder)}\0".encode())
        total.update(path.read_bytes() if path.is_file() else b"/")
    return total.hexdigest()


def differing_blocks(old: Content | None, new: Content) -> Iterator[tuple[str, int]]:
    """(volume, block) where `new` is not zero and not what `old` has (None: has nothing)."""
    zero = bytes(BLOCK_BYTES)
    for name, data in new.items():
        before = old.get(name, b"") if old is not None else b""
        for start in range(0, len(data), BLOCK_BYTES):
            block = data[start : start + BLOCK_BYTES]
            if block != zero[: len(block)] and before[start : start + BLOCK_BYTES] != block:
                yield name, start // BLOCK_BYTES
