"""A lineage: sites that share a parent and what is durable of killed runs. It knows what its sites have, and
collects what changed.

Usually all sites are one lineage; after a night that one of them missed there are two, fed from the same read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from imager.repository.journal import Journal
from imager.repository.layers import Cursor, clip, coalesce, merge_from, stack
from imager.repository.manifest import Manifest, SegmentRef
from imager.repository.segments import DATA, ITEMS_MAX, UNUSED, ZERO, Item, SegmentBuilder, cut, digest_of, run
from imager.repository.store import Repository, StoredImage
from imager.repository.worker import SpanResult
from imager.spans import Idle, Span

Layers = tuple[tuple[SegmentRef, ...], ...]
#: Takes a finished segment: its name and bytes. The caller makes it durable before anything refers to it.
Emit = Callable[[SegmentRef, bytes], None]


@dataclass
class SiteState:
    """What one site has of this server when a run begins."""

    name: str
    repository: Repository
    parent: StoredImage | None
    journals: list[tuple[Journal, frozenset[str]]] = field(default_factory=list)
    images: tuple[str, ...] = ()
    lost: frozenset[bytes] = frozenset()
    place: str = ""
    """What `Site.place` said."""

    def same_lineage(self) -> object:
        """Sites for which this is equal are fed alike."""
        layers = self.parent.manifest.layers if self.parent else None
        sizes = self.parent.manifest.block_counts if self.parent else None
        return (layers, sizes, [(journal.key_id, packs) for journal, packs in self.journals], self.lost)


class Writer:
    """Cuts a stream of items into segments; items wait until their frame's pack has its name."""

    def __init__(self, server_id: bytes, emit: Emit) -> None:
        self._server_id, self._emit = server_id, emit
        self._waiting: deque[Item] = deque()
        self._builder = SegmentBuilder(server_id)
        self.refs: list[SegmentRef] = []
        self.key_ids: set[bytes] = set()
        self.count = 0

    def add(self, item: Item) -> None:
        """Take an item; runs that touch become one."""
        waiting = self._waiting
        if item.kind != DATA and waiting:
            last = waiting[-1]
            if last.kind == item.kind and last.volume == item.volume and last.end == item.block:
                waiting[-1] = last._replace(count=last.count + item.count)
                return
        waiting.append(item)

    def flush(self, *, final: bool = False) -> None:
        """Move on what can be placed. The last item stays unless `final`: a run may still grow."""
        waiting = self._waiting
        while len(waiting) > (0 if final else 1) and (waiting[0].frame is None or waiting[0].frame.pack is not None):
            for piece in cut(waiting.popleft()):
                self._place(piece)
        if final:
            assert not waiting, "every pack is finished before the last flush"  # noqa: S101
            self._finish_segment()

    def _place(self, item: Item) -> None:
        self._builder.add(item)
        self.count += 1
        if item.frame is not None:
            self.key_ids.add(item.frame.key_id)
        if self._builder.count == ITEMS_MAX:
            self._finish_segment()

    def _finish_segment(self) -> None:
        builder, self._builder = self._builder, SegmentBuilder(self._server_id)
        if not builder.count:
            return
        data = builder.build()
        ref = SegmentRef(
            digest=digest_of(data), size_bytes=len(data), items=builder.count, first=builder.first, last=builder.last
        )
        self.refs.append(ref)
        self._emit(ref, data)


