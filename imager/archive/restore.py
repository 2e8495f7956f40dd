"""Putting volumes back from an archive: one pass over its stream, every extent written where it belongs and read back.

The stream goes from beginning to end, so a restore that was killed begins anew. Memory is one window. May import
`imager` (not `imager.repository`), `core`.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from core.errors import TargetError, WriteError
from core.monitor import Monitor, Task
from imager.archive.members import MEMBER_MAX, Extent
from imager.archive.reader import OpenArchive
from imager.placing import VolumeReport, VolumeTarget
from imager.spans import PAGE_BYTES
from imager.target import Target

_WINDOW_BYTES = 32 << 20


@dataclass(frozen=True)
class _Written:
    """A piece of the window: `view` goes to `offset` of the volume."""

    target: VolumeTarget
    offset: int
    view: memoryview


class ArchiveRestore:
    """One restore; made, run once with `run()`, thrown away."""

    def __init__(
        self, image: OpenArchive, targets: Sequence[VolumeTarget], disks: dict[str, Target], monitor: Monitor,
        *, read_back: bool = True,
    ) -> None:  # fmt: skip
        if any(each.overlay is not None for each in targets):
            raise TargetError("an archive cannot be shrunk on its way", hint="take a target as large as the old disk")
        self._image, self._disks, self._monitor, self._read_back = image, disks, monitor, read_back
        self._targets = {each.volume: each for each in targets}
        self._reports = {each.volume: VolumeReport(each.volume, unused=each.unused) for each in targets}
        self._window = memoryview(mmap.mmap(-1, _WINDOW_BYTES))
        self._check = memoryview(mmap.mmap(-1, MEMBER_MAX))
        self._filled = 0
        self._pending: list[_Written] = []

    def run(self) -> list[VolumeReport]:
        """Write everything; durable and checked when this returns. WriteError, CorruptError or SiteError otherwise."""
        total = sum(stored.description.data_bytes for stored in self._image.chain)
        with self._monitor.task("restore", total) as task:
            for target in self._targets.values():
                self._clear(target)
            for stored in self._image.chain:
                for extent, data in self._image.extents(stored):
                    self._put(extent, data, task)
                self._flush()  # the next archive may say the same places anew
        for disk in self._disks.values():
            disk.sync()
        return list(self._reports.values())

    def _clear(self, target: VolumeTarget) -> None:
        """What no filesystem used is nowhere in an archive: when it shall not stay, everything goes beforehand."""
        disk, report = self._disks[target.path], self._reports[target.volume]
        for start, stop in _without(0, target.size_bytes, target.keep):
            if target.unused == "zero":
                report.zeroed_bytes += disk.zero(target.offset_bytes + start, stop - start)
            elif target.unused == "discard":
                disk.discard(target.offset_bytes + start, stop - start)

    def _put(self, extent: Extent, data: memoryview, task: Task) -> None:
        task.advance(len(data))
        target = self._targets.get(extent.volume)
        if target is None:
            return
        end = min(extent.offset + extent.size_bytes, target.size_bytes)
        for start, stop in _without(extent.offset, end, target.keep):
            if extent.zero:
                disk, report = self._disks[target.path], self._reports[target.volume]
                report.zeroed_bytes += disk.zero(target.offset_bytes + start, stop - start)
            else:
                self._keep(target, start, data[start - extent.offset : stop - extent.offset])

    def _keep(self, target: VolumeTarget, offset: int, data: memoryview) -> None:
        if self._filled + len(data) > _WINDOW_BYTES:
            self._flush()
        view = self._window[self._filled : self._filled + len(data)]
        view[:] = data
        self._filled += -(-len(data) // PAGE_BYTES) * PAGE_BYTES  # O_DIRECT wants pages
        self._pending.append(_Written(target, offset, view))

    def _flush(self) -> None:
        """Write the window, make it durable, and read it back from the disks."""
        for each in self._pending:
            self._disks[each.target.path].write(each.target.offset_bytes + each.offset, each.view)
            self._reports[each.target.volume].written_bytes += len(each.view)
        if self._read_back:
            for path in {each.target.path for each in self._pending}:
                self._disks[path].sync()
            for each in self._pending:
                self._compare(each)
        self._pending, self._filled = [], 0

    def _compare(self, each: _Written) -> None:
        have = self._check[: len(each.view)]
        place = each.target.offset_bytes + each.offset
        self._disks[each.target.path].read(place, have)
        if have != each.view:
            raise WriteError(
                f"{each.target.path} gives other bytes back than were written, at byte {place}",
                hint="the disk is failing; replace it and restore again", path=each.target.path, offset_bytes=place,
            )  # fmt: skip
        self._reports[each.target.volume].verified_bytes += len(have)


def _without(start: int, stop: int, keep: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """[start, stop) without these ranges."""
    for low, high in sorted(keep):
        if start < min(low, stop):
            yield start, min(low, stop)
        start = max(start, high)
    if start < stop:
        yield start, stop
