"""What keeps a restore from growing dear: worn frames are stored anew. `python -m tests.bench.year` measures a year."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.config import RetentionConfig
from imager.repository.frames import Frame, PackRef
from imager.repository.segments import DATA, Item
from imager.repository.worker import WEAR, worn
from tests.bench.year import Churn, anywhere, cost, full, live, lived_in

_PACK = PackRef(b"p" * 32, 1 << 20)


@pytest.mark.parametrize("churn", [lived_in, anywhere], ids=["lived in", "anywhere"])
def test_after_two_months_a_restore_fetches_little_more_than_after_a_full(churn: Churn, tmp_path: Path) -> None:
    years = live(tmp_path / "old", 60, 512, churn, RetentionConfig(copies=1))
    old, new = cost(years, tmp_path / "restored"), full(tmp_path / "new", years)
    assert new.fetched_bytes < old.fetched_bytes <= 1.3 * new.fetched_bytes


@given(st.lists(st.lists(st.integers(0, 15), min_size=1, max_size=5), min_size=1, max_size=80))
def test_a_spans_frames_never_hold_much_more_than_the_span(nights: list[list[int]]) -> None:
    """However it is written over: frames of one span, block by block, night by night."""
    held = [(0, 16)] * 16  # number and blocks of the frame that each block lies in
    written = changed = 0
    for number, blocks in enumerate(nights, 1):
        known = [
            Item(1, block, 1, DATA, 0, 0, b"d" * 32, Frame(b"k" * 16, frame, size, 100, b"f" * 32, 0, _PACK))
            for block, (frame, size) in enumerate(held)
        ]
        fresh = set(blocks)
        again = worn([b"d" * 32] * 16, known, [block in fresh for block in range(16)])
        assert not fresh & set(again) and len(set(again)) == len(again)
        for block in fresh | set(again):
            held[block] = (number, len(fresh) + len(again))
        assert sum(size for _, size in set(held)) <= WEAR * 16
        written, changed = written + len(fresh) + len(again), changed + len(fresh)
    assert written <= 4 * changed


def test_where_nothing_changed_nothing_is_stored_anew() -> None:
    frames = [Frame(b"k" * 16, number, 16, 100, b"f" * 32, 0, _PACK) for number in range(16)]
    known = [Item(1, block, 1, DATA, 0, 0, b"d" * 32, frame) for block, frame in enumerate(frames)]
    assert worn([b"d" * 32] * 16, known, [False] * 16) == []
