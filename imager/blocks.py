"""One block of a volume: its keyed digest, whether it is zeros, and its free pages (`docs/format.md`, Blocks). Both
mechanisms compare by it. Called in the hot loop of worker threads; imports `imager.spans`."""

from __future__ import annotations

import struct

from blake3 import blake3

from imager.spans import BLOCK_BYTES, PAGE_BYTES, PAGES

ZERO_BLOCK = bytes(BLOCK_BYTES)
_ZERO_PAGE = bytes(PAGE_BYTES)
_POSITION = struct.Struct("<IQ")


def digest_block(key: bytes, block: memoryview | bytes, volume: int, number: int) -> bytes:
    """The keyed digest of one 65,536-byte block at its position."""
    hasher = blake3(block, key=key)
    hasher.update(_POSITION.pack(volume, number))
    return hasher.digest()


def is_zero(block: memoryview) -> bool:
    """Whether a 65,536-byte block is all zeros; nearly free when it is not."""
    # Two probes settle almost every block; only then pay for the copy that memcmp needs.
    if block[:16] != ZERO_BLOCK[:16] or block[-16:] != ZERO_BLOCK[:16]:
        return False
    return block.tobytes() == ZERO_BLOCK


def clear_pages(block: memoryview, mask: int) -> None:
    """Set the pages in the mask to zeros."""
    for page in range(PAGES):
        if mask >> page & 1:
            block[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = _ZERO_PAGE
