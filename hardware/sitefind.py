"""Does a disk hold a site? Looks into every filesystem on it, mounted or not, without mounting anything.

The one thing that must not be overwritten is a place that keeps images: other rescue systems have wiped the very disk
that held the backup. Each filesystem is read by its own tool, read-only, so no hostile disk meets the kernel's drivers,
no log is replayed, and a clone's UUID disturbs nobody. Imports `core` and `hardware.{attach,facts,machine,tables}`.
"""

from __future__ import annotations

import os
import re
import select
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator

from core.errors import SourceError, ToolError
from core.layout import Role
from core.run import Runner
from hardware.attach import attach
from hardware.facts import Facts, facts_of
from hardware.machine import SiteSpot
from hardware.tables import Signatures, look_at_gpt, read_table, signatures

MARKER = "refloat-site.json"
#: How many folders below a filesystem's root a site is looked for, and in an installed system's own folders.
DEPTH, SYSTEM_DEPTH = 5, 2
_SYSTEM = re.compile(r"bin|boot|dev|etc|lib\w*|proc|run|sbin|snap|sys|usr|Windows|Program Files.*|ProgramData")
#: Where the search of one filesystem is cut off: folders listed, seconds, folders given to a tool at a time.
MAX_FOLDERS, MAX_SECONDS, _BATCH = 20_000, 60.0, 2000
#: Recognised, and by their nature not a place that a site can be kept in.
_HARMLESS = frozenset({"swap", "swsuspend", "iso9660", "squashfs", "cramfs", "erofs"})
Place = tuple[int, int]  # offset, size


class _Unseen(Exception):
    """Nobody can tell what is inside; the text says why."""


def holds_site(path: str, runner: Runner, *, sector_bytes: int | None = None) -> tuple[SiteSpot, ...]:
    """Where on a disk or image file a site is, or may be: `refloat-site.json` in the root of a filesystem or up to
    DEPTH folders below it (SYSTEM_DEPTH in /usr, /etc and the like).

    Empty means: looked everywhere, found none. Raises SourceError when the disk cannot be read.
    """
    facts = facts_of(path, sector_bytes)
    try:
        table, _seen = read_table(facts, runner)
    except SourceError as error:
        return _on_broken_table(facts, error, runner)
    if table is None:
        places: list[Place] = [(0, facts.size_bytes)]
    else:
        places = [(part.start_bytes, part.size_bytes) for part in table.partitions if part.role is not Role.EXTENDED]
    return tuple(_spots(facts, places, runner))


def _on_broken_table(facts: Facts, error: SourceError, runner: Runner) -> tuple[SiteSpot, ...]:
    """A table torn by a power failure is two tables: look where either copy says that there is something."""
    signatures(facts.path, 0, facts.size_bytes, runner)  # raises if the disk cannot be read at all
    gpt = look_at_gpt(facts)
    sector = facts.sector_bytes
    places = {(row.first * sector, (row.last - row.first + 1) * sector) for copy in gpt.copies for row in copy.rows}
    inside = sorted(place for place in places if place[1] > 0 and sum(place) <= facts.size_bytes)
    doubt = not gpt.copies or gpt.hybrid or len(inside) != len(places) or gpt.signature_at not in (None, sector)
    spots = list(_spots(facts, inside, runner))
    return (*spots, SiteSpot(start_bytes=0, what=error.message, certain=False)) if doubt else tuple(spots)


def _spots(facts: Facts, places: Iterable[Place], runner: Runner) -> Iterator[SiteSpot]:
    for offset, size in places:
        seen = signatures(facts.path, offset, size, runner)
        try:
            found = _look(facts, (offset, size), seen, runner)
        except (_Unseen, ToolError) as error:
            why = error.message if isinstance(error, ToolError) else str(error)
            yield SiteSpot(start_bytes=offset, what=why, certain=False, uuid=seen.uuid)
            continue
        if found:
            yield SiteSpot(start_bytes=offset, what=f"{seen.type} with {found}", certain=True, uuid=seen.uuid)


