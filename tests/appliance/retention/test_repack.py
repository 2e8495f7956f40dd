"""Packs mostly dead are repacked: images stay what they are, readers and the next night follow the tables, and a
table that lies can make a read fail and nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from appliance.config import RetentionConfig
from core.errors import CorruptError, ObjectMissingError, RefloatError
from imager.repository.frames import PackRef
from imager.repository.moved import Place, decode_table, encode_table
from imager.repository.view import ImageView
from imager.sites.base import Buffer
from imager.sites.memory import MemorySite
from tests.appliance.retention.years import Years

FEW = RetentionConfig(daily=2, monthly=0, yearly=0, minimum=1, copies=1)


def _wear(folder: Path) -> Years:
    """A site whose first pack, of eight frames, is less than half alive once the old nights are pruned."""
    years = Years(folder, config=FEW, blocks=128, pack_bytes=16 << 20)
    years.night()
    for night in range(6):
        for block in range(years.blocks):
            if block % 16 == night or block < 80:  # frames of the first night that keep some blocks; others none
                years.write(block)
        years.night()
    return years


def _worn(folder: Path) -> Years:
    years = _wear(folder)
    years.collect()
    assert years.objects("moved"), "something was repacked"
    return years


def test_repacked_images_restore_and_the_old_packs_go_later(tmp_path: Path) -> None:
    years = _worn(tmp_path)
    tables, packs = years.objects("moved"), set(years.objects("packs"))
    years.check()
    report = years.gc()
    assert report.half_dead == 0 and set(years.objects("packs")) == packs, "the old packs stay for a delay"
    years.now += timedelta(days=8)
    gone = years.gc()
    assert gone.packs == len(tables) and gone.repacked == 0
    assert len(packs - set(years.objects("packs"))) == len(tables)
    years.check()


def test_the_next_night_builds_on_moved_frames(tmp_path: Path) -> None:
    years = _worn(tmp_path)
    years.now += timedelta(days=8)
    years.gc()
    before = len(years.objects("packs"))
    years.write(3)
    years.night()
    assert years.rig.warnings == [] and len(years.objects("packs")) == before + 1, "nothing was stored anew"
    years.check()


def test_a_reader_that_began_before_goes_on(tmp_path: Path) -> None:
    """Its listing is old: packs vanish under it, and are found where they are now."""
    years = _wear(tmp_path)
    opened = years.rig.open(years.sites[0])
    view, volume = ImageView(opened), opened.manifest.volumes[0]
    assert view.read(volume, 0, 65536) == years.disk[:65536]
    opened.place(next(opened.segment(opened.manifest.layers[0][0]).frames()))  # the listing is made here
    years.collect()
    years.now += timedelta(days=8)
    assert years.gc().packs and years.objects("moved")
    assert view.read(volume, 0, len(years.disk)) == bytes(years.disk)


def test_packs_move_again_and_again(tmp_path: Path) -> None:
    years = Years(tmp_path, config=FEW, blocks=96, pack_bytes=16 << 20)
    years.night()
    moved = 0
    for night in range(40):
        for block in range(years.blocks):
            if years.rng.random() < 0.25:
                years.write(block)
        years.night(pass_time=timedelta(days=9))
        years.prune()
        moved += years.gc().repacked
        if night % 10 == 9:
            years.check()
    assert moved > 10
    # What nothing goes through any more is taken, too: tables do not grow with the years.
    assert len(years.objects("moved")) < moved


def test_a_repack_that_died_before_its_table_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pack is left: named by nobody, spared while it is young, and never relied on."""

    class Killed(BaseException):
        pass

    plain = MemorySite.put

    def put(site: MemorySite, name: str, body: Sequence[Buffer]) -> None:
        if "/moved/" in name:
            raise Killed
        plain(site, name, body)

    years = _wear(tmp_path)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(MemorySite, "put", put)
        years.collect()
    assert not years.objects("moved")
    years.check()
    assert years.gc().repacked == 0, "a pack of that name is there, and may be about to go"
    years.now += timedelta(days=8)
    years.night()
    years.collect()
    years.collect()
    assert years.objects("moved")
    years.check()


def _exchange(years: Years, name: str, body: bytes) -> None:
    years.sites[0].delete(name)
    years.sites[0].put(name, [body])


@pytest.mark.parametrize("lie", ["elsewhere", "swapped", "empty", "nonsense", "circle", "longer", "huge"])
def test_a_table_that_lies_only_makes_a_read_fail(lie: str, tmp_path: Path) -> None:
    years = _worn(tmp_path)
    years.now += timedelta(days=8)
    years.gc()
    for name in years.objects("moved"):
        found = json.loads(years.sites[0].get(name))
        pack, rows = found["pack"], found["frames"]
        if lie == "elsewhere":
            found["packs"] = [["ab" * 32, 1 << 20]] * len(found["packs"])
        elif lie == "swapped":
            for row in rows:
                row[3] = max(0, row[3] - 1)
        elif lie == "empty":
            found["frames"] = []
        elif lie == "circle":
            found["packs"] = [[pack, 1 << 20]]
            for row in rows:
                row[2], row[3] = 0, row[0]
        elif lie == "longer":
            for row in rows:
                row[1] = 1 << 60
        body = b"[" * 100_000 if lie == "nonsense" else json.dumps(found, separators=(",", ":")).encode()
        _exchange(years, name, body + b" " * (2 << 20) if lie == "huge" else body)
    newest = years.images()[-1]
    with pytest.raises(RefloatError) as caught:
        years.rig.restore(years.sites[0], tmp_path / "other", newest)
    assert isinstance(caught.value, CorruptError | ObjectMissingError)
    with pytest.raises(AssertionError):
        years.check()
    if lie == "swapped":
        return  # all is where it should be but for its bytes, and those only a restore and verify read
    with pytest.raises(CorruptError):
        years.gc()
    assert years.images()
    # The next night finds what is lost, and stores it anew.
    years.night()
    assert years.rig.warnings
    years.rig.restore(years.sites[0], tmp_path / "again", years.images()[-1])
    assert next((tmp_path / "again").iterdir()).read_bytes() == bytes(years.disk)


def test_a_lying_table_does_no_harm_while_the_pack_is_there(tmp_path: Path) -> None:
    years = _worn(tmp_path)
    for name in years.objects("moved"):
        found = json.loads(years.sites[0].get(name))
        for row in found["frames"]:
            row[3] = max(0, row[3] - 1)
        _exchange(years, name, json.dumps(found, separators=(",", ":")).encode())
    years.rig.restore(years.sites[0], tmp_path / "other", years.images()[-1])
    assert next((tmp_path / "other").iterdir()).read_bytes() == bytes(years.disk)


def test_a_table_says_what_was_said(tmp_path: Path) -> None:
    old, new = PackRef(b"\1" * 32, 1 << 20), PackRef(b"\2" * 32, 1 << 20)
    data = encode_table(old, {100: Place(new, 56, 1000), 16: Place(new, 2000, 7)})
    table = decode_table(data, old.hex)
    assert table.find(100, 1000) == Place(new, 56, 1000) and table.find(16, 7) == Place(new, 2000, 7)
    assert table.find(100, 999) is None and table.find(0, 7) is None
    with pytest.raises(CorruptError):
        decode_table(data, new.hex)
    with pytest.raises(CorruptError):
        decode_table(data.replace(b"1048576", b"1000"), old.hex)
