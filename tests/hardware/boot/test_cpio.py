"""initrds: taken apart whatever they are compressed with, completed at their end, and never twice."""

from __future__ import annotations

import bz2
import gzip
import lzma
import stat
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from core.errors import FormatError
from hardware.boot.cpio import MARK, join, pack, split

NONE = frozenset[str]()
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "xz": lambda data: lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_CRC32),
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
}


def no_lz4(_data: bytes) -> bytes:
    raise AssertionError("there is no LZ4 here")


@pytest.mark.parametrize("kind", PACKERS)
def test_every_compression_after_a_microcode_segment(kind: str) -> None:
    early = pack({"kernel/x86/microcode/GenuineIntel.bin": b"code"}, NONE)
    main = pack({"init": b"#!/bin/sh\n", "usr/lib/modules/6.1/kernel/a.ko": b"x" * 5000}, NONE)
    data = early + bytes(-len(early) % 512) + PACKERS[kind](main)
    found = split(data, no_lz4)
    assert [segment.kind for segment in found] == ["plain", kind]
    files = {member.name: member.data for member in found[1].members if stat.S_ISREG(member.mode)}
    assert files == {"init": b"#!/bin/sh\n", "usr/lib/modules/6.1/kernel/a.ko": b"x" * 5000}
    # what is appended comes last, and replaces what an earlier run appended; the rest stays byte for byte
    once = join(found, pack({MARK: b"1", "init": b"first"}, NONE))
    twice = join(split(once, no_lz4), pack({MARK: b"2", "init": b"second"}, NONE))
    parts = split(twice, no_lz4)
    assert [part.ours for part in parts] == [False, False, True]
    assert [part.raw for part in parts[:2]] == [segment.raw for segment in found]
    assert {member.name: member.data for member in parts[2].members}["init"] == b"second"


def test_lz4_is_packed_anew_since_nothing_can_follow_it() -> None:
    main = pack({"init": b"here"}, NONE)
    data = b"\x02!L\x18" + b"\0\1\2"
    seen = []

    def unlz4(packed: bytes) -> bytes:
        seen.append(packed)
        return main

    found = split(data, unlz4)
    again = split(join(found, pack({MARK: b""}, NONE)), no_lz4)
    assert seen == [data]
    assert [part.kind for part in again] == ["gzip", "gzip"] and again[0].members == found[0].members


def test_folders_that_are_there_are_not_packed_again() -> None:
    archive = pack({"usr/lib/modules/6.1/a.ko": b""}, frozenset({"usr", "usr/lib"}))
    assert [m.name for m in split(archive, no_lz4)[0].members] == [
        "usr/lib/modules",
        "usr/lib/modules/6.1",
        "usr/lib/modules/6.1/a.ko",
    ]


@pytest.mark.parametrize(
    "data",
    [b"MZ", b"070701" + b"0" * 50, gzip.compress(b"no cpio"), gzip.compress(b"x" * 999)[:-9]],
    ids=["kernel", "torn", "not-cpio", "cut-gzip"],  # gzip writes the time, and workers must agree on names
)
def test_what_is_no_initrd_is_told(data: bytes) -> None:
    with pytest.raises(FormatError):
        split(data, no_lz4)


@given(st.binary(max_size=400), st.integers(0, 600), st.integers(0, 255))
def test_broken_bytes_end_in_our_error(tail: bytes, at: int, value: int) -> None:
    data = bytearray(pack({"a": b"1" * 40, "b/c": b"2"}, NONE) + gzip.compress(pack({"d": b"3"}, NONE), mtime=0) + tail)
    data[at % len(data)] = value
    try:
        split(bytes(data), lambda packed: packed)
    except FormatError:
        pass
