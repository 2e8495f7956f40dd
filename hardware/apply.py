"""Does to a target what a plan says, all but the image's bytes: tables, swap, growing, clearing.

Each function may be run again after any interruption and then finishes the work; where nothing is left to do it writes
nothing. Imports `core` and `hardware.{actions,attach,facts,gpt,kernelview,privately,tables}`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from core.errors import RefloatError, SourceError, TargetError, ToolError, WriteError
from core.layout import Partition, Role, Table, TableKind
from core.monitor import Monitor
from core.run import Runner
from hardware.actions import ClearSpace, ClearTable, GrowFilesystem, MakeSwap, WriteTable
from hardware.attach import attach
from hardware.facts import Facts, facts_of, is_map, partition_nodes, read_range, sys_folder
from hardware.gpt import SIGNATURE
from hardware.kernelview import refresh
from hardware.privately import PrivateMount, mount_points, run_mounted
from hardware.tables import look_at_gpt, read_table

_RESTART = "the restore can be started again and goes on where it was"


def write_table(action: WriteTable, runner: Runner, monitor: Monitor) -> bool:
    """Make the target's partition table what the action says, and the kernel see it. False when nothing had to be done.

    Raises TargetError when the disk is in use or not the size the plan was made for, WriteError when what is read back
    differs. A power failure in between leaves a table that is rewritten the next time.
    """
    facts = _facts(action.path, action.sector_bytes)
    if facts.size_bytes // action.sector_bytes != action.disk_bytes // action.sector_bytes:
        raise TargetError(f"{action.path} is not the size the plan was made for", hint="make the plan again")
    if _is_there(facts, action.table, runner):
        refresh(facts, action.table, runner)
        return False
    monitor.step(action.describe())
    _claim(facts)
    with attach(action.path, sector_bytes=action.sector_bytes, read_only=False, runner=runner) as node:
        argv = ["sfdisk", "--quiet", "--wipe", "always", "--wipe-partitions", "never"]
        argv += ["--no-reread", "--no-tell-kernel", node]
        runner.run(argv, purpose=f"write the table of {action.path}", stdin=sfdisk_script(action).encode())
    _sync(action.path)
    found, _seen = read_table(facts, runner)
    if found is None or not same_table(found, action.table):
        raise WriteError(f"the table of {action.path} reads back otherwise than it was written", hint=_RESTART)
    refresh(facts, action.table, runner)
    return True


def sfdisk_script(action: WriteTable) -> str:
    """The table in sfdisk's own language (sfdisk(8), "Input formats"), numbers first, in sectors."""
    table, sector = action.table, action.sector_bytes
    lines = [f"label: {table.kind}", f"label-id: {table.id}", "unit: sectors"]
    if table.kind is TableKind.GPT:
        lines += [f"table-length: {table.entries}", f"first-lba: {table.first_bytes // sector}"]
    # an extended partition has to be there before its logicals
    rows = sorted(table.partitions, key=lambda part: (part.role is Role.LOGICAL, part.number))
    return "\n".join([*lines, "", *(_row(part, table.kind, sector) for part in rows), ""])


def _row(part: Partition, kind: TableKind, sector: int) -> str:
    fields = [f"start={part.start_bytes // sector}", f"size={part.size_bytes // sector}", f"type={part.type}"]
    if kind is TableKind.GPT:
        fields += [f"uuid={part.uuid}", f'name="{_quote(part.name)}"']
        fields += [f'attrs="{_attrs(part.attrs)}"'] if part.attrs else []
    return f"{part.number} : {', '.join([*fields, *(['bootable'] if part.active else [])])}"


def _quote(name: str) -> str:
    """libfdisk reads `\\x22`; everything but plain letters goes that way, so that no name can end the quotes."""
    return "".join(char if char.isalnum() and char.isascii() else _hex(char) for char in name)


def _hex(char: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in char.encode())


def _attrs(bits: int) -> str:
    named = ((0, "RequiredPartition"), (1, "NoBlockIOProtocol"), (2, "LegacyBIOSBootable"))
    words = [word for bit, word in named if bits >> bit & 1]
    return " ".join([*words, *(f"GUID:{bit}" for bit in range(48, 64) if bits >> bit & 1)])


