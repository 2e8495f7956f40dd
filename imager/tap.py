"""Whoever else wants the blocks of a pass: the second mechanism reads what the first one has just read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from imager.spans import Idle


class Tap(Protocol):
    """Gets every block of every volume, each once. Its own trouble never raises: it ends itself, and says so later."""

    def blocks(self, volume: str, block: int, view: memoryview, digests: Sequence[bytes | None]) -> None:
        """Neighbouring blocks from number `block` of a volume, free pages cleared, with their keyed digests (None: all
        zeros). Called from several threads, in any order; `view` is only good during the call, which may wait."""
        ...

    def idle(self, volume: str, idle: Idle) -> None:
        """Blocks that were not read: unused, or known to be zeros."""
        ...
