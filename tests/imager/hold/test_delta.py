"""What device-mapper says has changed: parsers of thin_delta's output, of a snapshot's table, of a pool's status."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import SourceError, ToolError
from imager.changes import Changes
from imager.hold.delta import parse_cow, parse_delta
from imager.hold.lvm import _fill, dm_name, parse_pool

# As thin_delta of thin-provisioning-tools 1.1 (Debian 13) printed it.
DELTA = """\
<superblock uuid="" time="4" transaction="7" data_block_size="128" nr_data_blocks="0">
  <diff left="4" right="7">
    <different begin="0" length="1"/>
    <same begin="1" length="3"/>
    <different begin="4" length="1"/>
    <right_only begin="21" length="40"/>
    <left_only begin="70" length="2"/>
  </diff>
</superblock>
"""
K64 = 65536


def test_all_but_the_same_has_changed() -> None:
    assert parse_delta(DELTA, 4, 7) == [(0, K64), (4 * K64, 5 * K64), (21 * K64, 61 * K64), (70 * K64, 72 * K64)]


@pytest.mark.parametrize("text", ["", DELTA.replace('left="4"', 'left="5"'), DELTA[:-20], "<superblock/>"])
def test_half_an_answer_is_none(text: str) -> None:
    with pytest.raises(ToolError):
        parse_delta(text, 4, 7)


def _table(chunks: list[int], sectors: int = 8, *, valid: int = 1) -> bytes:
    """A persistent exception store (drivers/md/dm-snap-persistent.c) that has saved these chunks."""
    chunk = sectors * 512
    per_area = chunk // 16
    data = struct.pack("<4I", 0x70416E53, valid, 1, sectors).ljust(chunk, b"\0")
    for start in range(0, len(chunks) + 1, per_area):
        rows = chunks[start : start + per_area]
        data += b"".join(struct.pack("<2Q", old, 2 + start + at) for at, old in enumerate(rows)).ljust(chunk, b"\0")
        data += b"x" * chunk * len(rows)
    return data


@given(st.lists(st.integers(0, 1 << 40), unique=True, max_size=700), st.sampled_from([8, 16]))
def test_every_chunk_a_thick_snapshot_saved(chunks: list[int], sectors: int) -> None:
    table = _table(chunks, sectors)
    size = sectors * 512
    assert list(parse_cow(lambda at, count: table[at : at + count])) == [
        (old * size, (old + 1) * size) for old in chunks
    ]


@pytest.mark.parametrize("table", [b"", _table([1], valid=0), b"SnAp" + bytes(4096), bytes(8192)])
def test_a_table_that_tells_nothing_is_an_error(table: bytes) -> None:
    with pytest.raises(SourceError):
        list(parse_cow(lambda at, count: table[at : at + count]))


def test_the_state_of_a_pool() -> None:
    words = "0 3072000 thin-pool 7 124/1024 1354/24000 232 rw discard_passdown queue_if_no_space - 256".split()
    fill = parse_pool(words, "vg/pool")
    assert (fill.held, fill.state) == (True, "") and 0.05 < fill.data < 0.06 and 0.12 < fill.metadata < 0.13
    words[6], words[7] = "-", "out_of_data_space"
    assert (parse_pool(words, "vg/pool").held, parse_pool(words, "vg/pool").state) == (False, "out_of_data_space")
    with pytest.raises(SourceError):
        parse_pool("0 3072000 thin-pool Fail".split(), "vg/pool")


def test_the_state_of_a_thick_snapshot() -> None:
    name, fill = _fill("vga-t1.refloat--1: 0 819200 snapshot 32768/65536 16")
    assert (name, fill.share, fill.broken) == (dm_name("vga", "t1.refloat-1"), 0.5, "")
    assert _fill("a-b: 0 819200 snapshot Invalid")[1].broken == "Invalid"
    assert _fill("a-b: 0 819200 snapshot Overflow")[1].broken == "Overflow"


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 20)), max_size=30))
def test_changes_are_a_set_of_blocks(ranges: list[tuple[int, int]]) -> None:
    pairs = [(start, start + count) for start, count in ranges]
    changes = Changes(pairs)
    wanted = {block for start, stop in pairs for block in range(start, stop)}
    assert {block for block in range(330) if block in changes} == wanted
    assert changes.blocks == len(wanted)
    found = list(changes)
    assert all(one[1] < two[0] for one, two in zip(found, found[1:], strict=False))