class Lineage:
    """One lineage of a run; `sites` share everything that matters."""

    def __init__(self, sites: Sequence[SiteState], server_id: bytes, emit: Emit) -> None:
        self.sites = list(sites)
        self._server_id, self._emit = server_id, emit
        self._first = sites[0]
        self._journal_packs = {bytes.fromhex(name) for _, packs in self._first.journals for name in packs}
        self._key_ids_of: dict[str, set[bytes]] = {}
        self._cursor = Cursor(self._known())
        self.delta = Writer(server_id, emit)
        self.changed_blocks = 0

    @property
    def parent(self) -> Manifest | None:
        return self._first.parent.manifest if self._first.parent else None

    def _known(self) -> Iterator[Item]:
        layers: list[Iterator[Item]] = []
        if self.parent is not None:
            whole = clip(stack([self._layer(layer) for layer in self.parent.layers]), self.parent.block_counts)
            # What lay in a pack that is gone is not there: it is stored anew, and this image is whole again.
            layers.append(item for item in whole if not self._is_lost(item))
        layers.extend(journal.items(set(packs)) for journal, packs in self._first.journals)
        return stack(layers)

    def parent_items(self, volume: int) -> Iterator[Item]:
        """What the parent has of a volume, in order, without regard to what `known` is asked; killed runs do not
        count. What lay in packs that are gone is left out."""
        layers = self.parent.layers if self.parent else ()
        own = [tuple(ref for ref in layer if ref.first[0] <= volume <= ref.last[0]) for layer in layers]
        for item in stack([self._layer(layer) for layer in own]):
            if item.volume == volume and not self._is_lost(item):
                yield item

    @property
    def can_be_tracked(self) -> bool:
        """Whether what is known here is what the parent has: with packs of killed runs it is not."""
        return self.parent is not None and not self._first.journals

    def _is_lost(self, item: Item) -> bool:
        pack = item.frame.pack if item.frame is not None else None
        return pack is not None and pack.digest in self._first.lost

    def _layer(self, layer: tuple[SegmentRef, ...]) -> Iterator[Item]:
        for ref in layer:
            segment = self._first.repository.segment(ref, self._server_id)
            self._key_ids_of[ref.digest] = set(segment.keys)
            yield from segment.items()

    def known(self, volume: int, span: Span) -> list[Item | None]:
        """What the sites have of each block of a span."""
        start, stop = span.block, span.block + len(span.masks)
        found: list[Item | None] = [None] * (stop - start)
        for item in self._cursor.take(volume, start, stop):
            for block in range(item.block, item.end):
                found[block - start] = item
        return found

    def idle_changed(self, volume: int, idle: Idle) -> bool:
        """Whether an idle stretch is anything else in what the sites have."""
        kind = UNUSED if idle.unused else ZERO
        return not self._cursor.is_all(volume, idle.block, idle.block + idle.count, kind)

    def add_idle(self, volume: int, idle: Idle) -> None:
        """Record an idle stretch that changed."""
        self.delta.add(run(volume, idle.block, idle.count, UNUSED if idle.unused else ZERO))

    def add_span(self, volume: int, span: Span, known: Sequence[Item | None], result: SpanResult, bit: int) -> None:
        """Record what a span's blocks are now, where that differs; new blocks are found in frames whose need has
        `bit`."""
        placed: dict[int, tuple[SpanResult, int, int]] = {}
        for number, sealed in enumerate(result.frames):
            if sealed.need & bit:
                for slot, index in enumerate(sealed.places):
                    placed[index] = (result, number, slot)
        for index, digest in enumerate(result.digests):
            block, before = span.block + index, known[index]
            if digest is None:
                if before is None or before.kind != ZERO:
                    self.delta.add(run(volume, block, 1, ZERO))
            elif index in placed:
                _, number, slot = placed[index]
                frame = result.frames[number].frame
                self.delta.add(Item(volume, block, 1, DATA, slot, span.masks[index], digest, frame))
                # What is only stored anew, for its frame was worn, did not change.
                self.changed_blocks += before is None or before.kind != DATA or before.digest != digest
            elif before is not None and self._must_restate(before, span.masks[index]):
                self.delta.add(before._replace(mask=span.masks[index]))

    def _must_restate(self, before: Item, mask: int) -> bool:
        """The same bytes are there already, but committed by nobody yet, or with other pages free."""
        assert before.frame is not None and before.frame.pack is not None  # noqa: S101 - data read from a segment has both
        return before.mask != mask or before.frame.pack.digest in self._journal_packs

    def finish(self) -> tuple[Layers, set[bytes]]:
        """The layers of the new image, merged where the rule says so, and the ids of all keys they name."""
        self.delta.flush(final=True)
        old = self.parent.layers if self.parent else ()
        lost = bool(self._first.lost)
        if not self.delta.refs and not lost:
            return old, self._key_ids(old)
        newest = (tuple(self.delta.refs),) if self.delta.refs else ()
        # Packs that are gone must not be named by any segment of a new image, not even where they are hidden.
        start = 0 if lost else merge_from([sum(ref.items for ref in layer) for layer in (*old, *newest)])
        if start == len(old):
            return (*old, *newest), self._key_ids(old) | self.delta.key_ids
        merged = Writer(self._server_id, self._emit)
        fresh = self._first.repository
        layers = [fresh.layer(layer, self._server_id) for layer in (*old[start:], *newest)]
        for item in coalesce(stack(layers)):
            if not self._is_lost(item):
                merged.add(item)
                merged.flush()
        merged.flush(final=True)
        return (*old[:start], tuple(merged.refs)), self._key_ids(old[:start]) | merged.key_ids

    def _key_ids(self, layers: Layers) -> set[bytes]:
        """Key ids that the listed segments name; segments nobody looked at are read for it."""
        found: set[bytes] = set()
        for ref in (ref for layer in layers for ref in layer):
            if ref.digest not in self._key_ids_of:
                self._key_ids_of[ref.digest] = set(self._first.repository.segment(ref, self._server_id).keys)
            found |= self._key_ids_of[ref.digest]
        return found


def group_sites(
    sites: Sequence[SiteState], server_id: bytes, emit: Callable[[Sequence[SiteState]], Emit]
) -> list[Lineage]:
    """Sites as lineages. `emit` gives, for the sites of a lineage, what takes its segments."""
    groups: list[list[SiteState]] = []
    for site in sites:
        for group in groups:
            if group[0].same_lineage() == site.same_lineage():
                group.append(site)
                break
        else:
            groups.append([site])
    return [Lineage(group, server_id, emit(group)) for group in groups]
