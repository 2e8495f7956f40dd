"""Packs that are mostly dead: their live frames copied, sealed as they are, into new packs, and a table that says so.

Nothing is deleted here. Until a later garbage collection takes the old packs, each frame is in two places; killed
anywhere, this leaves a pack that nothing names, or some packs moved and others not. May import `core`, `imager`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from core.errors import CorruptError, ObjectExistsError
from core.monitor import Monitor
from imager.repository.frames import Frame, PackRef, digest_bytes
from imager.repository.live import HEADER_BYTES, Live
from imager.repository.moved import Place, encode_table
from imager.repository.packs import FRAMES_MAX, PACK_MAX, PackBuilder
from imager.repository.segments import Segment
from imager.repository.store import Repository, near

#: New packs are of this size, where frames allow.
PACK_BYTES = 32 << 20


@dataclass
class Victim:
    """A pack whose live frames move: by offset in it, each with what the map says of it."""

    pack: PackRef
    frames: dict[int, Frame] = field(default_factory=dict)

    @property
    def live_bytes(self) -> int:
        return sum(frame.length + HEADER_BYTES for frame in self.frames.values())


@dataclass
class Repacked:
    """What was done: packs moved away from, packs written, sealed bytes copied."""

    moved: int = 0
    written: int = 0
    copied_bytes: int = 0


def find_victims(live: Live, prefixes: set[bytes], segments: Iterable[Segment]) -> list[Victim]:
    """The live frames of these packs, in the order in which the maps name them: what is near on disk comes together."""
    found: dict[bytes, Victim] = {}
    for segment in segments:
        for frame in segment.frames():
            place = live.place(frame)
            if place.pack.digest[:8] in prefixes:
                victim = found.setdefault(place.pack.digest, Victim(place.pack))
                victim.frames.setdefault(place.offset, frame)
    return [each for each in found.values() if 2 * each.live_bytes < each.pack.size_bytes]


def repack(repository: Repository, victims: Iterable[Victim], monitor: Monitor) -> Repacked:
    """Copy and tell. CorruptError when a frame is not what its map says: then nothing is told of that pack."""
    done = Repacked()
    buffer = memoryview(bytearray(PACK_MAX))
    for batch in _batches(victims):
        _move(repository, batch, buffer, done, monitor)
    return done


def _batches(victims: Iterable[Victim]) -> Iterator[list[Victim]]:
    """Victims whose live frames fill one pack."""
    batch: list[Victim] = []
    size = count = 0
    for each in victims:
        if batch and (size + each.live_bytes > PACK_BYTES or count + len(each.frames) > FRAMES_MAX):
            yield batch
            batch, size, count = [], 0, 0
        batch.append(each)
        size, count = size + each.live_bytes, count + len(each.frames)
    if batch:
        yield batch


def _move(repository: Repository, batch: list[Victim], buffer: memoryview, done: Repacked, monitor: Monitor) -> None:
    builder = PackBuilder(buffer, PACK_MAX)
    moved: list[dict[int, Frame]] = []
    for victim in batch:
        copies = {}
        for offset, frame, sealed in _read(repository, victim):
            copy = Frame(frame.key_id, frame.number, frame.blocks, frame.length, frame.digest)
            builder.add(copy, bytes(sealed))
            copies[offset] = copy
        moved.append(copies)
    ref = builder.finish()
    name = repository.pack_name(ref)
    try:
        repository.site.put(name, [builder.body])
    except ObjectExistsError:
        # Left by a killed run of this; another may be taking it away this moment. It comes to its age, and then again.
        monitor.step(f"{name} was there already; its frames are moved another time")
        return
    if digest_bytes(repository.site.get(name)) != ref.digest:
        raise CorruptError("a pack just written reads back otherwise", site=repository.site.name, object=name)
    done.written += 1
    for victim, copies in zip(batch, moved, strict=True):
        places: Mapping[int, Place] = {offset: Place(ref, copy.offset, copy.length) for offset, copy in copies.items()}
        try:
            repository.site.put(repository.moved.table_name(victim.pack), [encode_table(victim.pack, dict(places))])
        except ObjectExistsError:  # another collection was first: its table is as good
            continue
        done.moved += 1
        done.copied_bytes += victim.live_bytes


def _read(repository: Repository, victim: Victim) -> Iterator[tuple[int, Frame, memoryview]]:
    """(offset, frame, sealed bytes) of the live frames, each compared with its map."""
    name = repository.pack_name(victim.pack)
    places = {offset: Place(victim.pack, offset, frame.length) for offset, frame in victim.frames.items()}
    for group in near(sorted(places), places.__getitem__):
        start = group[0]
        end = max(offset + places[offset].length for offset in group)
        data = memoryview(repository.site.get(name, start, end - start))
        for offset in group:
            frame = victim.frames[offset]
            sealed = data[offset - start : offset - start + frame.length]
            if digest_bytes(sealed) != frame.digest:
                raise CorruptError(
                    f"{name} at site {repository.site.name}: a frame in it is not the one the map means",
                    hint="`refloat verify` names the images that are touched",
                    site=repository.site.name,
                    object=name,
                )
            yield offset, frame, sealed
