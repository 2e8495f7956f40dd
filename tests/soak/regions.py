"""Objects at a file site cut into the regions of their formats (docs/format.md), so that flips reach every one.

Written from the document, not from the parsers it is to test.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Region:
    """Bytes [start, stop) of an object that mean one thing; `kind` names both, as `pack/frame header`."""

    kind: str
    name: str
    start: int
    stop: int


def regions_of(root: Path) -> Iterator[Region]:
    """Every region of every object below a site's folder."""
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        data = path.read_bytes() if path.is_file() else b""
        if "/images/" in name:
            yield from _envelope("manifest", name, data)
        elif name.endswith("/server.json"):
            yield from _envelope("server.json", name, data)
        elif "/maps/" in name and data:
            yield from _segment(name, data)
        elif "/packs/" in name and data:
            yield from _pack(name, data)


def _envelope(kind: str, name: str, data: bytes) -> Iterator[Region]:
    found = re.fullmatch(rb'(\{.*?"body":")(.*)(","key":")(.*)(","signature":")(.*)("\})', data, re.DOTALL)
    assert found is not None, name
    labels = ("head", "body", "glue", "key", "glue", "signature", "tail")
    for number, label in enumerate(labels, 1):
        yield Region(f"{kind}/{label}", name, *found.span(number))


def _segment(name: str, data: bytes) -> Iterator[Region]:
    packs, keys, frames, items = struct.unpack_from("<IIII", data, 32)
    parts = (("magic", 8), ("version", 8), ("server id", 16), ("counts", 16), ("reserved", 16))
    tables = (("packs", 40 * packs), ("keys", 16 * keys), ("frames", 64 * frames), ("items", 52 * items))
    yield from _in_turn("segment", name, (*parts, *tables), len(data))


def _pack(name: str, data: bytes) -> Iterator[Region]:
    parts = [("magic", 8), ("version", 8)]
    at = 16
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at + 4)
        parts += [("frame header", 40), ("sealed", length - 16), ("tag", 16)]
        at += 40 + length
    yield from _in_turn("pack", name, parts, len(data))


def _in_turn(
    kind: str, name: str, parts: list[tuple[str, int]] | tuple[tuple[str, int], ...], size: int
) -> Iterator[Region]:
    at = 0
    for label, length in parts:
        if length:
            yield Region(f"{kind}/{label}", name, at, at + length)
        at += length
    assert at == size, name
