"""The algebra of maps against a dictionary: block → what the newest layer says of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from imager.repository.frames import Frame, PackRef
from imager.repository.layers import Cursor, clip, coalesce, merge_from, stack
from imager.repository.segments import DATA, UNUSED, ZERO, Item, Segment, SegmentBuilder, run

SERVER = bytes(16)
PACK = PackRef(bytes(32), 1 << 20)
Told = dict[tuple[int, int], tuple[int, bytes]]


@st.composite
def layer(draw: st.DrawFn) -> list[Item]:
    """A sorted, non-overlapping list of items over two volumes of some 40 blocks."""
    items: list[Item] = []
    for volume in (3, 9):
        at = 0
        for _ in range(draw(st.integers(0, 8))):
            at += draw(st.integers(0, 4))
            kind = draw(st.sampled_from((DATA, ZERO, UNUSED)))
            if kind == DATA:
                number = draw(st.integers(0, 99))
                frame = Frame(bytes(16), number, 1, 100, bytes(32), 16, PACK)
                items.append(Item(volume, at, 1, DATA, 0, 0, bytes([number]) * 32, frame))
                at += 1
            else:
                count = draw(st.integers(1, 9))
                items.append(run(volume, at, count, kind))
                at += count
    return items


def told(items: list[Item]) -> Told:
    return {(item.volume, block): (item.kind, item.digest) for item in items for block in range(item.block, item.end)}


def is_sorted(items: list[Item]) -> bool:
    return all((a.volume, a.end) <= (b.volume, b.block) for a, b in zip(items, items[1:], strict=False))


@given(st.lists(layer(), max_size=5))
def test_newer_layers_hide_older_ones(layers: list[list[Item]]) -> None:
    expected: Told = {}
    for each in layers:
        expected |= told(each)
    merged = list(stack([iter(each) for each in layers]))
    assert told(merged) == expected and is_sorted(merged)
    joined = list(coalesce(merged))
    assert told(joined) == expected and is_sorted(joined) and len(joined) <= len(merged)


@given(layer(), st.integers(0, 30), st.integers(0, 30))
def test_clip_keeps_what_lies_within(items: list[Item], first: int, second: int) -> None:
    sizes = {3: first, 9: second}
    found = list(clip(items, sizes))
    assert told(found) == {at: value for at, value in told(items).items() if at[1] < sizes[at[0]]}


@given(layer(), st.lists(st.tuples(st.sampled_from((3, 5, 9)), st.integers(0, 60), st.integers(1, 25)), max_size=6))
def test_a_cursor_reads_in_step(items: list[Item], asked: list[tuple[int, int, int]]) -> None:
    expected = told(items)
    taking, judging = Cursor(items), Cursor(items)
    last = (0, 0)
    for volume, start, count in sorted(asked):
        if (volume, start) < last:
            continue
        last = (volume, start + count)
        found = taking.take(volume, start, start + count)
        blocks = {(volume, block) for block in range(start, start + count)}
        assert told(found) == {at: value for at, value in expected.items() if at in blocks}
        for_all = all(expected.get(at, (None,))[0] == UNUSED for at in blocks)
        assert judging.is_all(volume, start, start + count, UNUSED) == for_all


@given(layer())
def test_a_segment_says_what_was_put_in(items: list[Item]) -> None:
    builder = SegmentBuilder(SERVER)
    for item in items:
        builder.add(item)
    segment = Segment(builder.build())
    assert told(list(segment.items())) == told(items)
    for volume in (3, 9):
        for block in range(45):
            index = segment.find(volume, block)
            rest = [segment.item(each) for each in range(index, segment.count)]
            before = [segment.item(each) for each in range(index)]
            assert all((item.volume, item.end) > (volume, block) for item in rest)
            assert all((item.volume, item.end) <= (volume, block) for item in before)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=12))
def test_merging_keeps_layers_few_and_old_ones_untouched(counts: list[int]) -> None:
    start = merge_from(counts)
    assert 0 <= start < len(counts)
    merged = sum(counts[start:])
    assert start == 0 or 2 * merged < counts[start - 1]


def test_a_year_of_nights_has_few_layers_and_rewrites_each_item_seldom() -> None:
    layers: list[int] = [100_000]
    written = 0
    for _ in range(365):
        layers.append(2_000)
        start = merge_from(layers)
        written += sum(layers[start:])
        layers[start:] = [sum(layers[start:])]
        assert len(layers) <= 8
    assert written < 12 * (365 * 2_000 + 100_000)
