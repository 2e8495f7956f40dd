"""The disk that is imaged: an ext4 at 95 % on a server that has lived, and the same disk a day later.

Sizes follow the disk's (shares of an 8 GiB one): real files from /usr, a database-like file of 768 MiB, 512 MiB that
does not compress, a log of 100 MiB. Day 2: 1,500 random 16 KiB pages of the database rewritten, the log appended,
24 MiB new. What a seed decides is the same everywhere; /usr is what the machine has.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

MIB, GIB = 1 << 20, 1 << 30
PAGE_BYTES = 16 << 10
_COPY_MAX = 64 * MIB


@dataclass(frozen=True)
class Workload:
    """Two states of one disk, as image files of `size_bytes`."""

    size_bytes: int
    seed: int
    day1: Path
    day2: Path


def build(folder: Path, size_bytes: int, seed: int) -> Workload:
    """Make both days in `folder`. Needs root, a loop device and room for two disks."""
    made = Workload(size_bytes, seed, folder / "day1.img", folder / "day2.img")
    _format(made.day1, size_bytes, seed)
    with mounted(made.day1) as root:
        _live(root, size_bytes)
        _fill(root, size_bytes, random.Random(seed))
    subprocess.run(["cp", "--sparse=never", made.day1, made.day2], check=True)
    with mounted(made.day2) as root:
        _next_day(root, size_bytes, random.Random(seed + 1))
    subprocess.run(["sync"], check=True)
    return made


@contextlib.contextmanager
def mounted(image: Path, *options: str) -> Iterator[Path]:
    """The filesystem of an image file, mounted; unmounted whatever happens."""
    root = image.with_suffix(".mnt")
    root.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", ",".join(("loop", *options)), image, root], check=True)
    try:
        yield root
    finally:
        subprocess.run(["umount", root], check=True)
        root.rmdir()


def _format(image: Path, size_bytes: int, seed: int) -> None:
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        # A disk is not sparse: its blocks exist, whatever is in them.
        os.posix_fallocate(file.fileno(), 0, size_bytes)
    ids = random.Random(seed).randbytes(16).hex()
    uuid = f"{ids[:8]}-{ids[8:12]}-4{ids[13:16]}-a{ids[17:20]}-{ids[20:]}"
    lazy = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", "-U", uuid, "-E", lazy, image], check=True)


def _free_bytes(root: Path) -> int:
    state = os.statvfs(root)
    return state.f_bavail * state.f_frsize


def _live(root: Path, size_bytes: int) -> None:
    """What came and went before: free space of a real server is full of it."""
    old = root / "old"
    old.mkdir()
    copy_usr(old, lambda _: _free_bytes(root) - size_bytes // 100)
    subprocess.run(["sync", "-f", root], check=True)
    shutil.rmtree(old)


def _fill(root: Path, size_bytes: int, rng: random.Random) -> None:
    """To 95 %: the database, noise and the log at their shares, the rest from /usr."""
    with (root / "database").open("wb") as file:
        for number in range(_share(768 * MIB, size_bytes) // PAGE_BYTES):
            file.write(database_page(number, rng))
    with (root / "noise").open("wb") as file:
        for _ in range(_share(512 * MIB, size_bytes) // MIB):
            file.write(rng.randbytes(MIB))
    _append_log(root / "log", _share(100 * MIB, size_bytes), rng)
    copy_usr(root / "usr", lambda _: _free_bytes(root) - size_bytes // 20)


def _next_day(root: Path, size_bytes: int, rng: random.Random) -> None:
    database = root / "database"
    pages = database.stat().st_size // PAGE_BYTES
    with database.open("r+b") as file:
        for _ in range(_share(1500, size_bytes)):
            number = rng.randrange(pages)
            file.seek(number * PAGE_BYTES)
            file.write(database_page(number, rng))
    _append_log(root / "log", _share(5 * MIB, size_bytes), rng)
    with (root / "new").open("wb") as file:
        for _ in range(max(1, _share(24, size_bytes))):
            file.write(rng.randbytes(MIB))


def _share(of_8_gib: int, size_bytes: int) -> int:
    return of_8_gib * size_bytes // (8 * GIB)


_WORDS = [
    "order", "customer", "invoice", "paid", "open", "shipped", "Berlin", "Lyon", "Gdansk", "Porto", "street", "GmbH",
    "SARL", "info@example.org", "2026-01-31", "NULL", "true", "false", "EUR", "pending", "gross", "net", "VAT",
]  # fmt: skip


def database_page(number: int, rng: random.Random) -> bytes:
    """16 KiB as a database writes them: a header, rows of ids, words and numbers, then the page's free space. zstd -3
    makes 0.43 of it."""
    head = number.to_bytes(8, "little") + rng.randbytes(24)
    ids = rng.randbytes(6000).hex()
    words = " ".join(rng.choices(_WORDS, k=300))
    return (head + (ids + words).encode()).ljust(PAGE_BYTES, b"\0")[:PAGE_BYTES]


def _append_log(path: Path, size_bytes: int, rng: random.Random) -> None:
    written, second = 0, 0
    with path.open("ab") as file:
        while written < size_bytes:
            second += rng.randrange(3)
            address = ".".join(str(rng.randrange(256)) for _ in range(3))
            line = (
                f"2026-01-31T{second // 3600 % 24:02}:{second // 60 % 60:02}:{second % 60:02} web1 nginx[1234]: "
                f"10.{address} GET /{rng.choice(_WORDS)}/{rng.randrange(1 << 30)} "
                f"{rng.choice((200, 200, 200, 304, 404))} {rng.randrange(99999)}\n"
            )
            written += file.write(line.encode())


def copy_usr(target: Path, room: Callable[[int], int]) -> int:
    """Copy files of /usr while `room`, given the bytes copied so far, gives a MiB or more; returns those bytes.

    When /usr is too small it is gone through again with every byte value exchanged for another: as compressible as
    before, and equal to nothing that is there already.
    """
    target.mkdir(exist_ok=True)
    copied = 0
    for turn in range(100):
        values = list(range(256))
        random.Random(turn).shuffle(values)
        table = bytes(values) if turn else None
        for source, size in _usr_files():
            left = room(copied)
            if left < MIB:
                return copied
            if size > min(_COPY_MAX, left // 2):
                continue
            copy = target / str(turn) / source.relative_to("/usr")
            copy.parent.mkdir(parents=True, exist_ok=True)
            data = source.read_bytes()
            copied += copy.write_bytes(data.translate(table) if table else data)
    raise RuntimeError("/usr has too few files")


def _usr_files() -> Iterator[tuple[Path, int]]:
    for folder, names, files in os.walk("/usr"):
        names.sort()
        for name in sorted(files):
            path = Path(folder, name)
            with contextlib.suppress(OSError):
                state = path.lstat()
                if stat.S_ISREG(state.st_mode) and state.st_size:
                    yield path, state.st_size
