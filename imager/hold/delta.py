"""What changed between two snapshots, by what device-mapper already knows: a thin pool's metadata, or the table of
chunks that a thick snapshot has saved. Ranges are bytes of the volume, [start, stop).

Imports `core` and its neighbours.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import struct
from collections.abc import Callable, Iterator

from core.errors import SourceError, ToolError
from core.run import Runner
from imager.hold import lvm

Ranges = list[tuple[int, int]]
_DELTA = re.compile(r'<(different|left_only|right_only|same)\s+begin="(\d+)"\s+length="(\d+)"\s*/>')
_UNIT = re.compile(r'data_block_size="(\d+)"')
#: drivers/md/dm-snap-persistent.c: magic `SnAp`, valid, version, chunk size in sectors; all little-endian u32.
_COW_HEADER = struct.Struct("<4I")
_COW_MAGIC, _COW_VERSION = 0x70416E53, 1
_EXCEPTION = struct.Struct("<2Q")
_DIRECT_BYTES = 4096


@contextlib.contextmanager
def metadata_snapshot(group: str, pool: str, runner: Runner) -> Iterator[str]:
    """The device on which a thin pool's metadata stands still; there can be one at a time, and one that a killed run
    left is released first."""
    device, name = lvm.pool_device(group, pool), f"{group}/{pool}"
    if lvm.pool_fill(group, pool, runner).held:
        _message(device, "release_metadata_snap", f"release a stale view of thin pool {name}", runner)
    _message(device, "reserve_metadata_snap", f"hold a view of thin pool {name}", runner)
    try:
        yield f"/dev/mapper/{lvm.dm_name(group, pool)}_tmeta"
    finally:
        _message(device, "release_metadata_snap", f"release the view of thin pool {name}", runner)


def _message(device: str, message: str, purpose: str, runner: Runner) -> None:
    runner.run(["dmsetup", "message", device, "0", message], purpose=purpose)


def thin_changes(metadata: str, before: int, after: int, runner: Runner) -> Ranges:
    """What differs between two thin devices (by id), within `metadata_snapshot`. Raises ToolError."""
    argv = ["thin_delta", "--metadata-snap", "--snap1", str(before), "--snap2", str(after), metadata]
    text = runner.run(argv, purpose="compare two thin snapshots", timeout=3600).text
    return parse_delta(text, before, after)


def parse_delta(text: str, before: int, after: int) -> Ranges:
    """thin_delta(8)'s XML: what is different, or mapped in one of the two only. Raises ToolError for anything else."""
    unit = _UNIT.search(text)
    if unit is None or f'<diff left="{before}" right="{after}">' not in text or "</superblock>" not in text:
        raise ToolError("thin_delta printed something that is not known")
    size, found = int(unit[1]) * 512, Ranges()
    for kind, begin, length in _DELTA.findall(text):
        if kind != "same":
            found.append((int(begin) * size, (int(begin) + int(length)) * size))
    return found


def thick_changes(snapshot: lvm.Snapshot) -> Ranges:
    """What was written to a volume since its thick snapshot was made. Raises SourceError for one that overflowed."""
    path = f"{snapshot.path}-cow"
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    try:
        return list(parse_cow(lambda at, size: _direct_read(handle, at, size)))
    finally:
        os.close(handle)


def _direct_read(handle: int, at: int, size: int) -> bytes:
    """Past the page cache: the kernel writes this table beside it."""
    low, high = at // _DIRECT_BYTES * _DIRECT_BYTES, -(-(at + size) // _DIRECT_BYTES) * _DIRECT_BYTES
    with mmap.mmap(-1, high - low) as memory:
        count = os.preadv(handle, [memory], low)
        return memory[at - low : min(at - low + size, count)]


def parse_cow(read: Callable[[int, int], bytes]) -> Iterator[tuple[int, int]]:
    """The chunks in a persistent exception store, in the order they were saved: a header, then areas of one chunk
    that say of as many chunks behind them where they came from."""
    header = read(0, _COW_HEADER.size)
    if len(header) < _COW_HEADER.size:
        raise SourceError("a snapshot's table is too short")
    magic, valid, version, sectors = _COW_HEADER.unpack(header)
    if magic != _COW_MAGIC or version != _COW_VERSION or not sectors or sectors & (sectors - 1):
        raise SourceError("a snapshot's table is of a form that is not known")
    if not valid:
        raise SourceError("the snapshot overflowed")
    chunk = sectors * 512
    per_area = chunk // _EXCEPTION.size
    area = 0
    while True:
        data = read((1 + area * (per_area + 1)) * chunk, chunk)
        if len(data) < chunk:
            return
        for old, new in _EXCEPTION.iter_unpack(data):
            if not new:
                return
            yield old * chunk, (old + 1) * chunk
        area += 1
