"""Loop devices as context managers: a range of a file or device appears as a block device, and goes away again.

The kernel takes them away by itself when their last opener is gone, so that nothing is left behind by a process that
was killed. Imports `core` and `hardware.facts`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import os.path
import struct
import time
from collections.abc import Iterator

from core.errors import SourceError, ToolError
from core.run import Runner
from hardware.facts import SYS, facts_of, read_sys

# linux/loop.h; LOOP_CONFIGURE is there since Linux 5.8
_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE = 0x4C82, 0x4C0A
_READ_ONLY, _AUTOCLEAR, _PARTSCAN = 1, 4, 8
#: struct loop_config: fd, block_size, loop_info64 (device, inode, rdevice, offset, sizelimit; number, two of
#: encryption, flags; file name, two of encryption; init), reserved.
_CONFIG = struct.Struct("=II 5Q 4I 64s64s32s 2Q 8Q")
_TRIES = 50
_PATIENCE_S = 5.0


@contextlib.contextmanager
def attach(
    path: str,
    *,
    offset_bytes: int = 0,
    size_bytes: int | None = None,
    sector_bytes: int | None = None,
    read_only: bool = True,
    partitions: bool = False,
    runner: Runner,
) -> Iterator[str]:
    """A block device over `size_bytes` (None: to the end) at `offset_bytes` of `path`; detached when the block is left,
    and also when this process is killed in it (then as soon as no tool has it open any more).

    `sector_bytes` None means the device's own, 512 for files. A whole block device whose sector size is not changed is
    given as it is. With `partitions` the kernel makes nodes for the partitions on it. Raises SourceError or ToolError.
    """
    facts = facts_of(path)
    sector = sector_bytes or facts.sector_bytes
    if (
        not facts.is_file
        and not offset_bytes
        and size_bytes in (None, facts.size_bytes)
        and sector == facts.sector_bytes
    ):
        yield facts.path
        return
    size = facts.size_bytes - offset_bytes if size_bytes is None else size_bytes
    # the kernel would silently cut a range to whole sectors, and one beyond the end to the end
    if offset_bytes < 0 or size <= 0 or offset_bytes + size > facts.size_bytes or size % sector or offset_bytes % 512:
        raise SourceError(
            f"no range of {size} bytes at {offset_bytes} in {path} ({facts.size_bytes} bytes, sectors of {sector})",
            path=path,
        )
    flags = _AUTOCLEAR | (_READ_ONLY if read_only else 0) | (_PARTSCAN if partitions else 0)
    name = os.fsencode(facts.path)[:63]
    info: tuple[int | bytes, ...] = (0, 0, 0, offset_bytes, size, 0, 0, 0, flags, name, b"", b"", *[0] * 10)
    with _loop(facts.path, sector, info, runner) as node:
        if partitions:  # some kernels are built without parsers; 1: there is no table, and so no partition
            runner.run(
                ["partx", "--update", "--nr", "1:1024", node],
                purpose=f"show the kernel the partitions of {path}",
                ok=(0, 1),
            )
        yield node


@contextlib.contextmanager
def _loop(path: str, sector: int, info: tuple[int | bytes, ...], runner: Runner) -> Iterator[str]:
    """A loop device that lives as long as somebody has it open; here that is this block."""
    node, handle = _configure(path, sector, info)
    mark = ("", "")
    try:
        mark = _mark(node)
        yield node
    finally:
        os.close(handle)
        _await_detached(node, mark, path, runner)


def _await_detached(node: str, mark: tuple[str, str], path: str, runner: Runner) -> None:
    # udev, or a tool that was started in the block, may have it open a moment longer
    deadline = time.monotonic() + _PATIENCE_S
    while mark[0] and _mark(node) == mark and time.monotonic() < deadline:
        time.sleep(0.01)
    if mark[0] and _mark(node) == mark:
        runner.run(["losetup", "--detach", node], purpose=f"detach {path}")


def _configure(path: str, sector: int, info: tuple[int | bytes, ...]) -> tuple[str, int]:
    """The node, and the handle that keeps it attached. Another process may be faster at taking a free one: EBUSY."""
    mode = os.O_CLOEXEC | (os.O_RDONLY if int(info[8]) & _READ_ONLY else os.O_RDWR)
    try:
        with _opened(path, mode) as backing, _opened("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC) as control:
            for _attempt in range(_TRIES):
                node = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
                with _opened(node, mode) as handle:
                    try:
                        fcntl.ioctl(handle, _LOOP_CONFIGURE, _CONFIG.pack(backing, sector, *info))
                    except OSError as error:
                        if error.errno != errno.EBUSY:
                            raise
                        time.sleep(0.01)
                        continue
                    # not the writable one: kernels can refuse to mount what somebody has open for writing, and closing
                    # it makes udev look at the device once more
                    return node, os.open(node, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ToolError(
            f"could not attach {path} to a loop device: {error.strerror}",
            hint="run as root; is the loop driver there (modprobe loop), in Linux 5.8 or later?",
            path=path,
        ) from error
    raise ToolError(f"could not attach {path}: other processes took every loop device", hint="try again", path=path)


@contextlib.contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    handle = os.open(path, flags)
    try:
        yield handle
    finally:
        os.close(handle)


def _mark(node: str) -> tuple[str, str]:
    """What the loop device is attached to, or two empty texts; the number (Linux 5.15) counts attachments."""
    folder = SYS / "block" / os.path.basename(node)
    backing = read_sys(folder / "loop/backing_file")
    return (backing, read_sys(folder / "diskseq")) if backing else ("", "")


def settle(runner: Runner) -> None:
    """Wait until udev has handled what the kernel announced; at once where no udevd runs."""
    if os.path.exists("/run/udev/control"):
        runner.run(["udevadm", "settle", "--timeout=30"], purpose="wait for udev", timeout=60)
