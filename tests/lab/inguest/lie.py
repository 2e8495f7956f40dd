"""Runs in a guest with a thin pool `vgt/pool` of 64 KiB chunks and its volume `data`: overwrites files' chunks below
the thin pool, so that its metadata knows of nothing. Prints how many bytes. Imports the standard library only."""

from __future__ import annotations

import os
import re
import subprocess
import sys

CHUNK = 64 << 10
POOL, META, DATA = "vgt-pool-tpool", "/dev/mapper/vgt-pool_tmeta", "/dev/mapper/vgt-pool_tdata"


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def file_chunks(path: str) -> set[int]:
    """Chunks of the volume that hold nothing but this file."""
    found = set[int]()
    for row in re.findall(r"^\s*\d+:\s+\d+\.\.\s*\d+:\s+(\d+)\.\.\s*(\d+):", run("filefrag", "-v", path), re.MULTILINE):
        start, stop = int(row[0]) * 4096, (int(row[1]) + 1) * 4096
        found |= set(range(-(-start // CHUNK), stop // CHUNK))
    return found


def places() -> dict[int, int]:
    """Chunk of the volume → chunk of the pool."""
    thin_id = run("lvs", "--noheadings", "-o", "thin_id", "vgt/data").strip()
    run("dmsetup", "message", POOL, "0", "reserve_metadata_snap")
    try:
        text = run("thin_dump", "--metadata-snap", "--dev-id", thin_id, META)
    finally:
        run("dmsetup", "message", POOL, "0", "release_metadata_snap")
    found = {int(a): int(b) for a, b in re.findall(r'<single_mapping origin_block="(\d+)" data_block="(\d+)"', text)}
    pattern = r'<range_mapping origin_begin="(\d+)" data_begin="(\d+)" length="(\d+)"'
    for row in re.findall(pattern, text):
        origin, data, length = map(int, row)
        found |= {origin + each: data + each for each in range(length)}
    return found


mapping, wanted = places(), set[int]().union(*(file_chunks(path) for path in sys.argv[1:]))
handle = os.open(DATA, os.O_WRONLY | os.O_SYNC)
for chunk in wanted:
    os.pwrite(handle, os.urandom(CHUNK), mapping[chunk] * CHUNK)
os.close(handle)
print(len(wanted) * CHUNK)
