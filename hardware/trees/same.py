"""Whether two trees of files are the same: every name, what it is, all it has, every byte. Imports `attributes` and
`survey`."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field

import msgspec

from hardware.trees.attributes import KEPT, marks, opened, xattrs
from hardware.trees.survey import entries

_CHUNK = 1 << 20
_MENTIONED = 20


class Comparison(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`differences`: the first of them, in words; `count`: how many there are; `content_bytes`: read of each tree."""

    entries: int
    content_bytes: int
    count: int = 0
    differences: tuple[str, ...] = ()


def compare(source: bytes, target: bytes) -> Comparison:
    """Kind, mode, owner, size, time of modification, which names are one file, extended attributes, flags, content.
    Not compared: inode numbers, times of access, creation and attribute change, where holes are. Raises OSError."""
    return _Comparing(source, target).run()


@dataclass
class _Comparing:
    source: bytes
    target: bytes
    names: int = 0
    content_bytes: int = 0
    count: int = 0
    differences: list[str] = field(default_factory=list)
    #: Inode numbers of files with several names: source → target.
    twins: dict[int, int] = field(default_factory=dict)
    one: memoryview = field(default_factory=lambda: memoryview(bytearray(_CHUNK)))
    other: memoryview = field(default_factory=lambda: memoryview(bytearray(_CHUNK)))

    def run(self) -> Comparison:
        for path, state in entries(self.source):
            self.names += 1
            where = os.path.relpath(path, self.source)
            copy = os.path.join(self.target, where)
            try:
                now = os.lstat(copy)
            except FileNotFoundError:
                self._differs(where, "is missing")
                continue
            for what in self._differing(path, state, copy, now):
                self._differs(where, what)
        return Comparison(
            entries=self.names, content_bytes=self.content_bytes, count=self.count, differences=tuple(self.differences)
        )

    def _differs(self, where: bytes, what: str) -> None:
        self.count += 1
        if self.count <= _MENTIONED:
            self.differences.append(f"{os.fsdecode(where)!r} {what}")

    def _differing(self, path: bytes, was: os.stat_result, copy: bytes, now: os.stat_result) -> list[str]:
        if stat.S_IFMT(was.st_mode) != stat.S_IFMT(now.st_mode):
            return ["is of another kind"]
        pairs = {
            "mode": (was.st_mode, now.st_mode), "owner": (was.st_uid, now.st_uid), "group": (was.st_gid, now.st_gid),
            "time of modification": (was.st_mtime_ns, now.st_mtime_ns), "attributes": (xattrs(path), xattrs(copy)),
            "flags": (self._marks(path, was), self._marks(copy, now)), "names": self._names(was, now),
        }  # fmt: skip
        if stat.S_ISLNK(was.st_mode):
            pairs["target"] = (os.readlink(path), os.readlink(copy))
        if stat.S_ISCHR(was.st_mode) or stat.S_ISBLK(was.st_mode):
            pairs["device number"] = (was.st_rdev, now.st_rdev)
        found = [f"has another {what}" for what, (before, after) in pairs.items() if before != after]
        if stat.S_ISDIR(was.st_mode):
            extra = set(os.listdir(copy)) - set(os.listdir(path))
            found += [f"holds {os.fsdecode(name)!r} as well" for name in sorted(extra)]
        if stat.S_ISREG(was.st_mode):
            same = was.st_size == now.st_size and self._same_content(path, copy, was.st_size)
            found += [] if same else ["has another content"]
        return found

    def _marks(self, path: bytes, state: os.stat_result) -> tuple[int, int]:
        found = marks(path, state.st_mode)
        return found.flags & KEPT, found.project

    def _names(self, was: os.stat_result, now: os.stat_result) -> tuple[object, object]:
        """Equal where the names of one file are those of one file again."""
        if stat.S_ISDIR(was.st_mode) or was.st_nlink == now.st_nlink == 1:
            return 0, 0
        return (self.twins.setdefault(was.st_ino, now.st_ino), was.st_nlink), (now.st_ino, now.st_nlink)

    def _same_content(self, path: bytes, copy: bytes, size: int) -> bool:
        with opened(path) as one, opened(copy) as other:
            at = 0
            # what is a hole in both reads as zeros in both
            while (at := min(_next_data(one, at, size), _next_data(other, at, size))) < size:
                length = min(_CHUNK, size - at)
                if not self._read(one, self.one[:length], at) or not self._read(other, self.other[:length], at):
                    return False
                if self.one[:length] != self.other[:length]:
                    return False
                at += length
                self.content_bytes += length
        return True

    def _read(self, handle: int, buffer: memoryview, at: int) -> bool:
        done = 0
        while done < len(buffer) and (count := os.preadv(handle, [buffer[done:]], at + done)):
            done += count
        return done == len(buffer)


def _next_data(handle: int, at: int, size: int) -> int:
    try:
        return os.lseek(handle, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):  # a filesystem without holes
            return at
        raise
