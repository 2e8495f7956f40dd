"""Which kept snapshots may be relied on, and which are kept."""

from __future__ import annotations

from array import array
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from core.run import SystemRunner
from imager.hold.bases import Base, Bases, still_wanted
from imager.hold.lvm import Snapshot

NOW = datetime(2026, 3, 2, 2, 0, tzinfo=UTC)
IMAGE = "20260301T020000Z"
BASE = Base(
    key="lvm:vg0/root", image=IMAGE, group="vg0", name=f"root.refloat-{IMAGE}", uuid="u1", origin_uuid="o1",
    pool_uuid="p1", thin_id=4, size_bytes=1 << 20, sites={"de": "d1", "fr": "d2"},
)  # fmt: skip
KEPT = Snapshot("vg0", BASE.name, "u1", "root", "o1", 1 << 20, "pool", "p1", 4)
FRESH = Snapshot("vg0", "root.refloat-20260302T020000Z", "u2", "root", "o1", 1 << 20, "pool", "p1", 5)


def _saved(folder: Path) -> Bases:
    Bases(folder).save([BASE], {"u1": array("Q", [3, 9])})
    return Bases(folder)


def test_a_base_is_found_for_exactly_the_parents_it_is_the_state_of(tmp_path: Path) -> None:
    bases = _saved(tmp_path)
    assert bases.find(BASE.key, {"de": (IMAGE, "d1"), "fr": (IMAGE, "d2")}) == [BASE]
    assert bases.find(BASE.key, {"de": (IMAGE, "d1")}) == [BASE]
    for parents in ({"de": (IMAGE, "d2")}, {"de": ("20260228T020000Z", "d1")}, {"it": (IMAGE, "d1")}, {}):
        assert isinstance(bases.find(BASE.key, parents), str)
    assert isinstance(bases.find("lvm:vg0/other", {"de": (IMAGE, "d1")}), str)


def test_a_snapshot_that_is_gone(tmp_path: Path) -> None:
    found = _saved(tmp_path).tracked([BASE], FRESH, 1 << 20, [], SystemRunner())
    assert found.changes is None and "gone" in found.why_not


@pytest.mark.parametrize(
    ("kept", "now", "size"),
    [
        ({"origin_uuid": "o2"}, {}, 1 << 20), ({"thin_id": 7}, {}, 1 << 20), ({"name": "else"}, {}, 1 << 20),
        ({"invalid": True}, {}, 1 << 20), ({}, {"origin_uuid": "o2"}, 1 << 20), ({}, {"pool_uuid": "p2"}, 1 << 20),
        ({}, {}, 2 << 20),
    ],
)  # fmt: skip
def test_anything_odd_means_not_known(
    kept: dict[str, object], now: dict[str, object], size: int, tmp_path: Path
) -> None:
    there = [replace(KEPT, **kept)]  # type: ignore[arg-type]
    found = _saved(tmp_path).tracked([BASE], replace(FRESH, **now), size, there, SystemRunner())  # type: ignore[arg-type]
    assert found.changes is None and found.why_not


def test_a_torn_file_is_none(tmp_path: Path) -> None:
    _saved(tmp_path)
    (tmp_path / "bases.json").write_bytes(b'[{"key"')
    assert Bases(tmp_path).all == []


def test_what_is_not_named_any_more_is_taken_away(tmp_path: Path) -> None:
    bases = _saved(tmp_path)
    assert [path.name for path in tmp_path.glob("*.zeros")] == ["u1.zeros"]
    bases.save([], {})
    assert not list(tmp_path.glob("*.zeros")) and Bases(tmp_path).uuids == frozenset()


def test_old_bases_stay_for_sites_that_were_away_a_week_at_most() -> None:
    assert still_wanted([BASE], ["de", "fr"], ["de", "fr"], NOW) == []
    assert [each.sites for each in still_wanted([BASE], ["de"], ["de", "fr"], NOW)] == [{"fr": "d2"}]
    assert still_wanted([BASE], ["de"], ["de"], NOW) == []  # a site that is configured no more
    assert still_wanted([BASE], ["de"], ["de", "fr"], NOW + timedelta(days=7)) == []
