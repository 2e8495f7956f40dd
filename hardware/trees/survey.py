"""What a tree of files holds: how much room it takes, and what in it cannot be copied. Imports `core`, `attributes`."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

import msgspec

from core.sizes import align_up
from hardware.trees.attributes import FOREIGN, LOST, marks

#: What a file takes at least; no filesystem that is made here has smaller blocks on a disk with 4096-byte sectors.
_BLOCK_BYTES = 4096
_MENTIONED = 5

Entry = tuple[bytes, os.stat_result]


class Survey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`inodes`: files and folders, a file of several names once; `data_bytes`: what they take, holes left out.
    `foreign`: why it cannot be copied (the first reasons); `lost`: how many files would lose compression or
    no-copy-on-write."""

    inodes: int
    data_bytes: int
    foreign: tuple[str, ...] = ()
    lost: int = 0


def entries(root: bytes) -> Iterator[Entry]:
    """Everything below a folder, it first, each folder before what it holds, in order of name; nothing of a filesystem
    (or btrfs subvolume) that lies below it, but for its folder."""
    first = os.lstat(root)
    todo: list[Entry] = [(root, first)]
    while todo:
        path, state = todo.pop()
        yield path, state
        if stat.S_ISDIR(state.st_mode) and state.st_dev == first.st_dev:
            names = sorted(os.listdir(path), reverse=True)
            todo += [(inside, os.lstat(inside)) for inside in (os.path.join(path, name) for name in names)]


def survey(root: bytes) -> Survey:
    """Walk it all. Raises OSError for what cannot be read: half a tree is no answer."""
    device = os.lstat(root).st_dev
    seen: set[int] = set()
    foreign: list[str] = []
    inodes = data = lost = 0
    for path, state in entries(root):
        if state.st_nlink > 1 and not stat.S_ISDIR(state.st_mode):
            if state.st_ino in seen:
                continue
            seen.add(state.st_ino)
        inodes += 1
        data += align_up(state.st_blocks * 512, _BLOCK_BYTES)
        where = os.fsdecode(os.path.relpath(path, root))
        if state.st_dev != device:
            foreign.append(f"{where} is a subvolume")
            continue
        flags = marks(path, state.st_mode).flags
        foreign += [f"{where} is {what}" for bit, what in FOREIGN.items() if flags & bit]
        lost += bool(flags & LOST)
    more = [f"and {len(foreign) - _MENTIONED} more"] if len(foreign) > _MENTIONED else []
    return Survey(inodes=inodes, data_bytes=data, foreign=(*foreign[:_MENTIONED], *more), lost=lost)
