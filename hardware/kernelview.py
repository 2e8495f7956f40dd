"""What the kernel believes about a disk's partitions, brought in line with what is written on it.

Imports `core` and `hardware.{attach,facts}`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

from core.errors import WriteError
from core.layout import Role, Table
from core.run import Runner
from hardware.attach import settle
from hardware.facts import Facts, Numbers, is_map, kernel_path, partition_nodes

_BLKRRPART = 0x125F  # linux/fs.h
_TRIES = 10


def refresh(facts: Facts, table: Table | None, runner: Runner) -> None:
    """Make the kernel read the table again, wait for udev, and check that it sees these partitions (None: none).

    A loop device without partition scanning shows none, and that is in order. Raises WriteError when the kernel goes on
    with an old view: writing by its nodes would then hit the wrong place.
    """
    if facts.rdev is None or _agrees(facts.rdev, table):
        return
    settle(runner)  # udev opens a disk that has just been written
    if is_map(facts.rdev):
        _map_again(facts.path, facts.rdev, table, runner)
        return
    scanned = _reread(facts.path)
    settle(runner)
    if not _agrees(facts.rdev, table) and (scanned or partition_nodes(facts.rdev)):
        # some kernels are built without the parser for this kind of table; partx then tells them
        # without --nr it stops at the number of partitions, and a table with holes in its numbering has larger ones
        how = ["--delete"] if table is None else ["--update", "--nr", "1:1024"]
        runner.run(["partx", *how, facts.path], purpose=f"show the kernel the partitions of {facts.path}", ok=(0, 1))
        settle(runner)
    seen = partition_nodes(facts.rdev)
    if not _agrees(facts.rdev, table) and (scanned or seen):
        raise WriteError(
            f"the kernel does not see the new partitions of {facts.path}",
            hint="is something using an old one? see `lsblk`; then start the restore again",
            path=facts.path,
        )


def _map_again(path: str, rdev: Numbers, table: Table | None, runner: Runner) -> None:
    """The kernel reads no tables on mappings: kpartx makes a mapping for each partition, called as udev's rules do."""
    wanted = {part.number for part in table.partitions} if table else set()
    for number, (mapping, _start, _size) in partition_nodes(rdev).items():
        if number not in wanted:  # by name, since kpartx goes by the table, and there may be none
            argv = ["dmsetup", "remove", "--retry", os.path.basename(kernel_path(mapping))]
            runner.run(argv, purpose=f"take away partition {number} of {path}", ok=(0, 1))  # udev may be quicker
    if wanted:
        runner.run(["kpartx", "-u", "-s", "-p", "-part", path], purpose=f"map the partitions of {path}")
    settle(runner)
    if not _agrees(rdev, table):
        raise WriteError(
            f"the partitions of {path} are not mapped as they are in its table",
            hint="is something using an old one? see `lsblk`, `dmsetup ls --tree`; then start the restore again",
            path=path,
        )


def _agrees(rdev: tuple[int, int], table: Table | None) -> bool:
    seen = {number: (start, size) for number, (_rdev, start, size) in partition_nodes(rdev).items()}
    wanted = {} if table is None else {part.number: part for part in table.partitions}
    if set(seen) != set(wanted):
        return False
    # the kernel shows an extended partition as two sectors, to keep its EBR from being overwritten
    rows = ((seen[number], part) for number, part in wanted.items() if part.role is not Role.EXTENDED)
    return all(place == (part.start_bytes, part.size_bytes) for place, part in rows)


def _reread(path: str) -> bool:
    """False when this kind of device has no partitions."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for attempt in range(_TRIES):
            try:
                fcntl.ioctl(handle, _BLKRRPART)
                return True
            except OSError as error:
                if error.errno == errno.EINVAL:
                    return False
                if error.errno != errno.EBUSY or attempt == _TRIES - 1:
                    raise WriteError(
                        f"the kernel will not read the table of {path} again: {error.strerror}",
                        hint="something uses one of its partitions: see `lsblk`",
                        path=path,
                    ) from error
                time.sleep(0.2)
        return False
    finally:
        os.close(handle)
