"""Replicating between sites: all of it, once; after a kill; with damage on either side; and the nights that follow."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from appliance.kit import KitServer
from appliance.replicate import Replicate, Replicated
from appliance.verify import Verify
from core.errors import ConfigError, SiteError
from core.monitor import Monitor
from imager.repository.store import Repository
from imager.sites.base import Site
from imager.sites.fault import Fault, Rule, What
from imager.sites.memory import MemorySite
from tests.imager.rig import EPOCH, Rig

MIB = 1 << 20


def _pin(rig: Rig) -> KitServer:
    return KitServer(name=rig.name, id=rig.keys.server_id.hex(), fingerprint=rig.keys.fingerprint)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    rig = Rig(tmp_path)
    rig.disk().write_bytes(random.Random(1).randbytes(6 * MIB))
    return rig


def night(rig: Rig, day: int, *sites: Site) -> bytes:
    """Change the disk, image it to these sites (none: to all); the disk."""
    with rig.disk().open("r+b") as file:
        file.seek(day % 5 * MIB)
        file.write(random.Random(day).randbytes(MIB))
    assert {each.status for each in rig.image(sites=sites or None, now=EPOCH + timedelta(days=day))} == {"committed"}
    return rig.disk().read_bytes()


def replicate(
    rig: Rig, source: Site, target: Site, *, pins: bool = True, heal: bool = False, dry: bool = False
) -> Replicated:
    known = [_pin(rig)] if pins else []
    repositories = Repository(source, rig.name), Repository(target, rig.name)
    run = Replicate(*repositories, known, Monitor(), dry_run=dry, repair=heal)
    run.run()
    return run.heal() if heal else run.report


def intact(rig: Rig, site: Site) -> bool:
    return Verify(Repository(site, rig.name), [_pin(rig)], Monitor()).run().damage == []


def content(site: Site) -> dict[str, bytes]:
    return {each.name: site.get(each.name) for each in site.list()}


@pytest.mark.parametrize("pins", [True, False], ids=["pinned", "no-key"])
def test_everything_then_nothing(rig: Rig, tmp_path: Path, pins: bool) -> None:
    source, target = rig.sites[0], MemorySite("new")
    days = [night(rig, day, source) for day in range(3)]
    planned = replicate(rig, source, target, pins=pins, dry=True)
    assert list(target.list()) == []
    done = replicate(rig, source, target, pins=pins)
    assert len(done.images) == 3 and done.failed == []
    assert (planned.objects, planned.bytes) == (done.objects, done.bytes)
    there = content(target)
    unused = dict(content(source).items() - there.items())  # the delta of a night that was merged since
    assert {name.split("/")[2] for name in unused} <= {"maps"}
    assert {name for name in there if "/receipts/" not in name} == content(source).keys() - unused.keys()
    for number, image in enumerate(rig.images(target)):
        rig.restore(target, tmp_path / str(number), image)
        assert (tmp_path / str(number) / "vda").read_bytes() == days[number]
        receipt = msgspec.json.decode(there[f"servers/web1/receipts/{image}.json"])
        came = source.stat(f"servers/web1/images/{image}.json").received
        assert receipt["received"] == f"{came:%Y-%m-%dT%H:%M:%SZ}"
    assert intact(rig, target)
    again = replicate(rig, source, target, pins=pins)
    assert (again.objects, again.images, again.present) == (0, [], 3)


def test_a_receipt_is_carried_as_it_is(rig: Rig) -> None:
    source, target = rig.sites[0], MemorySite("new")
    night(rig, 0, source)
    name = f"servers/web1/receipts/{rig.images(source)[0]}.json"
    source.put(name, [b'{"refloat":"receipt","received":"2020-01-01T00:00:00Z"}'])
    replicate(rig, source, target)
    assert target.get(name) == source.get(name)


def test_the_manifest_is_last_whenever_it_is_killed(rig: Rig) -> None:
    """The target fails at its n-th put, for every n: nothing half is an image, and the next run goes on from there."""
    source = rig.sites[0]
    night(rig, 0, source)
    count = replicate(rig, source, MemorySite("count")).objects
    for nth in range(1, count + 1):
        inner = MemorySite("new")
        with pytest.raises(SiteError):
            replicate(rig, source, Fault(inner, [Rule(What.FAIL, "put", nth=nth)]))
        assert rig.images(inner) == []
        done = replicate(rig, source, inner)
        assert done.objects <= count - max(0, nth - 4)  # up to four were under way
        assert intact(rig, inner)


def test_a_site_that_missed_nights_is_brought_level_and_imaged_on(rig: Rig, tmp_path: Path) -> None:
    """Both have an image of the first night, of different parents from the third on; after it both verify, and a next
    night goes to both."""
    one, other = rig.sites
    night(rig, 0, one)
    night(rig, 1)  # the other's first: another manifest under the same name
    night(rig, 2, one)
    done = replicate(rig, one, other)
    assert len(done.images) == 2 and done.failed == []
    assert rig.images(one) == rig.images(other)
    assert intact(rig, other)
    last = night(rig, 3)
    for number, site in enumerate(rig.sites):
        assert intact(rig, site)
        rig.restore(site, tmp_path / str(number))
        assert (tmp_path / str(number) / "vda").read_bytes() == last


def test_what_is_damaged_at_the_source_is_not_spread(rig: Rig) -> None:
    source, target = rig.sites[0], MemorySite("new")
    night(rig, 0, source)
    good = rig.images(source)
    night(rig, 1, source)
    first = {each.name for each in source.list("servers/web1/packs/")}
    night(rig, 2, source)
    bad = next(each.name for each in source.list("servers/web1/packs/") if each.name not in first)
    spoil(source, bad)
    done = replicate(rig, source, target)
    assert len(done.failed) == 1 and bad in done.failed[0]
    assert rig.images(target)[: len(good)] == good and len(rig.images(target)) == 2
    assert intact(rig, target)
    assert bad not in content(target)


def spoil(site: Site, name: str) -> None:
    """One bit flipped."""
    data = bytearray(site.get(name))
    data[len(data) // 2] ^= 1
    site.delete(name)
    site.put(name, [data])


def test_every_damaged_or_missing_object_is_healed(rig: Rig) -> None:
    one, other = rig.sites
    night(rig, 0)
    night(rig, 1)
    was = content(other)
    for number, name in enumerate(was):
        if number % 2:
            other.delete(name)
        else:
            spoil(other, name)
    planned = replicate(rig, one, other, heal=True, dry=True)
    assert planned.healed and not intact_or_gone(rig, other)
    done = replicate(rig, one, other, heal=True)
    assert intact(rig, other), done.failed
    assert {name: data for name, data in content(other).items() if "/receipts/" not in name} == was


def intact_or_gone(rig: Rig, site: Site) -> bool:
    return bool(rig.images(site)) and intact(rig, site)


def test_healing_takes_nothing_away_when_both_are_damaged(rig: Rig) -> None:
    one, other = rig.sites
    night(rig, 0)
    pack = next(each.name for each in other.list("servers/web1/packs/"))
    for site in rig.sites:
        spoil(site, pack)
    before = content(other)
    done = replicate(rig, one, other, heal=True)
    assert len(done.failed) == 1 and pack in done.failed[0]
    assert content(other) == before


def test_healing_needs_a_pin_and_two_places(rig: Rig) -> None:
    night(rig, 0)
    with pytest.raises(ConfigError):
        replicate(rig, *rig.sites, pins=False, heal=True)
    with pytest.raises(ConfigError):
        replicate(rig, rig.sites[0], rig.sites[0])


def test_archives_come_whole_and_their_sums_last(rig: Rig) -> None:
    import hashlib

    source, target = rig.sites[0], MemorySite("new")
    night(rig, 0, source)
    parts = {f"part-{number:06}": random.Random(number).randbytes(1000) for number in range(3)}
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in parts.items()).encode()
    for stem, wrong in (("20260101T020000Z", False), ("20260102T020000Z", True), ("20260103T020000Z", False)):
        folder = f"servers/web1/archives/{stem}/"
        for name, data in parts.items():
            source.put(folder + name, [b"x" + data[1:] if wrong and name.endswith("1") else data])
        if stem[7] != "3":  # the third was not committed
            source.put(f"{folder}SHA256SUMS.sig", [b"signature"])
            source.put(f"{folder}SHA256SUMS", [sums])
    done = replicate(rig, source, target)
    assert done.archives == ["20260101T020000Z"] and len(done.failed) == 1
    there = [each.name.split("archives/")[1] for each in target.list("servers/web1/archives/")]
    assert [name for name in there if "SHA256SUMS" in name] == [
        "20260101T020000Z/SHA256SUMS",
        "20260101T020000Z/SHA256SUMS.sig",
    ]
    assert not any(name.startswith("20260103") for name in there)
