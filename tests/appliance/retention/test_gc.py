"""Prune, gc, repack on real images of small disks: what stays restores, what went is gone, and nothing goes early."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from appliance.config import RetentionConfig
from appliance.retention.lease import leased
from appliance.retention.records import Going, Records
from core.errors import CorruptError, ObjectMissingError, PolicyError
from imager.sites.memory import MemorySite
from tests.appliance.retention.years import START, Years

FEW = RetentionConfig(daily=2, monthly=0, yearly=0, minimum=1, copies=1)


def _nights(years: Years, count: int, changes: int = 4) -> list[str]:
    found = []
    for _ in range(count):
        for _ in range(changes):
            years.write(years.rng.randrange(years.blocks))
        found.append(years.night())
    return found


def test_what_goes_is_gone_after_the_delay_and_no_sooner(tmp_path: Path) -> None:
    years = Years(tmp_path, config=FEW)
    images = _nights(years, 6)
    before = years.sites[0].list()
    report = years.prune()
    assert [row.image for row in report.rows if row.stays] == images[-2:]
    assert years.prune().written == [], "what is in the trash already is not thrown again"
    years.now += timedelta(days=6, hours=23)
    report_gc = years.gc()
    assert years.images() == images and report_gc.images == []
    years.check()
    years.now += timedelta(hours=2)
    dry = years.gc(apply=False)
    assert years.images() == images and dry.images == images[:-2]
    done = years.gc()
    assert years.images() == images[-2:] and done.images == images[:-2]
    assert done.packs + done.maps > 0 and done.deleted_bytes >= dry.deleted_bytes > 0
    assert years.objects("trash") == [] == years.objects("clock")
    years.check()
    assert sum(1 for _ in before) > sum(1 for _ in years.sites[0].list())
    years.night()
    years.check()


def test_a_pin_or_a_lease_calls_back_what_was_decided(tmp_path: Path) -> None:
    years = Years(tmp_path, config=FEW)
    images = _nights(years, 6)
    years.prune()
    records = Records(years.rig.repository(years.sites[0]))
    records.pin(images[0], "why")
    years.now += timedelta(days=8)
    records.lease(images[1], years.now + timedelta(days=90))
    assert years.gc().images == images[2:4]
    years.check()
    records.unpin(images[0])
    years.collect()
    assert years.images() == [images[1], *images[4:]]
    years.now += timedelta(days=7, hours=1)  # a lease holds for 14 days, whatever it says
    years.collect()
    assert years.images() == images[4:]
    years.check()


def test_a_lease_that_nobody_can_read_holds_everything(tmp_path: Path) -> None:
    years = Years(tmp_path, config=FEW)
    images = _nights(years, 5)
    years.prune()
    years.now += timedelta(days=8)
    years.sites[0].put("servers/web1/leases/x.json", [b'{"refloat":"lease","version":9}'])
    years.gc()
    assert years.images() == images
    years.now += timedelta(days=15)
    years.collect()
    assert years.images() == images[-2:]


def test_a_restore_under_way_holds_its_image(tmp_path: Path) -> None:
    years = Years(tmp_path, config=FEW)
    images = _nights(years, 5)
    years.prune()
    years.now += timedelta(days=8)
    with leased([years.rig.repository(years.sites[0])], images[0]):
        assert images[0] not in years.gc().images and images[0] in years.images()
    assert years.objects("leases") == []
    years.collect()
    assert years.images() == images[-2:]


def test_a_pin_that_comes_while_gc_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    years = Years(tmp_path, config=FEW)
    images = _nights(years, 5)
    years.prune()
    years.now += timedelta(days=8)
    records = Records(years.rig.repository(years.sites[0]))
    plain = MemorySite.get
    calls: list[str] = []

    def get(site: MemorySite, name: str, offset: int = 0, length: int | None = None) -> bytes:
        if "/maps/" in name and not calls:
            calls.append(name)
            records.pin(images[0], "")
        return plain(site, name, offset, length)

    monkeypatch.setattr(MemorySite, "get", get)
    years.rig.cache = tmp_path / "nothing"  # maps come from the site
    assert years.gc().images == images[1:3] and calls
    years.check()


def test_damage_stops_gc_and_dropping_the_image_lets_it_go_on(tmp_path: Path) -> None:
    years = Years(tmp_path, config=FEW)
    images = _nights(years, 5)
    years.prune()
    years.now += timedelta(days=8)
    site = years.sites[0]
    name = f"servers/web1/images/{images[-2]}.json"
    site.delete(name)
    site.put(name, [b"{}"])
    everything = list(site.list("servers/web1/packs/"))
    with pytest.raises(CorruptError, match="nothing is deleted"):
        years.gc()
    assert list(site.list("servers/web1/packs/")) == everything and len(years.images()) == 5
    years.prune(drop=[images[-2]])
    years.now += timedelta(days=8)
    years.gc()
    # Of two days one is left without an image: the day before it takes its place.
    assert images[-2] not in years.images() and images[-1] in years.images()
    years.check()


def test_a_pack_that_is_gone_stops_gc(tmp_path: Path) -> None:
    years = Years(tmp_path, config=FEW)
    _nights(years, 4)
    years.prune()
    years.now += timedelta(days=8)
    years.sites[0].delete(years.objects("packs")[0])
    with pytest.raises(CorruptError, match="not there whole"):
        years.gc()
    assert len(years.images()) == 4


def test_the_newest_is_never_dropped(tmp_path: Path) -> None:
    years = Years(tmp_path, config=FEW)
    images = _nights(years, 3)
    with pytest.raises(PolicyError, match="stays"):
        years.prune(drop=[images[-1]])
    with pytest.raises(ObjectMissingError):
        years.prune(drop=["20200101T000000Z"])
    # nor is a forged decision believed
    Records(years.rig.repository(years.sites[0])).throw(
        [Going(images[-1], years.pruner().found["de1"].images[-1].digest, "", dropped=True)], years.now
    )
    years.now += timedelta(days=30)
    years.gc()
    assert images[-1] in years.images()


def test_a_run_longer_than_the_delay_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs of a run that goes on for weeks are named by nobody until it commits."""
    years = Years(tmp_path, config=FEW)
    _nights(years, 3)
    for block in range(40):
        years.write(block)
    plain, put = MemorySite.put, []

    def slow(site: MemorySite, name: str, body: list[bytes]) -> None:
        plain(site, name, body)
        if "/packs/" in name:
            put.append(name)
            years.now += timedelta(days=9)
            report = years.gc()
            assert report.packs == 0 and report.young > 0

    monkeypatch.setattr(MemorySite, "put", slow)
    years.night()
    assert len(put) > 2
    years.check()


