"""Putting volumes back: packs fetched in parallel, every block checked, written where it belongs, and read back.

The map is gone through in windows of a few GiB of data, so memory does not depend on the size of the disk. Within a
window each pack is asked for what the window needs of it, once. Blocks that are already right are neither fetched
nor written: a killed restore goes on, and a roll-back writes the difference.
"""

from __future__ import annotations

import itertools
import mmap
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TypeVar

from core.errors import CorruptError, WriteError
from core.monitor import Monitor, Task
from imager.placing import Overlay, VolumeReport, VolumeTarget
from imager.repository.frames import FRAME_BYTES, Frame
from imager.repository.moved import Place
from imager.repository.reader import OpenImage
from imager.repository.segments import DATA, UNUSED, ZERO, Item
from imager.repository.store import near, place_of
from imager.repository.view import ImageView
from imager.spans import BLOCK_BYTES
from imager.target import Target
from imager.volumes import Volume

T = TypeVar("T")
_WINDOW_BLOCKS = 16 << 10
_CHECK_THREADS = 2
_SAMPLE = 64


@dataclass(eq=False)
class _Place:
    """A volume under restore."""

    volume: Volume
    target: VolumeTarget
    disk: Target
    report: VolumeReport
    lock: threading.Lock = field(default_factory=threading.Lock)

    def length(self, block: int) -> int:
        return min(BLOCK_BYTES, self.target.size_bytes - block * BLOCK_BYTES)

    def offset(self, block: int) -> int:
        return self.target.offset_bytes + block * BLOCK_BYTES

    def count(self, *, written: int = 0, equal: int = 0, verified: int = 0) -> None:
        with self.lock:
            self.report.written_bytes += written
            self.report.equal_bytes += equal
            self.report.verified_bytes += verified


