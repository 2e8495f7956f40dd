"""Images taken with change tracking: only what changed is read, and a tracking that lies is found out."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from imager.changes import Changes
from imager.repository.audit import unread
from imager.repository.segments import DATA, UNUSED, ZERO, Item
from imager.source import Source
from imager.spans import BLOCK_BYTES, Span
from tests.imager.rig import EPOCH, Rig

BLOCKS = 400


def _rig(folder: Path) -> Rig:
    rig = Rig(folder)
    rig.disk().write_bytes(random.Random(1).randbytes(BLOCKS * BLOCK_BYTES))  # noqa: S311
    rig.image()
    return rig


def _rewrite(rig: Rig, blocks: Sequence[int]) -> None:
    with rig.disk().open("r+b") as file:
        for block in blocks:
            file.seek(block * BLOCK_BYTES + 100)
            file.write(os.urandom(50))


def _tracked(rig: Rig, changes: Changes) -> tuple[Source, ...]:
    return tuple(replace(each, changed=changes, tracked_by="thin") for each in rig.sources(rig.layout(["vda"])))


def test_only_what_changed_is_read_and_all_comes_back(tmp_path: Path) -> None:
    rig = _rig(tmp_path)
    for night, blocks in enumerate((range(7, 9), [0, 100, BLOCKS - 1], []), 1):
        _rewrite(rig, blocks)
        changes = Changes((block, block + 1) for block in blocks)
        results = rig.image(now=EPOCH + timedelta(days=night), sources=_tracked(rig, changes))
        assert [(each.status, each.read_bytes) for each in results] == [("committed", len(blocks) * BLOCK_BYTES)] * 2
        manifest = rig.open(rig.sites[0]).manifest
        assert (manifest.volumes[0].tracked, manifest.volumes[0].read_bytes) == ("thin", len(blocks) * BLOCK_BYTES)
        assert manifest.volumes[0].audited >= 64 and not manifest.volumes[0].audit_missed
        into = tmp_path / f"night {night}"
        rig.restore(rig.sites[1], into)
        assert (into / "vda").read_bytes() == rig.disk().read_bytes()
    assert not rig.warnings


def test_a_tracking_that_lies_is_found_out_and_nothing_is_lost(tmp_path: Path) -> None:
    """Half of all blocks changed, and tracking says that none did: 64 drawn blocks all miss it once in 10^19."""
    rig = _rig(tmp_path)
    _rewrite(rig, range(0, BLOCKS, 2))
    rig.image(now=EPOCH + timedelta(days=1), sources=_tracked(rig, Changes([])))
    assert len(rig.warnings) == 1 and rig.warnings[0].startswith("audit: ")
    volume = rig.open(rig.sites[0]).manifest.volumes[0]
    assert volume.audit_missed and volume.tracked == "" and volume.read_bytes == BLOCKS * BLOCK_BYTES
    rig.restore(rig.sites[0], tmp_path / "out")
    assert (tmp_path / "out/vda").read_bytes() == rig.disk().read_bytes()


def test_a_site_without_a_parent_makes_everything_be_read(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.disk().write_bytes(os.urandom(10 * BLOCK_BYTES))
    rig.image(sites=rig.sites[:1])
    results = rig.image(now=EPOCH + timedelta(days=1), sources=_tracked(rig, Changes([])))
    assert [each.read_bytes for each in results] == [10 * BLOCK_BYTES] * 2
    rig.restore(rig.sites[1], tmp_path / "out")
    assert (tmp_path / "out/vda").read_bytes() == rig.disk().read_bytes()


def _item(kind: int, mask: int = 0) -> Item:
    return Item(1, 0, 1, kind, 0, mask, bytes(32), None)


@pytest.mark.parametrize(
    ("item", "mask", "read"),
    [
        (_item(DATA), 0, False), (_item(DATA, 6), 6, False), (_item(DATA, 6), 2, True), (_item(DATA), 1, True),
        (_item(ZERO), 0, False), (_item(ZERO), 9, False), (_item(UNUSED), 0, True), (None, 0, True),
    ],
)  # fmt: skip
def test_which_unchanged_blocks_are_read(item: Item | None, mask: int, read: bool) -> None:
    """Another mask makes other bytes of what nobody wrote to; what a lineage does not have must be read for it."""
    span = Span(5, (0, mask, 0))
    other = _item(DATA, mask) if item is None or item.kind != DATA else item
    known: list[list[Item | None]] = [[_item(DATA), item, _item(DATA)], [_item(DATA), other, _item(DATA)]]
    found = [(each.block, each.masks, len(parts[0])) for each, parts in unread(span, known, Changes([(7, 8)]))]
    assert found == ([(6, (mask, 0), 2)] if read else [(7, (0,), 1)])
    assert [each for each, _ in unread(span, known, None)] == [span]
