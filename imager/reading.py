"""What of a volume is read, in which pieces: by its filesystem's map, started ahead. Imports `imager`, `core`."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence

from core.monitor import Monitor
from core.run import Runner
from imager.source import Source, data_extents
from imager.spans import Extent, Idle, Span, pieces, stretches
from imager.usedmap import UsedMap, used_map, why_whole


class MapAhead:
    """Starts partclone for a volume or two ahead, so that its start-up is not waited for, and judges all of them at
    the end."""

    AHEAD = 2

    def __init__(
        self,
        sources: Sequence[Source],
        runner: Runner,
        whole: frozenset[str],
        monitor: Monitor,
        stack: contextlib.ExitStack,
    ) -> None:
        """`sources` in the order they are asked for; `whole` are the names of those read without a map."""
        self._todo = deque(sources)
        self._runner, self._whole, self._monitor, self._stack = runner, whole, monitor, stack
        self._started: dict[str, UsedMap | None] = {}
        self._maps: list[UsedMap] = []

    def next(self, source: Source) -> UsedMap | None:
        """The map of this source, None when it is imaged whole."""
        while self._todo and (source.spec.name not in self._started or len(self._started) < self.AHEAD):
            self._start(self._todo.popleft())
        return self._started.pop(source.spec.name)

    def _start(self, source: Source) -> None:
        name = source.spec.name
        asked = name in self._whole
        reason = "as asked" if asked else why_whole(source, self._runner)
        if reason is not None:
            self._started[name] = None
            if source.spec.content.type and source.spec.content.type != "swap":
                self._monitor.step(f"{name} ({source.spec.content.type}) is imaged whole: {reason}")
            return
        found = self._stack.enter_context(used_map(source, self._runner))
        self._started[name] = found
        self._maps.append(found)

    def finish(self) -> None:
        """ToolError when any partclone failed after all."""
        for each in self._maps:
            each.finish()


def volume_pieces(source: Source, used: UsedMap | None) -> Iterator[Idle | Span]:
    """What to do with each block of a volume, by its filesystem's map (None: all is used)."""
    extents = [Extent(0, source.size_bytes)] if used is None else used.extents()
    return pieces(stretches(extents, source.size_bytes), data_extents(source), source.size_bytes)
