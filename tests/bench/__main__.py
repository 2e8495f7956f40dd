"""The run: contestants take turns, in another order each time, every one from a fresh folder."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from tests.bench import memory, report
from tests.bench.measure import Sample
from tests.bench.ours import Refloat
from tests.bench.peers import Borg, Pipe, Restic
from tests.bench.report import BORG, OURS, OURS_ARCHIVE, OURS_TWO, PARTCLONE, RESTIC, ZSTD
from tests.bench.workload import GIB, MIB, Workload, build, mounted


class Contestant(Protocol):
    """Images a disk day by day, and restores the last day."""

    def image(self, disk: Path, day: int) -> tuple[Sample, int]: ...

    def restore(self, day: int, target: Path) -> Sample: ...


class Bench:
    """All runs; `results` as report.Results."""

    def __init__(self, folder: Path, workload: Workload) -> None:
        self.folder, self.workload = folder, workload
        self.results: dict[str, dict[str, list[float]]] = {}

    def run(self, number: int) -> None:
        """One run of everybody. Day 1 and restores of partclone's pipe, and day 2 of both pipes, are not compared."""
        place = self.folder / "run"
        shutil.rmtree(place, ignore_errors=True)
        everybody: dict[str, Contestant] = {
            OURS: Refloat(place / "one", sites=1),
            OURS_TWO: Refloat(place / "two", sites=2),
            OURS_ARCHIVE: Refloat(place / "archive", sites=1, archive=True),
            ZSTD: Pipe(place / "zstd", partclone=False),
            PARTCLONE: Pipe(place / "partclone", partclone=True),
            RESTIC: Restic(place / "restic"),
            BORG: Borg(place / "borg"),
        }
        turns = list(everybody)
        turns = turns[number % len(turns) :] + turns[: number % len(turns)]
        for who in turns:
            self._image(who, everybody[who], 1)
        for who in turns:
            if who != PARTCLONE:
                self._image(who, everybody[who], 2)
        for who in turns:
            if who not in (PARTCLONE, OURS_TWO, OURS_ARCHIVE):
                self._restore(who, everybody[who], place / "restored.img")
        shutil.rmtree(place)

    def _image(self, who: str, contestant: Contestant, day: int) -> None:
        disk = self.workload.day1 if day == 1 else self.workload.day2
        _warm(disk)
        sample, stored = contestant.image(disk, day)
        print(f"  {who}, day {day}: {sample.seconds:.1f} s, {stored / 1e6:,.0f} MB", flush=True)
        if who == ZSTD and day == 2:
            return  # a second full; only there to be restored
        self._note(who, f"day{day}", sample)
        self.results[who].setdefault(f"day{day}_bytes", []).append(stored)

    def _restore(self, who: str, contestant: Contestant, target: Path) -> None:
        with target.open("wb") as file:
            file.truncate(self.workload.size_bytes)
        sample = contestant.restore(2, target)
        print(f"  {who}, restore: {sample.seconds:.1f} s", flush=True)
        self._note(who, "restore", sample)
        if who == OURS:
            _must_equal(self.workload.day2, target)
        target.unlink()

    def _note(self, who: str, what: str, sample: Sample) -> None:
        measures = self.results.setdefault(who, {})
        measures.setdefault(f"{what}_s", []).append(sample.seconds)
        measures.setdefault(f"{what}_cpu", []).append(sample.cpu_seconds)


def _warm(disk: Path) -> None:
    """Read the disk into the page cache: what is compared is the tools."""
    with disk.open("rb", buffering=0) as file:
        while file.read(MIB):
            pass


def _must_equal(disk: Path, restored: Path) -> None:
    """Our restore is checked as a filesystem: free space may differ, nothing else."""
    subprocess.run(["e2fsck", "-fn", restored], check=True, capture_output=True)
    with mounted(disk, "ro") as left, mounted(restored, "ro") as right:
        subprocess.run(["diff", "-r", "--no-dereference", left, right], check=True)


def _size(text: str) -> int:
    return int(float(text.upper().removesuffix("IB").removesuffix("G")) * GIB)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--size", type=_size, default=4 * GIB, help="size of the disk, in GiB [4G]")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dir", type=Path, default=Path("build/bench"), help="room for five such disks")
    parser.add_argument("--out", type=Path, default=Path("build"))
    parser.add_argument("--no-memory", action="store_true", help="leave the 16 TiB disk out")
    given = parser.parse_args()
    busy = os.getloadavg()[0]
    if busy > 0.5:
        print(
            f"warning: the machine is busy (load {busy:.1f}); refloat yields to other work and will look slow",
            flush=True,
        )
    folder = given.dir.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        print(f"making the disk: {given.size / GIB:g} GiB, seed {given.seed}", flush=True)
        bench = Bench(folder, build(folder, given.size, given.seed))
        for number in range(given.runs):
            print(f"run {number + 1} of {given.runs}", flush=True)
            bench.run(number)
        ours, partclone = ({}, 0) if given.no_memory else memory.peaks(folder / "memory", given.seed)
        title = f"{given.size / GIB:g} GiB ext4, medians of {given.runs} runs, {_machine()}"
        rows = report.write(given.out, bench.results, ours, title)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print((given.out / "bench.md").read_text())
    if partclone:
        print(f"partclone's own peak on 16 TiB: {partclone / MIB:.0f} MiB")
    missed = [row.name for row in rows if not row.ok]
    print("all kept" if not missed else f"missed: {'; '.join(missed)}")
    return 0


def _machine() -> str:
    with open("/proc/cpuinfo") as file:
        cores = file.read().count("processor\t:")
    return f"{cores} cores, Linux {platform.release().split('-')[0]}"


sys.exit(main())
