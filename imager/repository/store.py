"""Objects of one server at one site: names, listing, and loading with every check that needs no secret."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from blake3 import blake3

from core.errors import (
    ConfigError,
    CorruptError,
    FormatError,
    ObjectExistsError,
    ObjectMissingError,
    RefloatError,
    StateError,
    VersionError,
)
from core.files import replace
from imager.repository.frames import Frame, PackRef, digest_bytes
from imager.repository.manifest import (
    CARD_MAX,
    MANIFEST_MAX,
    Manifest,
    SegmentRef,
    ServerCard,
    decode_manifest,
    decode_server_card,
)
from imager.repository.moved import HOPS_MAX, Moved, Place, digest_in
from imager.repository.segments import Item, Segment, digest_of
from imager.sites.base import Buffer, Site
from imager.volumes import SERVER_NAME, TIME

T = TypeVar("T")
_FETCH_BYTES = 4 << 20
_GAP_BYTES = 64 << 10


@dataclass(frozen=True)
class StoredImage:
    """A loaded manifest: `digest` is of the whole object, `signer` the fingerprint that signed it."""

    manifest: Manifest
    digest: str
    signer: str


@dataclass(frozen=True)
class ImageRow:
    """One image as a listing shows it, before it is opened."""

    image: str
    received: datetime
    size_bytes: int


@contextlib.contextmanager
def blamed(site: Site, name: str) -> Iterator[None]:
    """Errors about bytes, told with the object and the site they came from."""
    try:
        yield
    except RefloatError as error:
        if "object" not in error.fields:
            error.fields.update(site=site.name, object=name, problem=error.message)
            if name not in error.message:
                error.message = f"{name} at site {site.name}: {error.message}"
        raise


def server_names(site: Site) -> list[str]:
    """Every server that has images at the site."""
    names = {row.name.split("/")[1] for row in site.list("servers/") if row.name.count("/") >= 2}
    return sorted(name for name in names if SERVER_NAME.fullmatch(name))


class Repository:
    """What one server keeps at one site. `cache` (optional) is a folder of map segments known to be good by digest."""

    def __init__(self, site: Site, server: str, cache: Path | None = None) -> None:
        if SERVER_NAME.fullmatch(server) is None:
            raise ConfigError(
                f"not a server name: {server!r}", hint="lower-case letters, digits, '.', '_' and '-'; at most 63"
            )
        self.site, self.server, self._cache = site, server, cache
        self.prefix = f"servers/{server}/"
        self.moved = Moved(site, self.prefix)

    def pack_name(self, ref: PackRef) -> str:
        return f"{self.prefix}packs/{ref.hex[:2]}/{ref.hex}"

    def map_name(self, digest: str) -> str:
        return f"{self.prefix}maps/{digest}"

    def image_name(self, image: str) -> str:
        return f"{self.prefix}images/{image}.json"

    def lineage_name(self, digest: str) -> str:
        """A manifest of another site that an image here names as its parent."""
        return f"{self.prefix}lineage/{digest}.json"

    @property
    def card_name(self) -> str:
        return f"{self.prefix}server.json"

    def images(self) -> list[ImageRow]:
        """All images, oldest first."""
        rows = []
        for info in self.site.list(f"{self.prefix}images/"):
            stem = info.name.rsplit("/", 1)[1].removesuffix(".json")
            if TIME.fullmatch(stem):
                rows.append(ImageRow(stem, info.received, info.size_bytes))
        return rows

    def load(self, image: str, pin: str | None) -> StoredImage:
        """The manifest of an image, checked against the pinned fingerprint (None: any signer)."""
        name = self.image_name(image)
        with blamed(self.site, name):
            if self.site.stat(name).size_bytes > MANIFEST_MAX:
                raise FormatError("a manifest is too large")
            data = self.site.get(name)
            manifest, signer = decode_manifest(data, image=image, pin=pin)
            if manifest.server.name != self.server:
                raise FormatError(f"the manifest is of server {manifest.server.name}")
        return StoredImage(manifest, digest_of(data), signer)

    def card(self, pin: str | None = None) -> tuple[ServerCard, str]:
        """`server.json` and its signer. ObjectMissingError when there is none."""
        with blamed(self.site, self.card_name):
            if self.site.stat(self.card_name).size_bytes > CARD_MAX:
                raise FormatError("a server's card is too large")
            card, signer = decode_server_card(self.site.get(self.card_name), pin)
            if card.name != self.server:
                raise FormatError(f"the card is of server {card.name}")
        return card, signer

    def segment(self, ref: SegmentRef, server_id: bytes) -> Segment:
        """A map segment, from the cache or the site; its digest and server are checked."""
        data = self._cached(ref) or self._fetch(ref)
        with blamed(self.site, self.map_name(ref.digest)):
            segment = Segment(data)
            if segment.server_id != server_id or segment.count != ref.items:
                raise FormatError("the map segment is not the one the manifest means")
        return segment

    def _cached(self, ref: SegmentRef) -> bytes | None:
        if self._cache is None:
            return None
        try:
            data = (self._cache / ref.digest).read_bytes()
        except OSError:
            return None
        return data if digest_of(data) == ref.digest else None

    def _fetch(self, ref: SegmentRef) -> bytes:
        name = self.map_name(ref.digest)
        with blamed(self.site, name):
            data = self.site.get(name, 0, ref.size_bytes)
            if digest_of(data) != ref.digest:
                raise CorruptError("its bytes do not have the digest that names it")
        with contextlib.suppress(StateError):  # a full local disk only means fetching it again
            self.remember(ref.digest, data)
        return data

    def remember(self, digest: str, data: bytes) -> None:
        """Keep a map segment locally. StateError when there is no room."""
        if self._cache is not None:
            replace(self._cache / digest, data)

    def layer(self, layer: tuple[SegmentRef, ...], server_id: bytes) -> Iterator[Item]:
        """All items of a layer, in order, one segment in memory at a time."""
        last = (-1, 0)
        for ref in layer:
            for item in self.segment(ref, server_id).items():
                if (item.volume, item.block) < last:
                    raise FormatError(
                        "the segments of a layer overlap", object=self.map_name(ref.digest), site=self.site.name
                    )
                last = (item.volume, item.end)
                yield item

    def put_named(self, name: str, body: list[Buffer]) -> bool:
        """Put an object named by its digest. False when the very same bytes are there already.

        An object of that name but other bytes is a CorruptError: it is not ours to replace.
        """
        try:
            self.site.put(name, body)
        except ObjectExistsError:
            self._must_equal(name, body)
            return False
        return True

    def _must_equal(self, name: str, body: list[Buffer]) -> None:
        ours = blake3()
        for part in body:
            ours.update(part)
        if ours.digest() != digest_bytes(self.site.get(name)):
            raise CorruptError("an object of this name holds other bytes", object=name, site=self.site.name)

    def lost_packs(self, packs: Mapping[bytes, int]) -> frozenset[bytes]:
        """Which of these (digest → size) are not at the site with their size. One listing, not a question each."""
        lost = set(packs)
        for info in self.site.list(f"{self.prefix}packs/"):
            digest = digest_in(info.name)
            if digest is not None and packs.get(digest) == info.size_bytes:
                lost.discard(digest)
        return frozenset(lost)

    def lost(self, segments: Callable[[], Iterable[Segment]]) -> frozenset[bytes]:
        """Packs named by these segments that the site neither has nor has moved, frame by frame. `segments` is gone
        through twice where packs were moved."""
        gone = self.lost_packs({pack.digest: pack.size_bytes for each in segments() for pack in each.packs})
        moved = {digest for digest in gone if self.moved.is_listed(PackRef(digest, 1))}
        if not moved:
            return gone
        lost, needs = set(gone - moved), dict[PackRef, set[bytes]]()
        for segment in segments():
            for frame in segment.frames() if any(pack.digest in moved for pack in segment.packs) else ():
                if frame.pack is not None and frame.pack.digest in moved and frame.pack.digest not in lost:
                    try:
                        place = self.moved.now(place_of(frame))
                    except (CorruptError, VersionError):  # of the table: what it was to tell is not known
                        lost.add(frame.pack.digest)
                    else:
                        needs.setdefault(place.pack, set()).add(frame.pack.digest)
        still = self.lost_packs({pack.digest: pack.size_bytes for pack in needs})
        return frozenset(lost).union(*(old for pack, old in needs.items() if pack.digest in still))

    def sealed(self, frames: Sequence[Frame]) -> list[memoryview]:
        """The sealed bytes of frames, best of one pack and near each other: then that is one request.

        What was moved is compared with the digest that the map states; what was not, proves itself when it is opened.
        """
        try:
            return self._sealed(frames, [self.moved.now(place_of(frame)) for frame in frames])
        except (ObjectMissingError, CorruptError, VersionError):
            return [self._step_by_step(frame) for frame in frames]

    def _sealed(self, frames: Sequence[Frame], places: Sequence[Place]) -> list[memoryview]:
        found: dict[int, memoryview] = {}
        for group in near(range(len(frames)), places.__getitem__):
            pack, start = places[group[0]].pack, places[group[0]].offset
            end = max(places[index].offset + places[index].length for index in group)
            with blamed(self.site, self.pack_name(pack)):
                data = memoryview(self.site.get(self.pack_name(pack), start, end - start))
                for index in group:
                    at = places[index].offset - start
                    found[index] = data[at : at + places[index].length]
                    if pack != frames[index].pack and digest_bytes(found[index]) != frames[index].digest:
                        raise CorruptError("a frame that was moved there is not the one the map means")
        return [found[index] for index in range(len(frames))]

    def _step_by_step(self, frame: Frame) -> memoryview:
        """From where the map says on, one table after the other: the listing may be old, or a table wrong."""
        place, failure = place_of(frame), None
        for _ in range(HOPS_MAX):
            try:
                return self._sealed([frame], [place])[0]
            except (ObjectMissingError, CorruptError) as error:
                failure = failure or error
            further = self.moved.next(place)
            if further is None:
                break
            place = further
        raise failure or CorruptError("tables of moved frames go in a circle")

    def has_object(self, name: str) -> bool:
        """Whether there is an object of that name."""
        try:
            self.site.stat(name)
        except ObjectMissingError:
            return False
        return True

    def has_pack(self, ref: PackRef, since: datetime | None = None) -> bool:
        """Whether the pack is there with its size, and came later than `since`."""
        try:
            info = self.site.stat(self.pack_name(ref))
        except ObjectMissingError:
            return False
        return info.size_bytes == ref.size_bytes and (since is None or info.received > since)


def place_of(frame: Frame) -> Place:
    """Where the map says that a frame is."""
    assert frame.pack is not None, "frames of a parsed segment have one"  # noqa: S101
    return Place(frame.pack, frame.offset, frame.length)


def near(things: Iterable[T], place: Callable[[T], Place]) -> Iterator[list[T]]:
    """Things by pack, ascending, each pack's cut into ranges worth one request."""
    packs: dict[PackRef, list[T]] = {}
    for each in things:
        packs.setdefault(place(each).pack, []).append(each)
    for found in packs.values():
        found.sort(key=lambda each: place(each).offset)
        group: list[T] = []
        start = end = 0
        for each in found:
            at = place(each)
            stop = at.offset + at.length
            if group and stop > end and (at.offset - end > _GAP_BYTES or stop - start > _FETCH_BYTES):
                yield group
                group = []
            if not group:
                start = at.offset
            group.append(each)
            end = max(end, stop) if len(group) > 1 else stop
        yield group