class Restore:
    """One restore; made, run once with `run()`, thrown away."""

    def __init__(
        self, image: OpenImage, targets: Sequence[VolumeTarget], disks: dict[str, Target], monitor: Monitor,
        *, read_back: bool = True, threads: int = 8,
    ) -> None:  # fmt: skip
        self._image, self._monitor, self._read_back = image, monitor, read_back
        self._threads = threads
        self._disks = disks
        self._places: dict[int, _Place] = {}
        for each in targets:
            volume = image.manifest.volume(each.volume)
            self._places[volume.id] = _Place(
                volume, each, disks[each.path], VolumeReport(each.volume, unused=each.unused)
            )
        self._local = threading.local()

    def run(self) -> list[VolumeReport]:
        """Write everything; durable and checked when this returns. WriteError, CorruptError or SiteError otherwise."""
        whole = [place for place in self._places.values() if not place.target.keep]
        total = sum(place.target.size_bytes for place in self._places.values())
        with (
            self._monitor.task("restore", total) as task,
            ThreadPoolExecutor(self._threads, "restore") as pool,
            _ReadBack(self._check_window) as read_back,
        ):
            for place in self._places.values():
                if place.target.keep:
                    self._write_around(place, task)
            limits = {place.volume.id: -(-place.target.size_bytes // BLOCK_BYTES) for place in whole}
            if whole:
                items = self._without_overlay(self._image.items([place.volume for place in whole], limits))
                for window in _windows(items):
                    written = self._window(window, pool, task)
                    if self._read_back and written:
                        read_back.begin(written)
            read_back.finish()
            for place in whole:
                if place.target.overlay is not None:
                    self._write_overlay(place, place.target.overlay)
            for disk in self._disks.values():
                disk.sync()
        return [place.report for place in self._places.values()]

    def _without_overlay(self, items: Iterable[Item]) -> Iterator[Item]:
        """Blocks an overlay holds are written from there; runs keep them, as a later write is cheaper than cutting."""
        overlays = {place.volume.id: place.target.overlay for place in self._places.values() if place.target.overlay}
        for item in items:
            overlay = overlays.get(item.volume)
            if overlay is not None and item.kind == DATA and overlay.has(item.block):
                continue
            yield item

    # -- a window ---------------------------------------------------------------------------------------------------

    def _window(self, window: list[Item], pool: ThreadPoolExecutor, task: Task) -> list[Item]:
        """Put a window right; returns the data items that had to be written."""
        data = [item for item in window if item.kind == DATA]
        wanted = self._differing(data, pool) if self._worth_comparing(data) else data
        equal = len(data) - len(wanted)
        task.advance(equal * BLOCK_BYTES)
        # Tables of packs that were moved are asked for side by side; what follows finds them in memory.
        firsts = {place_of(item.frame).pack: item.frame for item in reversed(wanted) if item.frame is not None}
        self._run(pool, ([frame] for frame in firsts.values()), lambda some: self._image.place(some[0]))
        self._run(pool, self._jobs(wanted), lambda job: self._fetch(job, task))
        for item in window:
            if item.kind != DATA:
                self._idle(item)
                task.advance(item.count * BLOCK_BYTES)
        return wanted

    def _check_window(self, written: list[Item], pool: ThreadPoolExecutor) -> None:
        """Make a window durable, then read it back from the disk."""
        for disk in {id(each): each for each in (self._places[item.volume].disk for item in written)}.values():
            disk.sync()
        self._run(pool, _neighbours(written), self._check_written)

    def _run(self, pool: ThreadPoolExecutor, jobs: Iterable[list[T]], work: Callable[[list[T]], object]) -> None:
        """All jobs on the pool, a bounded number in flight; the first error stops the rest."""
        flying: set[Future[object]] = set()
        todo = iter(jobs)
        try:
            while True:
                for job in itertools.islice(todo, max(0, 3 * self._threads - len(flying))):
                    flying.add(pool.submit(work, job))
                if not flying:
                    return
                done, flying = wait(flying, return_when=FIRST_COMPLETED)
                for each in done:
                    each.result()
        finally:
            for each in flying:
                each.cancel()
            wait(flying)

    def _worth_comparing(self, data: list[Item]) -> bool:
        """A sample decides: reading a blank disk before writing it would only cost time."""
        if not data:
            return False
        count = min(_SAMPLE, len(data))
        sample = random.Random(len(data)).sample(data, count)  # noqa: S311 - no secret; repeatable
        buffer, _ = self._buffers()
        return any(self._is_right(item, buffer) for item in sample)

    def _is_right(self, item: Item, buffer: memoryview) -> bool:
        place = self._places[item.volume]
        self._read_run(place, item.block, 1, buffer)
        return self._image.digest(buffer[:BLOCK_BYTES], item.volume, item.block) == item.digest

    def _differing(self, data: list[Item], pool: ThreadPoolExecutor) -> list[Item]:
        wrong: list[Item] = []
        lock = threading.Lock()

        def compare(run: list[Item]) -> None:
            buffer, _ = self._buffers()
            self._read_run(self._places[run[0].volume], run[0].block, len(run), buffer)
            bad = []
            for index, item in enumerate(run):
                block = buffer[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES]
                if self._image.digest(block, item.volume, item.block) != item.digest:
                    bad.append(item)
            self._places[run[0].volume].count(equal=(len(run) - len(bad)) * BLOCK_BYTES)
            with lock:
                wrong.extend(bad)

        self._run(pool, _neighbours(data), compare)
        wrong.sort(key=lambda item: (item.volume, item.block))
        return wrong

    def _buffers(self) -> tuple[memoryview, memoryview]:
        made: tuple[memoryview, memoryview] | None = getattr(self._local, "buffers", None)
        if made is None:
            made = (memoryview(mmap.mmap(-1, FRAME_BYTES)), memoryview(mmap.mmap(-1, FRAME_BYTES)))
            self._local.buffers = made
        return made

    def _read_run(self, place: _Place, block: int, count: int, buffer: memoryview) -> None:
        """Blocks from the target; what the target lacks of the last one reads as zeros, as the digest has it."""
        length = (count - 1) * BLOCK_BYTES + place.length(block + count - 1)
        place.disk.read(place.offset(block), buffer[:length])
        if length < count * BLOCK_BYTES:
            buffer[length : count * BLOCK_BYTES] = bytes(count * BLOCK_BYTES - length)

    def _fetch(self, job: list[Item], task: Task) -> None:
        """One range of one pack: get it, and put every block it holds where it belongs."""
        frames: dict[int, tuple[Frame, list[Item]]] = {}
        for item in job:
            assert item.frame is not None  # noqa: S101 - data items have one
            frames.setdefault(id(item.frame), (item.frame, []))[1].append(item)
        for sealed, (frame, items) in zip(
            self._image.fetch([frame for frame, _ in frames.values()]), frames.values(), strict=True
        ):
            self._place_frame(frame, items, sealed)
            task.advance(len(items) * BLOCK_BYTES)

    def _jobs(self, items: Iterable[Item]) -> Iterator[list[Item]]:
        """Items by the pack they lie in now, each pack's cut into ranges worth one request; places of a window only
        are kept."""
        places: dict[int, Place] = {}

        def place(item: Item) -> Place:
            assert item.frame is not None  # noqa: S101 - data items have one
            found = places.get(id(item.frame))
            if found is None:
                found = places[id(item.frame)] = self._image.place(item.frame)
            return found

        return near(items, place)

    def _place_frame(self, frame: Frame, items: list[Item], sealed: memoryview) -> None:
        plain, scratch = self._buffers()
        self._image.plain(frame, sealed, plain)
        for run in _neighbours(items, same_frame=True):
            start = run[0].slot * BLOCK_BYTES
            for item in run:
                block = plain[item.slot * BLOCK_BYTES : (item.slot + 1) * BLOCK_BYTES]
                if self._image.digest(block, item.volume, item.block) != item.digest:
                    raise CorruptError(
                        f"block {item.block} of the image does not have the digest its map states",
                        hint="take the image from the other site",
                        object=self._image.sites[0].pack_name(place_of(frame).pack),
                        site=self._image.sites[0].site.name,
                    )
            place = self._places[run[0].volume]
            length = (len(run) - 1) * BLOCK_BYTES + place.length(run[-1].block)
            place.disk.write(place.offset(run[0].block), plain[start : start + length])
            place.count(written=length)

    def _check_written(self, run: list[Item]) -> None:
        buffer, _ = self._buffers()
        place = self._places[run[0].volume]
        self._read_run(place, run[0].block, len(run), buffer)
        for index, item in enumerate(run):
            block = memoryview(buffer)[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES]
            length = place.length(item.block)
            if length < BLOCK_BYTES and place.volume.spec.size_bytes > place.target.size_bytes:
                continue  # cut in the middle of a block: its digest covers more than was written
            if self._image.digest(block, item.volume, item.block) != item.digest:
                raise WriteError(
                    f"{place.target.path} gives other bytes back than were written, at byte {place.offset(item.block)}",
                    hint="the disk is failing; replace it and restore again",
                    path=place.target.path,
                    offset_bytes=place.offset(item.block),
                )
        place.count(verified=len(run) * BLOCK_BYTES)

    def _idle(self, item: Item) -> None:
        place = self._places[item.volume]
        offset = place.offset(item.block)
        length = min(item.count * BLOCK_BYTES, place.target.size_bytes - item.block * BLOCK_BYTES)
        if item.kind == ZERO:
            place.report.zeroed_bytes += place.disk.zero(offset, length)
            return
        assert item.kind == UNUSED  # noqa: S101 - there are three kinds
        place.report.unused_bytes += length
        if place.target.unused == "zero":
            place.report.zeroed_bytes += place.disk.zero(offset, length)
        elif place.target.unused == "discard":
            place.disk.discard(offset, length)

    # -- the slow ways ----------------------------------------------------------------------------------------------

    def _write_around(self, place: _Place, task: Task) -> None:
        """A small volume of which some bytes stay (boot code around a new table): block by block, read, merged,
        written."""
        view = ImageView(self._image)
        buffer, fresh = self._buffers()
        for block in range(-(-place.target.size_bytes // BLOCK_BYTES)):
            length = place.length(block)
            low = block * BLOCK_BYTES
            place.disk.read(place.offset(block), buffer[:length])
            fresh[:length] = view.read(place.volume, low, length)
            for start, stop in place.target.keep:
                begin, end = max(start - low, 0), min(stop - low, length)
                if begin < end:
                    fresh[begin:end] = buffer[begin:end]
            self._put_block(place, block, fresh[:length], buffer[:length])
            task.advance(length)

    def _write_overlay(self, place: _Place, overlay: Overlay) -> None:
        buffer, fresh = self._buffers()
        for block, content in overlay.blocks():
            length = place.length(block)
            if length <= 0:
                break
            fresh[:length] = content[:length]
            place.disk.read(place.offset(block), buffer[:length])
            self._put_block(place, block, fresh[:length], buffer[:length])

    def _put_block(self, place: _Place, block: int, want: memoryview, have: memoryview) -> None:
        if want.tobytes() == have.tobytes():
            place.count(equal=len(want))
            return
        place.disk.write(place.offset(block), want)
        place.disk.sync()
        place.disk.read(place.offset(block), have)
        if want.tobytes() != have.tobytes():
            raise WriteError(
                f"{place.target.path} gives other bytes back than were written", hint="the disk is failing; replace it"
            )
        place.count(written=len(want), verified=len(want))


class _ReadBack:
    """Reads one window back while the next is written. An error shows at the next `begin` or at `finish`."""

    def __init__(self, check: Callable[[list[Item], ThreadPoolExecutor], None]) -> None:
        self._check = check
        self._lead = ThreadPoolExecutor(1, "read back")
        self._pool = ThreadPoolExecutor(_CHECK_THREADS, "read back")
        self._running: Future[None] | None = None

    def __enter__(self) -> _ReadBack:
        return self

    def __exit__(self, *_ignored: object) -> None:
        self._lead.shutdown()
        self._pool.shutdown()

    def begin(self, written: list[Item]) -> None:
        """Start with a window; waits for the one before."""
        self.finish()
        self._running = self._lead.submit(self._check, written, self._pool)

    def finish(self) -> None:
        """Wait for the window under way."""
        running, self._running = self._running, None
        if running is not None:
            running.result()


def _windows(items: Iterable[Item]) -> Iterator[list[Item]]:
    todo = iter(items)
    while window := list(itertools.islice(todo, _WINDOW_BLOCKS)):
        yield window


def _neighbours(items: Iterable[Item], *, same_frame: bool = False) -> Iterator[list[Item]]:
    """Data items in runs of neighbouring blocks, at most a frame's worth; with `same_frame` their slots follow too."""
    run: list[Item] = []
    for item in items:
        last = run[-1] if run else None
        if (
            last is None
            or last.volume != item.volume
            or last.block + 1 != item.block
            or len(run) * BLOCK_BYTES >= FRAME_BYTES
            or (same_frame and last.slot + 1 != item.slot)
        ):
            if run:
                yield run
            run = []
        run.append(item)
    if run:
        yield run
