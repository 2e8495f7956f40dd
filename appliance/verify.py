"""Proving a site intact: signatures, digests and completeness without any key; with `deep`, every block decrypted
and compared.

Keyless, so that a site's own host can run it. Each pack is read once, however many images share it. May import
`imager`, `core`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

from appliance.catalog import load_pinned
from appliance.kit import KitServer
from appliance.locks import LockReport
from core.errors import CorruptError, ObjectMissingError, RefloatError, TrustError, VersionError
from core.monitor import Monitor, Task
from imager.keys import Identities
from imager.repository.frames import FRAME_BYTES, Frame, PackRef, digest_bytes
from imager.repository.manifest import MANIFEST_MAX, Manifest, ParentRef, SegmentRef, decode_manifest
from imager.repository.moved import Place
from imager.repository.packs import frames_of
from imager.repository.reader import OpenImage
from imager.repository.segments import DATA, Item, digest_of
from imager.repository.store import Repository, StoredImage, blamed, place_of
from imager.spans import BLOCK_BYTES

_PACKS_KNOWN = 64

#: What is wrong with an object. Any other error (a site that does not answer) ends the verification: it proved nothing.
_WRONG = (CorruptError, ObjectMissingError, TrustError, VersionError)


@dataclass(frozen=True)
class Damage:
    """One thing that is not as it must be: the object, what is wrong, and which images need it (none: server.json)."""

    site: str
    object: str
    problem: str
    images: tuple[str, ...]


class _Said(NamedTuple):
    """What a pack, or a map, says of one frame."""

    key_id: bytes
    number: int
    blocks: int
    length: int
    digest: bytes


@dataclass
class VerifyReport:
    """What was looked at, and what was found."""

    images: int = 0
    segments: int = 0
    packs: int = 0
    read_bytes: int = 0
    blocks: int = 0
    damage: list[Damage] = field(default_factory=list)
    locks: list[LockReport] = field(default_factory=list)

    def raise_for_status(self) -> None:
        """CorruptError when anything is damaged, PolicyError when something that is to be locked is not."""
        if self.damage:
            first = self.damage[0]
            raise CorruptError(
                f"{len(self.damage)} damaged: {first.object} at site {first.site}: {first.problem}",
                hint="restore from the other site until it is repaired; the report names every image that is touched",
            )
        for each in self.locks:
            each.raise_for_status()


class Verify:
    """One verification of one server at one site."""

    def __init__(self, repository: Repository, pins: Sequence[KitServer], monitor: Monitor) -> None:
        self._repository, self._pins, self._monitor = repository, list(pins), monitor
        self.report = VerifyReport()
        self._images: dict[str, StoredImage] = {}
        self._damage: dict[str, Damage] = {}
        self._known: OrderedDict[bytes, dict[int, _Said]] = OrderedDict()
        self._seen: set[bytes] = set()
        self._lock = threading.Lock()

    def run(self, images: Sequence[str] = (), *, threads: int = 4) -> VerifyReport:
        """Check manifests and `server.json`, then the segments they list, then every byte of every pack those name.

        SiteError when the site does not answer.
        """
        names = list(images) or [row.image for row in self._repository.images()]
        if not names:
            raise ObjectMissingError(
                f"there is no image of {self._repository.server} at site {self._repository.site.name}",
                hint="`refloat image` takes one; nothing to verify is not the same as intact",
            )
        for name in names:
            self._load(name)
        self._check_card()
        self._check_parents()
        # How many bytes the packs have is known only when the last map is read.
        with (
            self._monitor.task(f"verify {self._repository.site.name}") as task,
            ThreadPoolExecutor(threads, "verify") as pool,
        ):
            for all_frames, users in self._segments():
                packs: dict[PackRef, list[tuple[Frame, Place]]] = {}
                for frame, place in self._places(all_frames, users):
                    packs.setdefault(place.pack, []).append((frame, place))
                # One segment's packs at a time: memory does not grow with the site.
                jobs = [pool.submit(self._check_pack, pack, frames, users, task) for pack, frames in packs.items()]
                for job in jobs:
                    job.result()
        self.report.packs = len(self._seen)
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
            except _WRONG as error:
                self._damaged(
                    str(error.fields.get("object", self._repository.image_name(name))), _problem(error), {name}
                )

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
                    held = (frame, image.opener.open(frame, image.fetch([frame])[0], buffer))
            self._compare(image, item, held[1])
            self.report.blocks += 1

    def _compare(self, image: OpenImage, item: Item, plain: memoryview) -> None:
        block = plain[item.slot * BLOCK_BYTES : (item.slot + 1) * BLOCK_BYTES]
        if image.digest(block, item.volume, item.block) != item.digest:
            raise CorruptError(f"block {item.block} of volume {item.volume} does not have the digest its map states")

    def _load(self, name: str) -> None:
        self.report.images += 1
        try:
            self._images[name] = load_pinned(self._repository, name, self._pins)
        except _WRONG as error:
            self._damaged(self._repository.image_name(name), _problem(error), {name})

    def _check_card(self) -> None:
        """`server.json` is signed by a pinned key, and under the id that this key's images have."""
        failures: list[RefloatError] = []
        for pin in self._pins:
            try:
                card, signer = self._repository.card(pin.fingerprint)
                if card.id != pin.id:
                    raise TrustError(f"it is of the server with id {card.id}, {pin.id} is pinned")
            except _WRONG as error:
                failures.append(error)
                continue
            ids = {each.manifest.server.id for each in self._images.values() if each.signer == signer}
            if ids - {card.id}:
                self._damaged(self._repository.card_name, "it has another server id than the images", set())
            return
        self._damaged(self._repository.card_name, _problem(failures[0]), set())

    def _check_parents(self) -> None:
        """An image whose parent is still here must name exactly this parent: history cannot be exchanged."""
        for name, stored in self._images.items():
            parent = stored.manifest.parent
            known = self._images.get(parent.image) if parent else None
            if parent and known and known.digest != parent.digest and not self._is_known(parent):
                self._damaged(
                    self._repository.image_name(name), f"its parent {parent.image} is another one here", {name}
                )

    def _is_known(self, parent: ParentRef) -> bool:
        """Whether `refloat replicate` brought the parent that another site has under this name, rightly signed."""
        name = self._repository.lineage_name(parent.digest)
        try:
            if self._repository.site.stat(name).size_bytes > MANIFEST_MAX:
                return False
            data = self._repository.site.get(name)
            return digest_of(data) == parent.digest and any(
                _is_signed(data, parent.image, pin.fingerprint) for pin in self._pins
            )
        except _WRONG:
            return False

    def _segments(self) -> Iterator[tuple[list[Frame], set[str]]]:
        """Every sound segment's frames, and the images that list it."""
        wanted: dict[str, set[str]] = {}
        refs = {}
        for name, stored in self._images.items():
            for ref in _refs(stored.manifest):
                wanted.setdefault(ref.digest, set()).add(name)
                refs[ref.digest] = (ref, stored.manifest.server_id)
        for digest, users in wanted.items():
            self.report.segments += 1
            try:
                frames = self._segment(*refs[digest])
            except _WRONG as error:
                self._damaged(self._repository.map_name(digest), _problem(error), users)
                continue
            yield frames, users

    def _segment(self, ref: SegmentRef, server_id: bytes) -> list[Frame]:
        """All frames of a segment, after every check that it can be put to."""
        segment = self._repository.segment(ref, server_id)
        name = self._repository.map_name(ref.digest)
        with blamed(self._repository.site, name):
            if self._repository.site.stat(name).size_bytes != ref.size_bytes:
                raise CorruptError("it is longer than its manifest says")
            for _ in segment.items():
                pass
            return list(segment.frames())

    def _places(self, frames: list[Frame], users: set[str]) -> Iterator[tuple[Frame, Place]]:
        """Frames and where they lie by now; tables that lead nowhere are damage."""
        for frame in frames:
            try:
                yield frame, self._repository.moved.now(place_of(frame))
            except _WRONG as error:
                self._damaged(str(error.fields.get("object", "moved/")), _problem(error), users)

    def _check_pack(self, ref: PackRef, frames: list[tuple[Frame, Place]], users: set[str], task: Task) -> None:
        """Every byte of a pack, and all that a signed map says of its frames."""
        name = self._repository.pack_name(ref)
        try:
            with blamed(self._repository.site, name):
                known = self._known.get(ref.digest) or self._read_pack(ref, name, task)
                for frame, place in frames:
                    if known.get(place.offset) != _Said(
                        frame.key_id, frame.number, frame.blocks, frame.length, frame.digest
                    ):
                        raise CorruptError("it does not hold a frame that the map names")
        except _WRONG as error:
            self._damaged(name, _problem(error), users)
        with self._lock:
            self._seen.add(ref.digest)

    def _read_pack(self, ref: PackRef, name: str, task: Task) -> dict[int, _Said]:
        data = self._repository.site.get(name, 0, ref.size_bytes)
        if self._repository.site.stat(name).size_bytes != ref.size_bytes:
            raise CorruptError("it is longer than its map says")
        if digest_bytes(data) != ref.digest:
            raise CorruptError("its bytes do not have the digest that names it")
        view = memoryview(data)
        found = {
            each.offset: _Said(
                each.key_id,
                each.number,
                each.blocks,
                each.length,
                digest_bytes(view[each.offset : each.offset + each.length]),
            )
            for each in frames_of(view)
        }
        with self._lock:
            self.report.read_bytes += len(data)
            task.advance(len(data))
            self._known[ref.digest] = found
            # Neighbouring segments share packs; what is dropped here is read once more if it is needed again.
            while len(self._known) > _PACKS_KNOWN:
                self._known.popitem(last=False)
        return found

    def _damaged(self, name: str, problem: str, users: set[str]) -> None:
        with self._lock:
            known = self._damage.get(name)
            images = users | set(known.images if known else ())
            self._damage[name] = Damage(
                self._repository.site.name, name, known.problem if known else problem, tuple(sorted(images))
            )
            self.report.damage = list(self._damage.values())


def _problem(error: RefloatError) -> str:
    """What is wrong, without the object's name, which the report gives beside it."""
    return str(error.fields.get("problem", error.message))


def _is_signed(data: bytes, image: str, pin: str) -> bool:
    try:
        decode_manifest(data, image=image, pin=pin)
    except _WRONG:
        return False
    return True


def _refs(manifest: Manifest) -> Iterator[SegmentRef]:
    return (ref for layer in manifest.layers for ref in layer)
