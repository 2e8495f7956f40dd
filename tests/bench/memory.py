"""The memory promise: a sparse 16 TiB disk with 2 GiB used, imaged and restored, on tmpfs.

XFS within, since its metadata stays small; partclone's bitmap of 16 TiB is its own and reported apart.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.bench.measure import Sample
from tests.bench.ours import Refloat
from tests.bench.workload import GIB, MIB, PAGE_BYTES, database_page, mounted

SIZE_BYTES = 16 << 40
USED_BYTES = 2 * GIB


@contextlib.contextmanager
def ram(folder: Path) -> Iterator[Path]:
    """A tmpfs that holds the disk and what it is restored to."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6g", "refloat-bench", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def peaks(folder: Path, seed: int) -> tuple[dict[str, int], int]:
    """Our peak resident bytes by what was done, and partclone's."""
    with ram(folder / "ram") as place:
        disk = place / "huge.img"
        _make(disk, random.Random(seed))
        refloat = Refloat(folder / "refloat", sites=2)
        imaged, _ = refloat.image(disk, 1)
        target = place / "target.img"
        with target.open("wb") as file:
            file.truncate(SIZE_BYTES)
        restored = refloat.restore(1, target)
        partclone = max(peak for name, peak in imaged.rss.items() if name.startswith("partclone"))
    return {"imaging 16 TiB": _ours(imaged), "restoring 16 TiB": _ours(restored)}, partclone


def _ours(sample: Sample) -> int:
    return sample.rss["refloat"]


def _make(disk: Path, rng: random.Random) -> None:
    with disk.open("wb") as file:
        file.truncate(SIZE_BYTES)
    # A log as large as mkfs would make it is 2 GiB of zeros, in memory here.
    subprocess.run(["mkfs.xfs", "-q", "-K", "-l", "size=64m", disk], check=True)
    with mounted(disk) as root:
        for name in range(16):
            with (root / f"file{name}").open("wb") as file:
                for number in range(USED_BYTES // 32 // PAGE_BYTES):
                    file.write(database_page(number, rng))
                for _ in range(USED_BYTES // 32 // MIB):
                    file.write(rng.randbytes(MIB))