def test_orphans_go_once_a_run_followed(tmp_path: Path) -> None:
    years = Years(tmp_path, config=RetentionConfig(copies=1))
    _nights(years, 2)
    site, stray = years.sites[0], f"servers/web1/packs/ab/{'ab' * 32}"
    site.put(stray, [b"of a killed run"])
    site.put("servers/web1/packs/ab/strange", [b"not ours to judge"])
    site.put("servers/web1/archives/20260101T000000Z/part-000000", [b"another mechanism's"])
    years.now += timedelta(days=30)
    assert years.gc().packs == 0, "no image was committed since: its run may still be under way"
    years.night()
    assert years.gc().packs == 1
    with pytest.raises(ObjectMissingError):
        site.stat(stray)
    assert len(years.objects("archives")) == 1 and "servers/web1/packs/ab/strange" in years.objects("packs")


def test_where_another_site_lags_nothing_goes(tmp_path: Path) -> None:
    years = Years(tmp_path, config=RetentionConfig(daily=2, monthly=0, yearly=0, minimum=1), names=("de1", "fr1"))
    first = _nights(years, 3)
    years.rig.sites = [years.sites[0]]
    alone = _nights(years, 6)
    reasons = {row.image: row for row in years.prune("de1").rows}
    assert [image for image in first + alone if not reasons[image].stays] == first[:2]
    assert "only 1 of 2 sites" in reasons[alone[0]].reason
    assert [row.image for row in years.prune("fr1").rows if not row.stays] == first[:1]


def test_a_forged_clock_of_the_server_moves_nothing(tmp_path: Path) -> None:
    """The server says 2036, then 1999; the site's receipts count, and names only ever rise."""
    years = Years(tmp_path, config=FEW)
    images = [years.night(server_clock=START.replace(year=year)) for year in (2026, 2036, 1999, 2027)]
    assert images == sorted(images)
    years.collect()
    assert years.images() == images[-2:]
    years.check()


def test_a_receipt_counts_before_the_objects_own_time(tmp_path: Path) -> None:
    years = Years(tmp_path, config=RetentionConfig(daily=1, monthly=0, yearly=0, minimum=1, copies=1))
    images = _nights(years, 3)
    held = years.pruner().found["de1"].images[0]
    later: datetime = years.now - timedelta(hours=1)
    years.sites[0].put(
        f"servers/web1/receipts/{images[0]}.json",
        [
            f'{{"refloat":"receipt","version":1,"image":"{images[0]}","digest":"{held.digest}",'
            f'"received":"{later:%Y-%m-%dT%H:%M:%SZ}","vault":"v"}}'.encode()
        ],
    )
    stays = {row.image for row in years.prune().rows if row.stays}
    assert stays == {images[0], images[2]}, "the newest by receipt, and the one the next night builds on"


def test_another_signer_counts_for_nothing_and_what_it_names_stays(tmp_path: Path) -> None:
    years = Years(tmp_path, config=FEW)
    images = _nights(years, 4)
    other = Years(tmp_path / "other", seed=2, now=years.now)
    forged = other.night(server_clock=START.replace(year=2030))
    name = f"servers/web1/images/{forged}.json"
    for each in other.sites[0].list():
        if "/images/" in each.name or "/maps/" in each.name or "/packs/" in each.name:
            years.sites[0].put(each.name, [other.sites[0].get(each.name)])
    rows = {row.image: row for row in years.prune().rows}
    assert rows[forged].state == "doubtful" and rows[forged].stays
    assert [image for image in images if rows[image].stays] == images[-2:]
    years.now += timedelta(days=8)
    years.gc()
    assert years.sites[0].get(name)
    years.prune(drop=[forged])
    years.now += timedelta(days=8)
    years.gc()
    assert years.images() == images[-2:]
    years.check()
