"""Proving a site intact: signatures, digests and completeness without any key; with `deep`, every block decrypted
and compared.

Keyless, so that a site's own host can run it. Each pack is read once, however many images share it. May import
`imager`, `core`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from core.errors import CorruptError, ObjectMissingError, RefloatError
from core.monitor import Monitor, Task
from imager.keys import Identities
from imager.repository.frames import FRAME_BYTES, Frame, PackRef, digest_sealed
from imager.repository.manifest import Manifest, SegmentRef
from imager.repository.packs import frames_of
from imager.repository.reader import OpenImage
from imager.repository.segments import DATA, Item, Segment
from imager.repository.store import Repository, StoredImage, blamed
from imager.spans import BLOCK_BYTES


@dataclass(frozen=True)
class Damage:
    """One thing that is not as it must be: the object, what is wrong, and which images need it."""

    site: str
    object: str
    problem: str
    images: tuple[str, ...]


@dataclass
class VerifyReport:
    """What was looked at, and what was found."""

    images: int = 0
    segments: int = 0
    packs: int = 0
    read_bytes: int = 0
    blocks: int = 0
    damage: list[Damage] = field(default_factory=list)

    def raise_for_status(self) -> None:
        """CorruptError when anything is damaged."""
        if self.damage:
            first = self.damage[0]
            raise CorruptError(
                f"{len(self.damage)} damaged: {first.object} at site {first.site}: {first.problem}",
                hint="restore from the other site until it is repaired; the report names every image that is touched",
            )


class Verify:
    """One verification of one server at one site."""

    def __init__(self, repository: Repository, pins: Sequence[str], monitor: Monitor) -> None:
        self._repository, self._pins, self._monitor = repository, list(pins), monitor
        self.report = VerifyReport()
        self._images: dict[str, StoredImage] = {}
        self._users: dict[str, set[str]] = {}

    def run(self, images: Sequence[str] = (), *, threads: int = 4) -> VerifyReport:
        """Check manifests, then the segments they list, then every byte of every pack those name."""
        names = list(images) or [row.image for row in self._repository.images()]
        if not names:
            raise ObjectMissingError(
                f"there is no image of {self._repository.server} at site {self._repository.site.name}",
                hint="`refloat image` takes one; nothing to verify is not the same as intact",
            )
        for name in names:
            self._load(name)
        self._check_parents()
        packs: dict[PackRef, set[str]] = {}
        frames: dict[PackRef, dict[int, Frame]] = {}
        for segment, users in self._segments():
            for frame in segment.frames():
                if frame.pack is not None:
                    packs.setdefault(frame.pack, set()).update(users)
                    frames.setdefault(frame.pack, {})[frame.offset] = frame
        total = sum(ref.size_bytes for ref in packs)
        site = self._repository.site.name
        with self._monitor.task(f"verify {site}", total) as task, ThreadPoolExecutor(threads, "verify") as pool:
            jobs = [pool.submit(self._check_pack, ref, frames[ref], users, task) for ref, users in packs.items()]
            for job in jobs:
                job.result()
        return self.report

    def deep(self, identities: Identities, monitor: Monitor) -> None:
        """Decrypt every block of every image that is intact so far, and compare it with its digest."""
        for name, stored in self._images.items():
            try:
                image = OpenImage([self._repository], stored, identities)
                with monitor.task(
                    f"deep {name}", sum(each.spec.size_bytes for each in stored.manifest.volumes)
                ) as task:
                    self._deep_image(image, task)
            except CorruptError as error:
                self._damaged(str(error.fields.get("object", self._repository.image_name(name))), error.message, {name})

    def _deep_image(self, image: OpenImage, task: Task) -> None:
        buffer = memoryview(bytearray(FRAME_BYTES))
        held: tuple[Frame, memoryview] | None = None
        for item in image.items(image.manifest.volumes):
            task.advance(item.count * BLOCK_BYTES)
            if item.kind != DATA:
                continue
            frame = item.frame
            assert frame is not None and frame.pack is not None  # noqa: S101 - data items of a parsed segment
            if held is None or held[0] is not frame:
                name = self._repository.pack_name(frame.pack)
                with blamed(self._repository.site, name):
                    held = (
                        frame,
                        image.opener.open(frame, image.fetch(frame.pack, frame.offset, frame.length), buffer),
                    )
            self._compare(image, item, held[1])
            self.report.blocks += 1

    def _compare(self, image: OpenImage, item: Item, plain: memoryview) -> None:
        block = plain[item.slot * BLOCK_BYTES : (item.slot + 1) * BLOCK_BYTES]
        if image.digest(block, item.volume, item.block) != item.digest:
            raise CorruptError(f"block {item.block} of volume {item.volume} does not have the digest its map states")

    def _load(self, name: str) -> None:
        self.report.images += 1
        failures: list[RefloatError] = []
        for pin in self._pins:
            try:
                self._images[name] = self._repository.load(name, pin)
                return
            except RefloatError as error:
                failures.append(error)
        self._damaged(self._repository.image_name(name), failures[0].message, {name})

    def _check_parents(self) -> None:
        """An image whose parent is still here must name exactly this parent: history cannot be exchanged."""
        for name, stored in self._images.items():
            parent = stored.manifest.parent
            known = self._images.get(parent.image) if parent else None
            if parent and known and known.digest != parent.digest:
                self._damaged(
                    self._repository.image_name(name), f"its parent {parent.image} is another one here", {name}
                )

    def _segments(self) -> Iterator[tuple[Segment, set[str]]]:
        wanted: dict[str, set[str]] = {}
        refs = {}
        for name, stored in self._images.items():
            for ref in _refs(stored.manifest):
                wanted.setdefault(ref.digest, set()).add(name)
                refs[ref.digest] = (ref, stored.manifest.server_id)
        for digest, users in wanted.items():
            self.report.segments += 1
            try:
                segment = self._repository.segment(*refs[digest])
                for _ in segment.items():
                    pass
                yield segment, users
            except RefloatError as error:
                self._damaged(self._repository.map_name(digest), error.message, users)

    def _check_pack(self, ref: PackRef, frames: dict[int, Frame], users: set[str], task: Task) -> None:
        name = self._repository.pack_name(ref)
        try:
            with blamed(self._repository.site, name):
                data = self._repository.site.get(name, 0, ref.size_bytes)
                if self._repository.site.stat(name).size_bytes != ref.size_bytes:
                    raise CorruptError("it is longer than its map says")
                if hashlib.sha256(data).digest() != ref.digest:
                    raise CorruptError("its bytes do not have the digest that names it")
                _check_frames(data, frames)
            self.report.read_bytes += len(data)
        except (CorruptError, ObjectMissingError) as error:
            self._damaged(name, error.message, users)
        self.report.packs += 1
        task.advance(ref.size_bytes)

    def _damaged(self, name: str, problem: str, users: set[str]) -> None:
        self.report.damage.append(Damage(self._repository.site.name, name, problem, tuple(sorted(users))))


def _check_frames(data: bytes, frames: dict[int, Frame]) -> None:
    """What the signed map says of each frame is what the pack says and holds."""
    found = {each.offset: each for each in frames_of(data)}
    for offset, frame in frames.items():
        packed = found.get(offset)
        if packed is None or (packed.key_id, packed.number, packed.length, packed.blocks) != (
            frame.key_id, frame.number, frame.length, frame.blocks,
        ):  # fmt: skip
            raise CorruptError("the map names a frame that is not there")
        if digest_sealed(memoryview(data)[offset : offset + frame.length]) != frame.digest:
            raise CorruptError("a frame does not have the digest its map states")


def _refs(manifest: Manifest) -> Iterator[SegmentRef]:
    return (ref for layer in manifest.layers for ref in layer)
