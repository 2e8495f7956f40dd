"""Runs in a guest: prints how many bytes of two devices of one size are in chunks that differ: A B CHUNK-BYTES.
Imports the standard library only."""

from __future__ import annotations

import sys

left, right, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
found = 0
with open(left, "rb", buffering=0) as first, open(right, "rb", buffering=0) as other:
    while piece := first.read(size):
        if piece != other.read(size):
            found += size
print(found)
