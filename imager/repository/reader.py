"""An image opened for reading: its manifest checked, its keys unsealed in memory, bytes fetched from whichever site
has them."""

from __future__ import annotations

import base64
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from core.errors import CorruptError, FormatError, RefloatError, SiteError
from imager.blocks import digest_block
from imager.keys import ID_BYTES, Identities
from imager.repository.frames import Frame, Opener, PackRef
from imager.repository.layers import clip, stack
from imager.repository.manifest import SegmentRef
from imager.repository.moved import Place
from imager.repository.segments import Item, Segment
from imager.repository.store import Repository, StoredImage, blamed, place_of
from imager.volumes import Volume

_T = TypeVar("_T")
_HINT = "no site that was asked has it whole: `refloat verify` tells which images are touched; take an older one"


class OpenImage:
    """A readable image. `sites` hold the same image, the preferred one first; when one fails, the next is asked."""

    def __init__(self, sites: Sequence[Repository], stored: StoredImage, identities: Identities) -> None:
        manifest = stored.manifest
        self.sites, self.stored, self.manifest = list(sites), stored, manifest
        self.server_id = manifest.server_id
        self.complaints: list[str] = []
        self._local = threading.local()
        name = sites[0].image_name(manifest.image)
        with blamed(sites[0].site, name):
            self.digest_key = identities.open_key(
                _unb64(manifest.digest_key), kind="digest", key_id=bytes(ID_BYTES), server_id=self.server_id
            )
            self._keys = {
                bytes.fromhex(key_id): identities.open_key(
                    _unb64(sealed), kind="data", key_id=bytes.fromhex(key_id), server_id=self.server_id
                )
                for key_id, sealed in manifest.keys.items()
            }

    @property
    def opener(self) -> Opener:
        """This thread's frame opener."""
        made: Opener | None = getattr(self._local, "opener", None)
        if made is None:
            made = self._local.opener = Opener(self.server_id, self._keys)
        return made

    def digest(self, block: memoryview | bytes, volume: int, number: int) -> bytes:
        """The digest that the map must hold for these 65,536 bytes."""
        return digest_block(self.digest_key, block, volume, number)

    def items(self, volumes: Sequence[Volume], limits: dict[int, int] | None = None) -> Iterator[Item]:
        """What the map says of these volumes, in (id, block) order, every block exactly once.

        `limits` (volume id → blocks) cuts volumes short. FormatError where no layer covers a block: unknown is not
        zero.
        """
        counts = {volume.id: volume.blocks for volume in volumes}
        if limits:
            counts |= limits
        at = {volume: 0 for volume in counts}
        for item in clip(stack([self._layer(layer) for layer in self.manifest.layers]), counts):
            if at[item.volume] != item.block:
                raise self._gap(item.volume, at[item.volume])
            at[item.volume] = item.end
            yield item
        for volume, blocks in counts.items():
            if at[volume] != blocks:
                raise self._gap(volume, at[volume])

    def _gap(self, volume: int, block: int) -> FormatError:
        name = next(each.spec.name for each in self.manifest.volumes if each.id == volume)
        return FormatError(
            f"image {self.manifest.image}: no map covers block {block} of volume {name}",
            hint="the map is damaged; take the image from the other site, or an older one",
        )

    def _layer(self, layer: tuple[SegmentRef, ...]) -> Iterator[Item]:
        for ref in layer:
            yield from self.segment(ref).items()

    def segment(self, ref: SegmentRef) -> Segment:
        """A map segment, from the first site that has it right."""
        return self._from_any(lambda site: site.segment(ref, self.server_id))

    def _segments(self) -> Iterator[Segment]:
        return (self.segment(ref) for layer in self.manifest.layers for ref in layer)

    def lost(self, volumes: Sequence[Volume]) -> dict[str, list[PackRef]]:
        """Volume name → packs it needs that no site has. Asked before a target is touched.

        Cheap while nothing is lost: then only listings and the tables of the map segments are read.
        """
        gone: frozenset[bytes] | None = None
        for site in self.sites:
            with contextlib.suppress(SiteError):
                lost = site.lost(self._segments)
                gone = lost if gone is None else gone & lost
        if gone is None:  # none answered: what it has will show
            return {}
        found: dict[str, dict[PackRef, None]] = {}
        names = {volume.id: volume.spec.name for volume in volumes}
        for item in self.items(volumes) if gone else ():
            if item.frame is not None and item.frame.pack is not None and item.frame.pack.digest in gone:
                found.setdefault(names[item.volume], {})[item.frame.pack] = None
        return {name: list(packs) for name, packs in found.items()}

    def place(self, frame: Frame) -> Place:
        """Where a frame is at the preferred site, as far as can be told: to fetch together what lies together."""
        with contextlib.suppress(RefloatError):
            return self.sites[0].moved.now(place_of(frame))
        return place_of(frame)

    def fetch(self, frames: Sequence[Frame]) -> list[memoryview]:
        """The sealed bytes of frames that lie together, from the first site that has them all."""
        return self._from_any(lambda site: site.sealed(frames))

    def plain(self, frame: Frame, sealed: bytes | memoryview, into: memoryview) -> memoryview:
        """A frame opened into `into` (see Opener.open). Where `sealed` proves wrong it is fetched again, from each site
        in turn; the error of the first is raised when none has it right."""
        with contextlib.suppress(CorruptError):
            return self.opener.open(frame, sealed, into)

        def again(site: Repository) -> memoryview:
            with blamed(site.site, site.pack_name(place_of(frame).pack)):
                return self.opener.open(frame, site.sealed([frame])[0], into)

        return self._from_any(again)

    def _from_any(self, get: Callable[[Repository], _T]) -> _T:
        first: RefloatError | None = None
        for site in self.sites:
            try:
                return get(site)
            except RefloatError as error:
                first = first or error
                if len(self.sites) > 1 and len(self.complaints) < 100:
                    self.complaints.append(error.message)
        failure = first or SiteError("no site holds this image")
        failure.hint = failure.hint or _HINT
        raise failure


def _unb64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise FormatError("a sealed key in the manifest is not base64") from error
