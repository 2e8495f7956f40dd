"""What a partition or bare disk holds: kind, UUID, label, sizes, and how small it could become.

Nothing is kept. Imports `core` and `hardware.{attach,facts,tables}`. What cannot be read has a kind of its own, so that
it is never taken for empty; details of a filesystem that its own tool refuses stay "not known".
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from msgspec.structs import replace

from core.errors import SourceError, ToolError
from core.layout import Content
from core.run import Runner
from hardware.attach import attach
from hardware.facts import Facts, read_range
from hardware.tables import Signatures, signatures

#: `Content.type` where blkid sees several things and will not choose: it is imaged whole, as anything unknown is.
AMBIGUOUS = "ambiguous"
#: `Content.type` where bad sectors stand in the way: what it holds is not known, and it is imaged whole around them.
UNREADABLE = "unreadable"


def read_content(facts: Facts, offset_bytes: int, size_bytes: int, *, busy: bool, runner: Runner) -> Content:
    """The content of a range. `busy`: it is mounted or otherwise in use, so what is free or how small it could get is
    left unknown. A failing disk is what an image is wanted of: a range that cannot be read is told as UNREADABLE."""
    try:
        seen = signatures(facts.path, offset_bytes, size_bytes, runner)
    except SourceError:
        return Content(type=UNREADABLE)
    return content_of(facts, offset_bytes, size_bytes, seen, busy=busy, runner=runner)


def content_of(
    facts: Facts, offset_bytes: int, size_bytes: int, seen: Signatures, *, busy: bool, runner: Runner
) -> Content:
    """The same for a range that has been probed already."""
    if seen.ambiguous:
        return Content(type=AMBIGUOUS)
    content = Content(type=seen.type, uuid=seen.uuid, label=seen.label)
    if seen.type in ("vfat", "ntfs"):
        return _boot_sector(content, read_range(facts.path, offset_bytes, 512))
    detail = _DETAILS.get(seen.type)
    if detail is None:
        return content
    with attach(
        facts.path, offset_bytes=offset_bytes, size_bytes=size_bytes, sector_bytes=facts.sector_bytes, runner=runner
    ) as node:
        try:
            return detail(content, node, busy, runner)
        except ToolError:
            return content


def _boot_sector(content: Content, sector: bytes) -> Content:
    """FAT and NTFS say both at the same place (FAT specification 1.03, 3.1; NTFS uses the field at 40)."""
    unit, small, large = int.from_bytes(sector[11:13], "little"), *struct.unpack_from("<H11xI", sector, 19)
    total = small or large or struct.unpack_from("<Q", sector, 40)[0]
    return replace(content, size_bytes=unit * total, sector_bytes=unit)


def _ext(content: Content, node: str, busy: bool, runner: Runner) -> Content:
    header = runner.run(["dumpe2fs", "-h", node], purpose=f"read the superblock of {content.type} on {node}").text
    block, blocks, free = (
        _number(rf"^{word}:\s+(\d+)$", header) for word in ("Block size", "Block count", "Free blocks")
    )
    content = replace(content, size_bytes=block * blocks, block_bytes=block)
    # the superblock's counters are only written at unmount
    if busy or "needs_recovery" in header or not re.search(r"^Filesystem state:\s+clean$", header, re.MULTILINE):
        return content
    least = runner.run(
        ["resize2fs", "-P", node], purpose=f"estimate the least size of {content.type} on {node}", timeout=600
    )
    return replace(
        content, used_bytes=block * (blocks - free), min_bytes=block * _number(r"filesystem: (\d+)", least.text)
    )


def _xfs(content: Content, node: str, busy: bool, runner: Runner) -> Content:
    argv = ["xfs_db", "-r", "-c", "sb 0", "-c", "p sectsize blocksize dblocks fdblocks", node]
    text = runner.run(argv, purpose=f"read the superblock of xfs on {node}").text
    names = ("sectsize", "blocksize", "dblocks", "fdblocks")
    sector, block, blocks, free = (_number(rf"^{word} = (\d+)$", text) for word in names)
    used = None if busy else block * (blocks - free)
    return replace(content, size_bytes=block * blocks, used_bytes=used, block_bytes=block, sector_bytes=sector)


def _btrfs(content: Content, node: str, busy: bool, runner: Runner) -> Content:
    argv = ["btrfs", "inspect-internal", "dump-super", node]
    text = runner.run(argv, purpose=f"read the superblock of btrfs on {node}").text
    size, used, block = (
        _number(rf"^{word}\s+(\d+)$", text) for word in ("dev_item.total_bytes", "bytes_used", "sectorsize")
    )
    return replace(content, size_bytes=size, used_bytes=None if busy else used, block_bytes=block)


def _number(pattern: str, text: str) -> int:
    match = re.search(pattern, text, re.MULTILINE)
    if match is None:
        raise ToolError(f"no {pattern!r} in what the tool printed")
    return int(match[1])


_DETAILS: dict[str, Callable[[Content, str, bool, Runner], Content]] = {
    "ext2": _ext, "ext3": _ext, "ext4": _ext, "xfs": _xfs, "btrfs": _btrfs,
}  # fmt: skip
