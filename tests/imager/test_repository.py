"""Image → change → image → restore → compare, with everything that may happen in between."""

from __future__ import annotations

import os
import random
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from core.errors import (
    CorruptError,
    KeyMissingError,
    ObjectMissingError,
    SiteError,
    SourceError,
    StateError,
    TrustError,
)
from imager.keys import Identities, ServerKeys
from imager.repository import feed
from imager.repository.parents import adopt
from imager.repository.store import Repository
from imager.sites.fault import Fault, Rule, What
from imager.sites.memory import MemorySite
from imager.source import Reader
from imager.spans import BLOCK_BYTES
from tests.imager.rig import EPOCH, Rig

MIB = 1 << 20


def scribble(path: Path, rng: random.Random, count: int, size: int) -> None:
    """Change a disk as a day would: pages of noise, text, and zeros here and there."""
    with open(path, "r+b") as file:
        for _ in range(count):
            file.seek(rng.randrange(0, size))
            length = min(rng.choice((512, 4096, 16384, 200_000)), size - file.tell())
            kind = rng.randrange(3)
            file.write(rng.randbytes(length) if kind == 0 else (b"\0" if kind == 1 else b"text ")[:1] * length)


def make_disk(path: Path, rng: random.Random, size: int) -> None:
    path.touch()
    os.truncate(path, size)
    scribble(path, rng, 30, size)