def same_table(found: Table, wanted: Table) -> bool:
    """Whether two tables say the same, whatever their partitions hold. `first_bytes` and `entries` are GPT's alone."""

    def facts(table: Table) -> tuple[object, ...]:
        gpt = (table.first_bytes, table.entries) if table.kind is TableKind.GPT else ()
        rows = sorted(
            (part.number, part.start_bytes, part.size_bytes, part.type.upper(), part.active)
            + ((part.uuid.upper(), part.name, part.attrs) if table.kind is TableKind.GPT else ())
            for part in table.partitions
        )
        return (table.kind, table.id.upper(), *gpt, tuple(rows))

    return facts(found) == facts(wanted)


def _is_there(facts: Facts, wanted: Table, runner: Runner) -> bool:
    """An unsound table is none that could be left; an unreadable disk fails when it is written."""
    try:
        found, _seen = read_table(facts, runner)
    except SourceError:
        return False
    if found is None or not same_table(found, wanted):
        return False
    primary = look_at_gpt(facts).primary if wanted.kind is TableKind.GPT else None
    # on an enlarged disk the backup stands in the middle
    return primary is None or primary.alternate == facts.size_bytes // facts.sector_bytes - 1


def make_swap(action: MakeSwap, runner: Runner, monitor: Monitor) -> bool:
    """Make swap with the old UUID and label. False when it is there already. Raises WriteError."""
    facts = _facts(action.path, action.sector_bytes)
    if _is_swap(read_range(facts.path, action.offset_bytes, 4096), action):
        return False
    monitor.step(action.describe())
    with _range(action.path, action.offset_bytes, action.size_bytes, action.sector_bytes, runner) as node:
        argv = ["mkswap", "--force", "--pagesize", "4096", "--uuid", action.uuid or "clear"]
        argv += ["--label", action.label] if action.label else []
        runner.run([*argv, node], purpose=f"make swap on {action.path}")
    _sync(action.path)
    if not _is_swap(read_range(facts.path, action.offset_bytes, 4096), action):
        raise WriteError(f"swap on {action.path} reads back otherwise than it was made", hint=_RESTART)
    return True


def _is_swap(page: bytes, action: MakeSwap) -> bool:
    """The header of `union swap_header` in linux/swap.h: version and last page at 1024, UUID and label after them."""
    last_page = action.size_bytes // 4096 - 1
    head = (1).to_bytes(4, "little") + last_page.to_bytes(4, "little") + bytes(4)
    uuid = bytes.fromhex(action.uuid.replace("-", "")) if action.uuid else bytes(16)
    label = action.label.encode()[:15].ljust(16, b"\0")
    return page[4086:4096] == b"SWAPSPACE2" and page[1024:1068] == head + uuid + label


def grow_filesystem(action: GrowFilesystem, runner: Runner, monitor: Monitor) -> None:
    """Let a filesystem that has just been written fill its partition. Doing it again does nothing. Raises ToolError."""
    monitor.step(action.describe())
    with _range(action.path, action.offset_bytes, action.to_bytes, action.sector_bytes, runner) as node:
        if action.type in ("ext2", "ext3", "ext4"):
            # 1: errors corrected, which replaying a journal counts as
            runner.run(["e2fsck", "-f", "-p", node], purpose=f"check {action.volume}", ok=(0, 1), timeout=7200)
            runner.run(["resize2fs", node], purpose=f"grow {action.volume}", timeout=7200)
        elif action.type == "xfs":
            _run_mounted(node, "xfs", "nouuid", ["xfs_growfs", "-d"], f"grow {action.volume}", runner)
        elif action.type == "btrfs":
            argv = ["btrfs", "filesystem", "resize", "max"]
            _run_mounted(node, "btrfs", "noatime", argv, f"grow {action.volume}", runner)
        else:
            raise ToolError(f"{action.type} cannot be grown", hint="restore without --grow")
    _sync(action.path)


def _run_mounted(node: str, kind: str, options: str, argv: list[str], purpose: str, runner: Runner) -> None:
    """xfs and btrfs grow only while mounted; `argv` gets the mount point as its last argument."""
    with mount_points("grow") as (where,):
        mounts = [PrivateMount(node, kind, options, where)]
        run_mounted(mounts, [*argv, where], purpose=purpose, runner=runner, timeout=600)