def _look(facts: Facts, place: Place, seen: Signatures, runner: Runner) -> str:
    """What marks a site there, or nothing. Raises _Unseen or ToolError when it cannot be told."""
    if seen.ambiguous:
        raise _Unseen("signatures of more than one kind")
    if seen.type in _HARMLESS or not (seen.type or seen.table):
        return ""
    look = _LOOKS.get(seen.type)
    if look is None:
        raise _Unseen(f"{seen.type or seen.table + ' table'}, which cannot be looked into")
    offset, size = place
    with attach(
        facts.path, offset_bytes=offset, size_bytes=size, sector_bytes=facts.sector_bytes, runner=runner
    ) as node:
        return look(node, runner)


Listing = Callable[[list[str]], Iterator[tuple[str, str]]]


class _Walk:
    """The search of one filesystem: `listing(folders)` yields (name, folder id or "" for what is none)."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._left, self._deadline = MAX_FOLDERS, time.monotonic() + MAX_SECONDS

    def search(self, root: str) -> str:
        """Where the marker is, or nothing. Raises _Unseen when the search was cut off before it was found."""
        top = list(self._entries([root]))
        if any(name == MARKER for name, _folder in top):
            return f"{MARKER} in its root"
        folders = [entry for entry in top if entry[1]]
        system = [folder for name, folder in folders if _SYSTEM.fullmatch(name)]
        others = [folder for name, folder in folders if not _SYSTEM.fullmatch(name)]
        # the system's folders first: they are few at that depth, and the others may use up what is allowed
        return self._levels(system, SYSTEM_DEPTH) or self._levels(others, DEPTH)

    def _levels(self, level: list[str], last: int) -> str:
        for depth in range(1, last + 1):
            below = []
            for name, folder in self._entries(level):
                if name == MARKER:
                    return f"{MARKER} {depth} folders deep"
                if folder:
                    below.append(folder)
            level = below
        return ""

    def _entries(self, level: list[str]) -> Iterator[tuple[str, str]]:
        for start in range(0, len(level), _BATCH):
            batch = level[start : start + _BATCH][: self._left]
            if len(batch) < len(level[start : start + _BATCH]):
                yield from self._tidy(batch)
                raise _cut_off(f"{MAX_FOLDERS} folders")
            yield from self._tidy(batch)

    def _tidy(self, folders: list[str]) -> Iterator[tuple[str, str]]:
        self._left -= len(folders)
        for name, folder in self._listing(folders) if folders else ():
            if time.monotonic() > self._deadline:
                raise _cut_off(f"{MAX_SECONDS:.0f} s")
            if name not in (".", ".."):
                yield name, folder


def _cut_off(after: str) -> _Unseen:
    return _Unseen(f"a filesystem with so many folders that the search was cut off after {after}")


_EXT_LINE = re.compile(r"/(\d+)/(\d+)/\d+/\d+/(.*)/\d*/")


def _ext(node: str, runner: Runner) -> str:
    def listing(folders: list[str]) -> Iterator[tuple[str, str]]:
        script = "".join(f"ls -p <{folder}>\n" for folder in folders).encode()
        result = runner.run(["debugfs", "-f", "-", node], purpose=f"look into {node}", stdin=script)
        if (
            len(result.stderr.strip().splitlines()) > 1
        ):  # the first line is the version; debugfs exits 0 whatever happens
            raise _Unseen("an ext filesystem that is damaged")
        for match in _EXT_LINE.finditer(result.text):
            yield match[3], match[1] if match[2].startswith("04") else ""

    found = _Walk(listing).search("2")
    header = runner.run(["dumpe2fs", "-h", node], purpose=f"look into {node}").text
    if found or "needs_recovery" not in header:
        return found
    # fsync makes a file durable in the journal first: until that is replayed, only the journal may know of it
    if not re.search(r"^Journal inode:\s+8$", header, re.MULTILINE):
        raise _Unseen("an ext filesystem whose journal is elsewhere and not replayed")
    return f"{MARKER} in its journal" if _journal_names(node, runner) else ""


def _journal_names(node: str, runner: Runner) -> bool:
    tail = b""
    with runner.stream(["debugfs", "-R", "cat <8>", node], purpose=f"read the journal of {node}") as stream:
        while chunk := stream.stdout.read(1 << 20):
            if MARKER.encode() in tail + chunk:
                return True
            tail = chunk[-len(MARKER) :]
        stream.finish()
    return False


_XFS_LINE = re.compile(r"^\d+\s+(\d+)\s+(\S+)\s+0x[0-9a-f]+\s+\d+ (.*) \((\w+)\)$", re.MULTILINE)


def _xfs(node: str, runner: Runner) -> str:
    root = runner.run(["xfs_db", "-r", "-c", "sb 0", "-c", "p rootino", node], purpose=f"look into {node}").text

    def listing(folders: list[str]) -> Iterator[tuple[str, str]]:
        script = "".join(f"inode {folder}\nls\n" for folder in folders).encode()
        result = runner.run(["xfs_db", "-r", node], purpose=f"look into {node}", stdin=script)
        if result.stderr.strip():
            raise _Unseen("an xfs filesystem that is damaged")
        for match in _XFS_LINE.finditer(result.text):
            yield match[3], match[1] if match[2] == "directory" else ""

    found = _Walk(listing).search(root.split("=")[-1].strip())
    if not found and "<CLEAN>" not in runner.run(["xfs_logprint", "-t", node], purpose=f"read the log of {node}").text:
        raise _Unseen("an xfs filesystem whose log is not replayed")
    return found


def _btrfs(node: str, runner: Runner) -> str:
    # one folder more than elsewhere: a subvolume such as @ is where the root of the tree usually is
    folder = r"/[^/]+"
    pattern = "|".join(rf"{folder * depth}(|/refloat-site\.json)" for depth in range(DEPTH + 2))
    with tempfile.TemporaryDirectory() as nowhere:
        # -s: a snapshot that was rolled back to is the root of the tree
        argv = ["btrfs", "restore", "-s", "--dry-run", "-vv", "--path-regex", f"^(/|{pattern})$", node, nowhere]
        if _named_in(argv, runner):
            return MARKER
    superblock = runner.run(["btrfs", "inspect-internal", "dump-super", node], purpose=f"look into {node}").text
    if not re.search(r"^log_root\s+0$", superblock, re.MULTILINE):
        raise _Unseen("a btrfs whose log is not replayed")
    if not re.search(r"^num_devices\s+1$", superblock, re.MULTILINE):
        raise _Unseen("one of several devices of a btrfs")
    return ""


def _named_in(argv: list[str], runner: Runner) -> bool:
    """Whether btrfs names a marker, read as it prints: on a large filesystem that is more than fits in memory."""
    tail, deadline, wanted = b"", time.monotonic() + MAX_SECONDS, f"/{MARKER}\n".encode()
    with runner.stream(argv, purpose=f"look into {argv[-2]}") as stream:
        while (left := deadline - time.monotonic()) > 0 and select.select([stream.stdout], [], [], left)[0]:
            # past the buffer, which select does not see
            chunk = os.read(stream.stdout.fileno(), 1 << 16)
            if not chunk:
                stream.finish()
                return False
            if wanted in tail + chunk:
                return True
            tail = (tail + chunk)[-len(wanted) :]
    raise _cut_off(f"{MAX_SECONDS:.0f} s")


def _vfat(node: str, runner: Runner) -> str:
    text = runner.run(["fsck.vfat", "-n", "-l", "-v", node], purpose=f"look into {node}", ok=(0, 1), timeout=600).text
    for line in text.splitlines():
        path = line.removeprefix("Checking file ").split(" (")[0].lower()
        if line.startswith("Checking file ") and path.endswith(f"/{MARKER}") and path.count("/") <= DEPTH + 1:
            return MARKER
    return ""


def _ntfs(node: str, runner: Runner) -> str:
    def listing(folders: list[str]) -> Iterator[tuple[str, str]]:
        for folder in folders:
            text = runner.run(["ntfsls", "-F", "-p", folder, node], purpose=f"look into {node}").text
            for line in text.splitlines():
                name = line.strip().removesuffix("/")
                yield name, f"{folder.rstrip('/')}/{name}" if line.strip().endswith("/") else ""

    return _Walk(listing).search("/")


_LOOKS: dict[str, Callable[[str, Runner], str]] = {
    "ext2": _ext, "ext3": _ext, "ext4": _ext, "xfs": _xfs, "btrfs": _btrfs, "vfat": _vfat, "ntfs": _ntfs,
}  # fmt: skip
