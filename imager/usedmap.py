"""Which bytes of a volume its filesystem uses: partclone's domain mode, believed only when we know that the
filesystem is at rest.

The log is read through a pipe while partclone runs: its progress thread sleeps two seconds after the work is done,
so waiting for its exit first would cost that for every volume. The exit is judged by `UsedMap.finish`, before
anything is committed.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
from collections.abc import Iterator

from core.errors import SourceError, ToolError
from core.run import Runner, Stream
from imager.source import Source
from imager.spans import Extent

#: Filesystem as blkid names it → partclone program.
PROGRAMS = {
    "ext2": "partclone.extfs", "ext3": "partclone.extfs", "ext4": "partclone.extfs", "xfs": "partclone.xfs",
    "btrfs": "partclone.btrfs", "vfat": "partclone.fat", "ntfs": "partclone.ntfs",
}  # fmt: skip
#: partclone's used-block bitmap overflowed on XFS above 16 TiB (partclone#161); such volumes are imaged whole.
XFS_MAX_BYTES = 16 << 40
_ROW = re.compile(rb"0x([0-9A-Fa-f]{1,16})\s+0x([0-9A-Fa-f]{1,16})\s+([+?])\s*")


def why_whole(source: Source, runner: Runner) -> str | None:
    """Why a volume's filesystem map may not be believed, or None when it may (`docs/design.md`, Used-block maps)."""
    kind = source.spec.content.type
    if source.live:
        return "it is mounted and not frozen"
    if source.doubt:
        return source.doubt
    if kind not in PROGRAMS:
        return f"partclone has no map for {kind or 'unrecognised content'}"
    if source.map_path is None:
        return "no device shows its filesystem alone"
    if kind == "xfs" and source.size_bytes > XFS_MAX_BYTES:
        return "XFS above 16 TiB (partclone#161)"
    if kind == "xfs" and source.frozen:
        # A freeze writes all metadata to its place, and then one record to the log, so that a recovery looks for
        # unlinked files (xfs_log_quiesce, fs/xfs/xfs_log.c; xfs_fs_freeze): never clean, but true.
        return None
    return _CHECKS[kind](source.map_path(), runner)


def _read(path: str, offset: int, size: int) -> bytes:
    with open(path, "rb", buffering=0) as file:
        data = os.pread(file.fileno(), size, offset)
    if len(data) != size:
        raise SourceError(
            f"{path} is too short for its filesystem", hint="the partition may be cut off; use --live to image it whole"
        )
    return data


def _ext(path: str, runner: Runner) -> str | None:
    # fs/ext4/ext4.h: s_state at 0x3A (1 = unmounted cleanly, 2 = errors), s_feature_incompat at 0x60 (4 = journal
    # needs recovery).
    block = _read(path, 1024, 1024)
    state, incompat = struct.unpack_from("<H", block, 0x3A)[0], struct.unpack_from("<I", block, 0x60)[0]
    return None if state == 1 and not incompat & 4 else "it was not unmounted cleanly"


def _xfs(path: str, runner: Runner) -> str | None:
    result = runner.run(["xfs_logprint", "-t", path], purpose=f"see whether the XFS log of {path} is clean", ok=(0, 1))
    return None if "<CLEAN>" in result.text else "its log is not clean"


def _btrfs(path: str, runner: Runner) -> str | None:
    text = runner.run(
        ["btrfs", "inspect-internal", "dump-super", path], purpose=f"read the btrfs superblock of {path}"
    ).text
    fields = dict(re.findall(r"^(\w+)\s+(\S+)", text, re.MULTILINE))
    if fields.get("num_devices") != "1":
        return "it spans several devices"
    return None if fields.get("log_root") == "0" else "it has a log to replay"


def _vfat(path: str, runner: Runner) -> str | None:
    # Microsoft's FAT specification: bit 0 of the byte at 0x25 (FAT12/16) or 0x41 (FAT32) is set while mounted for
    # writing.
    block = _read(path, 0, 512)
    fat32 = struct.unpack_from("<H", block, 0x16)[0] == 0
    return "it was not unmounted cleanly" if block[0x41 if fat32 else 0x25] & 1 else None


def _ntfs(path: str, runner: Runner) -> str | None:
    # ntfs-3g.probe(8): 0 only when the volume could be mounted for writing, so not hibernated. It does not mind the
    # dirty flag, which partclone refuses; ntfsinfo does (utils_mount_volume in ntfsprogs).
    purpose = f"see whether {path} is clean"
    probed = runner.run(["ntfs-3g.probe", "--readwrite", path], purpose=purpose, ok=range(256)).code
    if probed or runner.run(["ntfsinfo", "-m", path], purpose=purpose, ok=range(256)).code:
        return "it is hibernated or was not unmounted cleanly"
    return None


_CHECKS = {"ext2": _ext, "ext3": _ext, "ext4": _ext, "xfs": _xfs, "btrfs": _btrfs, "vfat": _vfat, "ntfs": _ntfs}


class UsedMap:
    """A running partclone. `extents()` is read once; `finish()` must be called before what was read is relied on."""

    def __init__(self, stream: Stream, source: Source) -> None:
        self._stream, self._source = stream, source
        self._complete = False

    def extents(self) -> Iterator[Extent]:
        """Used extents, sorted. What lies behind the filesystem's end within the volume counts as used."""
        at = 0
        for line in self._stream.stdout:
            match = _ROW.fullmatch(line)
            if match is None:
                continue
            start, size = int(match[1], 16), int(match[2], 16)
            if start != at:
                raise self._broken(f"jumps from byte {at} to {start}")
            at = start + size
            if match[3] == b"+":
                yield Extent(start, size)
            if at >= self._source.size_bytes:
                break
        if not at:
            # It ended without a row: its own words are the better error.
            self._stream.finish()
            raise self._broken("is empty")
        self._complete = True
        if at < self._source.size_bytes:
            yield Extent(at, self._source.size_bytes - at)

    def finish(self) -> None:
        """Judge partclone's exit. ToolError when it failed: the map, and all that was taken by it, is void."""
        if not self._complete:
            raise self._broken("was not read to its end")
        for _ in self._stream.stdout:
            pass
        self._stream.finish()

    def _broken(self, what: str) -> ToolError:
        return ToolError(
            f"the used-block map of {self._source.spec.name} {what}",
            hint="check the filesystem; --whole images it without a map",
        )


@contextlib.contextmanager
def used_map(source: Source, runner: Runner) -> Iterator[UsedMap]:
    """Start partclone on a source for which `why_whole` gave None."""
    program = PROGRAMS[source.spec.content.type]
    assert source.map_path is not None, "`why_whole` says so otherwise"  # noqa: S101
    argv = [program, "-D", "-s", source.map_path(), "-O", "/dev/stdout", "-L", "/dev/null", "-q"]
    with runner.stream(argv, purpose=f"map the used blocks of {source.spec.name}") as stream:
        yield UsedMap(stream, source)