def clear_table(action: ClearTable, runner: Runner, monitor: Monitor) -> bool:
    """Remove what would be taken for a partition table on a disk that gets a bare filesystem. False when none is there.

    Only the GPT headers and the MBR's signature and slots go; the filesystem is written over the rest.
    """
    facts = _facts(action.path, action.sector_bytes)
    last = facts.size_bytes // action.sector_bytes - 1
    places = [lba * action.sector_bytes for lba in (1, last)]
    gpt = [at for at in places if read_range(facts.path, at, 8) == SIGNATURE]
    mbr = bool(gpt) or _has_table(facts, runner)
    if not mbr:
        return False
    monitor.step(action.describe())
    _claim(facts)
    with _writable(action.path) as handle:
        for at in gpt:
            _pwrite(handle, bytes(action.sector_bytes), at, action.path)
        if read_range(facts.path, 510, 2) == b"\x55\xaa":
            _pwrite(handle, bytes(66), 446, action.path)
    refresh(facts, None, runner)
    return True


def _has_table(facts: Facts, runner: Runner) -> bool:
    try:
        return read_table(facts, runner)[0] is not None
    except SourceError:
        return read_range(facts.path, 510, 2) == b"\x55\xaa"


def clear_space(action: ClearSpace, runner: Runner, monitor: Monitor) -> None:
    """Discard or zero the ranges of the action. Raises WriteError, or ToolError where the disk cannot discard."""
    with monitor.task(action.describe(), sum(end - start for start, end in action.ranges)) as task:
        for start, end in action.ranges:
            clear_range(action.path, start, end - start, action.how, runner)
            task.advance(end - start)


def clear_range(path: str, offset_bytes: int, size_bytes: int, how: str, runner: Runner) -> None:
    """`discard`: tell the disk (or file) that the range is unused; what it reads as then is the device's affair.
    `zero`: make it read as zeros, without writing where the device can do that by itself."""
    facts = _facts(path, None)
    place = ["--offset", str(offset_bytes), "--length", str(size_bytes)]
    if facts.is_file:
        argv = ["fallocate", "--punch-hole", *place, facts.path]  # a hole reads as zeros
    else:
        argv = ["blkdiscard", "--force", *(["--zeroout"] if how == "zero" else []), *place, facts.path]
    runner.run(argv, purpose=f"{how} unused space of {path}", timeout=24 * 3600)


@contextlib.contextmanager
def _range(path: str, offset: int, size: int, sector_bytes: int, runner: Runner) -> Iterator[str]:
    with attach(
        path, offset_bytes=offset, size_bytes=size, sector_bytes=sector_bytes, read_only=False, runner=runner
    ) as node:
        yield node


def _facts(path: str, sector_bytes: int | None) -> Facts:
    try:
        return facts_of(path, sector_bytes)
    except SourceError as error:
        raise TargetError(f"cannot use {path} as a target: {error.message}", hint=error.hint, path=path) from error


def _claim(facts: Facts) -> None:
    """Refuse a disk that somebody took since the plan was made: the kernel tells by EBUSY on O_EXCL (open(2))."""
    if facts.rdev is None:
        return
    # device-mapper itself claims a map that has partitions, for them
    # by the kernel's own nodes: udev may be making the names in /dev/mapper only now
    parts = [f"/dev/{sys_folder(rdev).name}" for rdev, _start, _size in partition_nodes(facts.rdev).values()]
    for path in parts if parts and is_map(facts.rdev) else [facts.path]:
        try:
            os.close(os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC))
        except OSError as error:
            raise TargetError(f"{path} is in use now: {error.strerror}", hint="see who: lsblk, fuser -v") from error


def is_claimed_for_partitions(path: str) -> bool:
    """Whether device-mapper claims the disk for its partitions, so that nobody else can: a multipath map that has some.

    Raises TargetError when one of those is in use.
    """
    facts = _facts(path, None)
    if facts.rdev is None or not is_map(facts.rdev) or not partition_nodes(facts.rdev):
        return False
    _claim(facts)
    return True


@contextlib.contextmanager
def _writable(path: str) -> Iterator[int]:
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield handle
        os.fsync(handle)
    except RefloatError:
        raise
    except OSError as error:
        raise WriteError(f"cannot write to {path}: {error.strerror}", hint=_RESTART, path=path) from error
    finally:
        os.close(handle)


def _pwrite(handle: int, data: bytes, offset: int, path: str) -> None:
    if os.pwrite(handle, data, offset) != len(data):
        raise WriteError(f"short write at {offset} of {path}", hint=_RESTART, path=path)


def _sync(path: str) -> None:
    with _writable(path):
        pass
