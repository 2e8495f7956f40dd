"""Loop devices as context managers: a range of a file or device appears as a block device, and goes away again.

Imports `core` and `hardware.facts`.
"""

from __future__ import annotations

import contextlib
import os.path
from collections.abc import Iterator

from core.errors import SourceError, ToolError
from core.run import Runner
from hardware.facts import facts_of


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
    """A block device over `size_bytes` (None: to the end) at `offset_bytes` of `path`; detached when the block is left.

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
    argv = ["losetup", "--find", "--show", "--offset", str(offset_bytes), "--sizelimit", str(size)]
    argv += ["--sector-size", str(sector), *(["--read-only"] * read_only), *(["--partscan"] * partitions), facts.path]
    node = runner.run(argv, purpose=f"attach {path}").text.strip()
    try:
        if partitions:  # some kernels are built without parsers; 1: there is no table, and so no partition
            runner.run(
                ["partx", "--update", "--nr", "1:1024", node],
                purpose=f"show the kernel the partitions of {path}",
                ok=(0, 1),
            )
        yield node
    finally:
        _detach(node, path, runner)


def _detach(node: str, path: str, runner: Runner) -> None:
    try:
        runner.run(["losetup", "--detach", node], purpose=f"detach {path}")
    except ToolError as error:
        # a second try, since udev may have had it open; ENXIO then means that the first one took effect later
        if "No such device" not in str(error.fields.get("stderr", "")):
            runner.run(["losetup", "--detach", node], purpose=f"detach {path}")


def settle(runner: Runner) -> None:
    """Wait until udev has handled what the kernel announced; at once where no udevd runs."""
    if os.path.exists("/run/udev/control"):
        runner.run(["udevadm", "settle", "--timeout=30"], purpose="wait for udev", timeout=60)