@pytest.mark.parametrize("seed", range(6))
def test_any_history_comes_back_bit_by_bit(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    rig = Rig(tmp_path, pack_bytes=rng.choice((256 << 10, MIB)))
    size = rng.randrange(1, 12 * MIB) // 512 * 512
    make_disk(rig.disk(), rng, size)
    contents: dict[str, bytes] = {}
    for night in range(7):
        # A site missed now and then: two lineages, fed from one read.
        sites = [site for site in rig.sites if night == 0 or rng.random() < 0.8] or [rig.sites[0]]
        results = rig.image(sites=sites, now=EPOCH + timedelta(days=night))
        assert [result.status for result in results] == ["committed"] * len(sites)
        for site in sites:
            contents[f"{site.name}/{rig.images(site)[-1]}"] = rig.disk().read_bytes()
        change = rng.randrange(4)
        if change == 0:
            size = max(512, size + rng.randrange(-2 * MIB, 3 * MIB) // 512 * 512)
            os.truncate(rig.disk(), size)
        elif change == 1:
            continue
        scribble(rig.disk(), rng, rng.randrange(1, 12), size)
    for number, (name, content) in enumerate(contents.items()):
        site = next(each for each in rig.sites if each.name == name.split("/")[0])
        into = tmp_path / f"out{number}"
        rig.restore(site, into, name.split("/")[1])
        assert (into / "vda").read_bytes() == content, name


def test_an_unchanged_night_stores_nothing_and_a_changed_page_one_block(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    make_disk(rig.disk(), random.Random(1), 8 * MIB)
    rig.image()
    again = rig.image(now=EPOCH + timedelta(days=1))
    assert all(result.changed_bytes == result.stored_bytes == 0 for result in again)
    with open(rig.disk(), "r+b") as file:
        file.seek(3 * MIB + 4096)
        file.write(os.urandom(4096))
    third = rig.image(now=EPOCH + timedelta(days=2))
    assert all(result.changed_bytes == BLOCK_BYTES for result in third)
    assert all(result.parent == rig.images(rig.sites[0])[1] for result in third)


def test_a_second_restore_writes_nothing_and_a_rollback_only_the_difference(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rng = random.Random(2)
    make_disk(rig.disk(), rng, 8 * MIB)
    rig.image()
    (first,) = rig.restore(rig.sites[0], tmp_path / "out")
    assert first.written_bytes > 0 and first.verified_bytes >= first.written_bytes
    (second,) = rig.restore(rig.sites[0], tmp_path / "out")
    assert (second.written_bytes, second.zeroed_bytes) == (0, 0) and second.equal_bytes == first.written_bytes
    with open(tmp_path / "out" / "vda", "r+b") as file:
        file.seek(MIB)
        file.write(os.urandom(100))
    (third,) = rig.restore(rig.sites[0], tmp_path / "out")
    assert third.written_bytes + third.zeroed_bytes <= BLOCK_BYTES
    assert (tmp_path / "out" / "vda").read_bytes() == rig.disk().read_bytes()


def test_stale_bytes_on_a_target_do_not_survive_where_the_image_has_zeros(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.disk().write_bytes(bytes(4 * MIB) + b"x" * 5000 + bytes(3 * MIB))
    rig.image()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "vda").write_bytes(os.urandom(rig.disk().stat().st_size))
    rig.restore(rig.sites[0], tmp_path / "out")
    assert (tmp_path / "out" / "vda").read_bytes() == rig.disk().read_bytes()


def test_a_failing_site_does_not_keep_the_other_from_its_image(tmp_path: Path) -> None:
    good = MemorySite("de1")
    rig = Rig(tmp_path, sites=[good, Fault(MemorySite("fr1"), [Rule(What.VANISH, verb="put", nth=2)])])
    make_disk(rig.disk(), random.Random(3), 8 * MIB)
    results = {result.name: result for result in rig.image()}
    assert results["de1"].status == "committed" and results["fr1"].status == "failed"
    assert isinstance(results["fr1"].error, SiteError)
    rig.restore(good, tmp_path / "out")
    assert (tmp_path / "out" / "vda").read_bytes() == rig.disk().read_bytes()


def test_a_slow_site_is_detached_and_its_durable_packs_count_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "GRACE_SECONDS", 0.2)
    good, inner = MemorySite("de1"), MemorySite("fr1")
    slow = Fault(inner, [Rule(What.HANG, verb="put", nth=0, contains="packs", seconds=0.8)])
    rig = Rig(tmp_path, sites=[good, slow])
    rig.disk().write_bytes(os.urandom(12 * MIB))
    results = {result.name: result for result in rig.image()}
    assert results["de1"].status == "committed" and results["fr1"].status == "lagging"
    assert rig.images(inner) == []
    durable = sum(1 for info in inner.list("servers/web1/packs/"))
    assert 0 < durable < 12
    again = {result.name: result for result in rig.image(sites=[good, inner], now=EPOCH + timedelta(days=1))}
    assert again["fr1"].status == "committed"
    assert again["de1"].stored_bytes == 0
    # the put that was under way when the site was let go may have ended since, unmarked
    assert (12 - durable) * MIB <= again["fr1"].changed_bytes <= (13 - durable) * MIB
    rig.restore(inner, tmp_path / "out")
    assert (tmp_path / "out" / "vda").read_bytes() == rig.disk().read_bytes()


def test_all_sites_failing_is_that_error_and_no_image(tmp_path: Path) -> None:
    inner = [MemorySite("de1"), MemorySite("fr1")]
    rig = Rig(tmp_path, sites=[Fault(site, [Rule(What.VANISH, verb="put", nth=1)]) for site in inner])
    rig.disk().write_bytes(os.urandom(32 * MIB))
    with pytest.raises(SiteError):
        rig.image()
    assert all(rig.images(site) == [] for site in inner)


def test_another_identity_opens_nothing(tmp_path: Path) -> None:
    import pyrage

    rig = Rig(tmp_path)
    make_disk(rig.disk(), random.Random(5), MIB)
    rig.image()
    stranger = Identities.parse(str(pyrage.x25519.Identity.generate()))
    with pytest.raises(KeyMissingError) as caught:
        rig.open(rig.sites[0], identities=stranger)
    assert caught.value.hint


def test_an_image_signed_by_another_server_is_not_taken(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    make_disk(rig.disk(), random.Random(6), MIB)
    rig.image()
    stranger = ServerKeys.create(tmp_path / "other", "web1")
    with pytest.raises(TrustError):
        Repository(rig.sites[0], "web1").load(rig.images(rig.sites[0])[0], stranger.fingerprint)


def test_a_clock_that_jumps_back_keeps_the_order(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    make_disk(rig.disk(), random.Random(7), MIB)
    rig.image(now=EPOCH)
    rig.image(now=EPOCH - timedelta(days=400))
    rig.image(now=EPOCH - timedelta(days=800))
    names = rig.images(rig.sites[0])
    assert names == sorted(names) and len(set(names)) == 3
    manifests = [rig.repository(rig.sites[0]).load(name, None).manifest for name in names]
    assert [each.parent.image if each.parent else None for each in manifests] == [None, *names[:2]]


def test_unreadable_sectors_are_read_around_recorded_and_the_image_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A drive that answers EIO cannot be had without device-mapper: the kernel's answer is put in its place.
    rig = Rig(tmp_path)
    content = bytearray(os.urandom(2 * MIB))
    rig.disk().write_bytes(content)
    bad = range(MIB + 512, MIB + 1536)
    real = os.preadv

    def failing(handle: int, buffers: list[memoryview], offset: int, *flags: int) -> int:
        length = sum(len(each) for each in buffers)
        if offset < bad.stop and offset + length > bad.start:
            raise OSError(5, "Input/output error")
        return real(handle, buffers, offset, *flags)

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", failing)
        results = rig.image()
    assert all(result.status == "committed" and result.damaged for result in results)
    manifest = rig.open(rig.sites[0]).manifest
    assert manifest.state == "damaged"
    assert manifest.volumes[0].unreadable == ((bad.start, len(bad)),)
    content[bad.start : bad.stop] = bytes(len(bad))
    rig.restore(rig.sites[0], tmp_path / "out")
    assert (tmp_path / "out" / "vda").read_bytes() == content


def test_a_disk_that_vanishes_ends_the_run_and_commits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(tmp_path)
    rig.disk().write_bytes(os.urandom(4 * MIB))
    real = Reader.read

    def shrinking(self: Reader, offset: int, buffer: memoryview) -> None:
        os.truncate(rig.disk(), MIB)
        real(self, offset, buffer)

    monkeypatch.setattr(Reader, "read", shrinking)
    with pytest.raises(SourceError) as caught:
        rig.image()
    assert caught.value.hint and all(rig.images(site) == [] for site in rig.sites)


@pytest.mark.parametrize("what", [What.FLIP, What.SHORT])
def test_a_site_that_lies_about_a_pack_is_named(tmp_path: Path, what: What) -> None:
    inner = MemorySite("de1")
    rig = Rig(tmp_path, sites=[inner])
    rig.disk().write_bytes(os.urandom(MIB))
    rig.image()
    liar = Fault(inner, [Rule(what, verb="get", contains="packs/")], seed=1)
    with pytest.raises(CorruptError) as caught:
        rig.restore(liar, tmp_path / "out")
    assert "packs/" in caught.value.message and "de1" in caught.value.message


def test_a_missing_pack_is_named(tmp_path: Path) -> None:
    rig = Rig(tmp_path, sites=[MemorySite("de1")])
    rig.disk().write_bytes(os.urandom(MIB))
    rig.image()
    victim = next(iter(rig.sites[0].list("servers/web1/packs/"))).name
    rig.sites[0].delete(victim)
    with pytest.raises(ObjectMissingError) as caught:
        rig.restore(rig.sites[0], tmp_path / "out")
    assert victim in caught.value.message


def test_a_damaged_parent_makes_the_next_image_larger_not_wrong(tmp_path: Path) -> None:
    rig = Rig(tmp_path, sites=[MemorySite("de1")])
    rig.disk().write_bytes(os.urandom(MIB))
    rig.image()
    for info in list(rig.sites[0].list("servers/web1/maps/")):
        rig.sites[0].delete(info.name)
    for path in rig.cache.iterdir():
        path.unlink()
    (result,) = rig.image(now=EPOCH + timedelta(days=1))
    assert result.parent is None and any("cannot serve as parent" in warning for warning in rig.warnings)
    rig.restore(rig.sites[0], tmp_path / "out")
    assert (tmp_path / "out" / "vda").read_bytes() == rig.disk().read_bytes()


def test_a_site_that_was_rolled_back_is_noticed(tmp_path: Path) -> None:
    rig = Rig(tmp_path, sites=[MemorySite("de1")])
    rig.disk().write_bytes(os.urandom(MIB))
    rig.image()
    rig.image(now=EPOCH + timedelta(days=1))
    rig.sites[0].delete(f"servers/web1/images/{rig.images(rig.sites[0])[-1]}.json")
    rig.image(now=EPOCH + timedelta(days=2))
    assert any("older state" in warning for warning in rig.warnings)


def test_a_full_state_disk_ends_the_run_with_a_hint_and_commits_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # ENOSPC on a real small disk is in the block tier (tests/appliance/e2e); here every write of the journal fails.
    rig = Rig(tmp_path)
    rig.disk().write_bytes(os.urandom(2 * MIB))

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(StateError) as caught:
        rig.image()
    assert caught.value.hint and all(rig.images(site) == [] for site in rig.sites)


def test_packs_that_are_gone_are_stored_anew_and_the_next_image_is_whole(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.disk().write_bytes(os.urandom(6 * MIB))
    rig.image()
    site = rig.sites[0]
    packs = [info.name for info in site.list("servers/web1/packs/")]
    for name in packs[:2]:
        site.delete(name)
    damaged, healthy = rig.image(now=EPOCH + timedelta(days=1))
    assert damaged.changed_bytes == 2 * MIB and healthy.changed_bytes == 0
    assert any("gone" in warning for warning in rig.warnings)
    rig.restore(site, tmp_path / "out")
    assert (tmp_path / "out" / "vda").read_bytes() == rig.disk().read_bytes()
    third = rig.image(now=EPOCH + timedelta(days=2))
    assert all(result.changed_bytes == 0 for result in third) and rig.warnings == []


def test_a_site_that_is_empty_all_at_once_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.disk().write_bytes(os.urandom(MIB))
    rig.image()
    with pytest.raises(SiteError) as caught:
        rig.image(sites=[MemorySite("de1")], now=EPOCH + timedelta(days=1))
    assert "mounted" in (caught.value.hint or "")


def test_a_second_server_of_the_same_name_is_refused(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.disk().write_bytes(os.urandom(MIB))
    rig.image()
    (tmp_path / "clone").mkdir()
    twin = Rig(tmp_path / "clone", sites=rig.sites)
    twin.disk().write_bytes(os.urandom(MIB))
    with pytest.raises(TrustError) as caught:
        twin.image(now=EPOCH + timedelta(days=1))
    assert caught.value.hint and len(rig.images(rig.sites[0])) == 1


def test_two_machines_with_one_servers_keys_do_not_write_one_history(tmp_path: Path) -> None:
    """The old server and the one restored from its image: whoever comes second is told, and nothing is written."""
    rig = Rig(tmp_path)
    rig.disk().write_bytes(os.urandom(MIB))
    rig.image()
    shutil.copytree(tmp_path / "state", tmp_path / "restored" / "state")
    twin = Rig(tmp_path / "restored", sites=rig.sites)
    twin.disk().write_bytes(rig.disk().read_bytes())
    twin.image(now=EPOCH + timedelta(days=1))
    with pytest.raises(TrustError) as caught:
        rig.image(now=EPOCH + timedelta(days=2))
    assert "not by this server" in caught.value.message and len(rig.images(rig.sites[0])) == 2
    adopt(rig.state)
    rig.image(now=EPOCH + timedelta(days=2))
    assert len(rig.images(rig.sites[0])) == 3
    with pytest.raises(TrustError):
        twin.image(now=EPOCH + timedelta(days=3))


def test_a_run_that_was_killed_after_its_commit_knows_its_image(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.disk().write_bytes(os.urandom(MIB))
    rig.image()
    before = {path: path.read_bytes() for path in (rig.state / "sites").iterdir()}
    rig.image(now=EPOCH + timedelta(days=1))
    for path, data in before.items():
        path.write_bytes(data)
    rig.image(now=EPOCH + timedelta(days=2))
    assert len(rig.images(rig.sites[0])) == 3
