"""A pass of its own over the frozen sources, for archives that no repository pass feeds: because a site keeps archives
only, or could not keep up. One reader; zstd is what is waited for. May import `imager` (not `imager.repository`),
`core`.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Sequence

from core.monitor import Monitor, Task
from core.run import Runner
from imager.archive.writer import ArchiveWriter
from imager.blocks import clear_pages, digest_block, is_zero
from imager.reading import MapAhead, volume_pieces
from imager.source import Pace, Reader, Source, reading
from imager.spans import BLOCK_BYTES, SPAN_BLOCKS, Idle, Span
from imager.usedmap import UsedMap
from imager.volumes import Volume, volume_ids


class ArchivePass:
    """Made, run once, thrown away."""

    def __init__(
        self, writers: Sequence[ArchiveWriter], digest_key: bytes, pace: Pace, check: Callable[[bool], None]
    ) -> None:
        """`check` raises when the sources do not hold still any more, as in imager.repository.capture.Request."""
        self._writers, self._digest_key, self._pace, self._check = writers, digest_key, pace, check
        self._buffer = memoryview(mmap.mmap(-1, SPAN_BLOCKS * BLOCK_BYTES))

    def run(self, sources: Sequence[Source], whole: frozenset[str], runner: Runner, monitor: Monitor) -> list[Volume]:
        """Read everything and feed it; what was read, for `finish`. Raises what concerns the sources."""
        ids = volume_ids(tuple(source.spec for source in sources))
        volumes = []
        total = sum(source.size_bytes for source in sources)
        with contextlib.ExitStack() as stack, monitor.task("archive", total) as task:
            maps = MapAhead(sources, runner, whole, monitor, stack)
            for source in sources:
                volumes.append(self._volume(source, ids[source.spec.name], maps.next(source), task))
            maps.finish()
        self._check(True)
        return volumes

    def _volume(self, source: Source, number: int, used: UsedMap | None, task: Task) -> Volume:
        used_bytes = 0
        with reading(source, self._pace) as reader:
            for piece in volume_pieces(source, used):
                if isinstance(piece, Idle):
                    for writer in self._writers:
                        writer.idle(source.spec.name, piece)
                    task.advance(piece.count * BLOCK_BYTES)
                    continue
                self._span(reader, source.spec.name, number, piece)
                used_bytes += len(piece.masks) * BLOCK_BYTES
                task.advance(len(piece.masks) * BLOCK_BYTES)
                self._check(False)
                if not any(writer.open for writer in self._writers):
                    break
            unreadable = reader.unreadable
        method = "live" if source.live else "whole" if used is None else "used"
        return Volume(
            id=number, spec=source.spec, method=method, used_bytes=used_bytes, unreadable=unreadable, held=source.held,
            read_bytes=used_bytes,
        )  # fmt: skip

    def _span(self, reader: Reader, name: str, number: int, span: Span) -> None:
        view = self._buffer[: len(span.masks) * BLOCK_BYTES]
        reader.read(span.block * BLOCK_BYTES, view)
        digests: list[bytes | None] = []
        for index, mask in enumerate(span.masks):
            block = view[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES]
            if mask:
                clear_pages(block, mask)
            zero = is_zero(block)
            digests.append(None if zero else digest_block(self._digest_key, block, number, span.block + index))
        for writer in self._writers:
            writer.blocks(name, span.block, view, digests)
