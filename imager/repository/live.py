"""What is alive at a site: which packs the maps of retained images name, and how much of each. Needs no key.

Memory at 100 TB in packs of 32 MiB (3.1 million of them): 25 bytes a pack, 8 bytes a table, and 64 MiB to count each
frame once: about 150 MiB, however many images there are. A `Live` lives as long as one garbage collection. May import
`core`, `imager`.
"""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Iterable, Iterator
from datetime import datetime

from core.errors import CorruptError
from imager.repository.frames import Frame, PackRef
from imager.repository.moved import HOPS_MAX, Place, digest_in, prefix_of
from imager.repository.segments import Segment
from imager.repository.store import Repository, place_of

#: Bytes of a frame's header in a pack.
HEADER_BYTES = 40
_SEEN_BITS = 1 << 29


class Seen:
    """Whether a frame was counted: one bit by its digest. At 100 TB one frame in ten is taken for another, and a pack
    for that much deader than it is: then it is repacked a little early, no more."""

    def __init__(self, bits: int = _SEEN_BITS) -> None:
        self._bits, self._mask = bytearray(bits // 8), bits - 1

    def add(self, digest: bytes) -> bool:
        """True the first time."""
        number = int.from_bytes(digest[:8], "little") & self._mask
        at, bit = number >> 3, 1 << (number & 7)
        fresh = not self._bits[at] & bit
        self._bits[at] |= bit
        return fresh


class Names:
    """A sorted listing of digests, 8 bytes each; those that share them are taken for one another, and both stay."""

    def __init__(self, digests: Iterable[bytes]) -> None:
        self.prefixes = array("Q", (prefix_of(each) for each in digests))
        self.named = bytearray(len(self.prefixes))

    def find(self, digest: bytes) -> int:
        """Its index, −1 if it is not there."""
        wanted = prefix_of(digest)
        at = bisect.bisect_left(self.prefixes, wanted)
        return at if at < len(self.prefixes) and self.prefixes[at] == wanted else -1

    def name(self, digest: bytes) -> None:
        """It, and all that share its prefix, are alive."""
        wanted = prefix_of(digest)
        at = bisect.bisect_left(self.prefixes, wanted)
        while at < len(self.prefixes) and self.prefixes[at] == wanted:
            self.named[at] = 1
            at += 1

    def is_named(self, digest: bytes) -> bool:
        """Whether something names it; what was not there when it was listed counts as named."""
        at = self.find(digest)
        return at < 0 or bool(self.named[at])


class Live:
    """Packs and tables of one server at one site, and what of them is alive. SiteError while listing."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._sizes = array("I")
        self.packs = Names(self._listed())
        self.live_bytes = array("I", bytes(4 * len(self._sizes)))
        self.tables = Names(repository.moved.digests())
        self._seen = Seen(min(_SEEN_BITS, max(1 << 20, 1 << (len(self._sizes) * 512).bit_length())))

    def _listed(self) -> Iterator[bytes]:
        for info in self._repository.site.list(f"{self._repository.prefix}packs/"):
            digest = digest_in(info.name)
            if digest is not None and info.name == self._repository.pack_name(PackRef(digest, 0)):
                self._sizes.append(min(info.size_bytes, (1 << 32) - 1))
                yield digest

    def count(self, segment: Segment) -> None:
        """Everything a segment of a retained image names is alive. CorruptError when it is not there."""
        for frame in segment.frames():
            place = self.place(frame)
            at = self.packs.find(place.pack.digest)
            self.packs.name(place.pack.digest)
            if self._seen.add(frame.digest):
                self.live_bytes[at] = min(self.live_bytes[at] + frame.length + HEADER_BYTES, (1 << 32) - 1)

    def place(self, frame: Frame) -> Place:
        """Where a frame is now, in a pack that was listed; the tables on the way are alive, too."""
        moved, place = self._repository.moved, place_of(frame)
        for _ in range(HOPS_MAX):
            if self.tables.find(place.pack.digest) < 0:
                return self._there(place)
            further = moved.next(place)
            if further is None:
                return self._there(place)
            self.tables.name(place.pack.digest)
            place = further
        raise CorruptError("tables of moved frames go in a circle", site=self._repository.site.name)

    def _there(self, place: Place) -> Place:
        at = self.packs.find(place.pack.digest)
        if at >= 0 and self._sizes[at] == place.pack.size_bytes:
            return place
        name = self._repository.pack_name(place.pack)
        raise CorruptError(
            f"{name} at site {self._repository.site.name}: a retained image needs it, and it is not there whole",
            hint="`refloat verify` names the images; `refloat prune --drop` takes away one that is lost anyway",
            site=self._repository.site.name,
            object=name,
        )

    def victims(self, limit: int) -> set[bytes]:
        """The 8-byte prefixes of the packs of which less than half is alive, the deadest first, at most `limit`."""
        found = [
            (self.live_bytes[at] / self._sizes[at], self.packs.prefixes[at])
            for at in range(len(self._sizes))
            if self.packs.named[at] and 2 * self.live_bytes[at] < self._sizes[at]
        ]
        return {prefix.to_bytes(8, "big") for _, prefix in sorted(found)[:limit]}


class Ages:
    """How old what nobody names must be to go. All by the site's clock.

    A run's objects come before its manifest, and a run may take longer than any delay. So something goes only when an
    image was committed after it came: then that run is over, and what it did not name it will not name. A run that
    was killed and followed by none leaves its objects for twelve delays.
    """

    def __init__(self, now: datetime, delay_seconds: float, committed: datetime | None) -> None:
        self.now, self._delay, self._committed = now, delay_seconds, committed

    def is_past(self, received: datetime) -> bool:
        """Whether the delay is over."""
        return (self.now - received).total_seconds() >= self._delay

    def is_over(self, received: datetime) -> bool:
        """Whether the run that put this is over, and the delay, too."""
        age = (self.now - received).total_seconds()
        followed = self._committed is not None and received <= self._committed
        return age >= self._delay if followed else age >= 12 * self._delay
