"""A device that shows one volume alone, for tools that know no offsets: the kernel's partition node, or a loop device.

Imports `core` and `hardware.facts`, `hardware.attach`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from core.run import Runner
from hardware.attach import attach
from hardware.facts import facts_of, partition_nodes


@contextlib.contextmanager
def volume_device(
    path: str,
    offset_bytes: int,
    size_bytes: int,
    *,
    sector_bytes: int | None = None,
    read_only: bool = True,
    runner: Runner,
) -> Iterator[str]:
    """The node for `size_bytes` at `offset_bytes` of a disk or image file. Raises SourceError or ToolError."""
    facts = facts_of(path, sector_bytes)
    if facts.is_file and not offset_bytes and size_bytes == facts.size_bytes:
        yield path  # every filesystem tool takes a plain file
        return
    if facts.rdev is not None:
        for (major, minor), start, size in partition_nodes(facts.rdev).values():
            node = Path(f"/sys/dev/block/{major}:{minor}").resolve().name
            if (start, size) == (offset_bytes, size_bytes) and Path("/dev", node).is_block_device():
                yield f"/dev/{node}"
                return
    with attach(
        path,
        offset_bytes=offset_bytes,
        size_bytes=size_bytes,
        sector_bytes=sector_bytes,
        read_only=read_only,
        runner=runner,
    ) as node:
        yield node
