"""Images in a locked bucket: put, renewed at commit, reported, restored; and in one that another hand then spoils."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from appliance.check import Status, check_store
from appliance.kit import KitServer
from appliance.locks import needed, renew, report
from appliance.verify import Verify
from core.errors import PolicyError
from core.monitor import Monitor
from imager.repository.store import Repository
from imager.sites.s3 import S3Site
from imager.sites.wrap import Retry
from tests.imager import stores
from tests.imager.rig import Rig

pytestmark = pytest.mark.block
MIB = 1 << 20


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with stores.moto(tmp_path_factory.mktemp("moto")) as port:
        yield port


@pytest.fixture(scope="module")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    root = tmp_path_factory.mktemp("rclone") / "root"
    root.mkdir()
    with stores.rclone(root) as port:
        yield port


def _rig(folder: Path, moto: int, rclone: int, days: int = 30) -> Rig:
    de = S3Site("de1", stores.bucket(moto, lock=True), "p", access=stores.access(moto), lock_days=days)
    fr = S3Site("fr1", stores.bucket(rclone), "q/r", access=stores.access(rclone))
    rig = Rig(folder, sites=[Retry(de), Retry(fr)])
    rig.disk().write_bytes(random.Random(1).randbytes(5 * MIB))
    return rig


def _pin(rig: Rig) -> KitServer:
    return KitServer(name=rig.name, id=rig.keys.server_id.hex(), fingerprint=rig.keys.fingerprint)


def test_two_nights_in_two_object_stores(moto: int, rclone: int, tmp_path: Path) -> None:
    """Imaged, spoilt on purpose where versions are kept, restored from both, every object needed is locked."""
    rig = _rig(tmp_path, moto, rclone)
    assert {each.status for each in rig.image()} == {"committed"}
    first = rig.disk().read_bytes()
    with rig.disk().open("r+b") as file:
        file.seek(MIB)
        file.write(random.Random(2).randbytes(MIB))
    assert {each.status for each in rig.image()} == {"committed"}
    de = rig.sites[0]
    spoiler = S3Site("spoiler", de.inner.bucket, "p", access=stores.access(moto))  # type: ignore[attr-defined]
    for info in de.list():
        spoiler.client.ask("put_object", "", Key=spoiler.key(info.name), Body=b"spoilt")
        spoiler.client.ask("delete_object", "", Key=spoiler.key(info.name))
    for number, site in enumerate(rig.sites):
        one, two = rig.images(site)
        for image, disk in ((one, first), (two, rig.disk().read_bytes())):
            into = tmp_path / f"{number}-{image}"
            rig.restore(site, into, image)
            assert next(into.iterdir()).read_bytes() == disk
        run = Verify(Repository(site, rig.name), [_pin(rig)], Monitor())
        assert run.run().damage == []
    told = report(Repository(de, rig.name), [_pin(rig)], Monitor())
    assert told is not None and told.open == [] and told.below_half == 0 and told.missed == []
    assert told.checked == len(list(de.list()))
    assert report(Repository(rig.sites[1], rig.name), [_pin(rig)], Monitor()) is None
    for site in (*rig.sites, spoiler):
        site.close()


def test_locks_are_renewed_when_half_is_over(moto: int, rclone: int, tmp_path: Path) -> None:
    rig = _rig(tmp_path, moto, rclone)
    rig.image(sites=rig.sites[:1])
    repository, note = Repository(rig.sites[0], rig.name), rig.state / "locks/de1.json"
    names = set(needed(repository, [_pin(rig)], []))
    assert names == {each.name for each in rig.sites[0].list()}
    assert renew(repository, _pin(rig), rig.state, Monitor()) == len(names)  # nothing known: all
    assert renew(repository, _pin(rig), rig.state, Monitor()) == 0  # not due
    said = msgspec.json.decode(note.read_bytes())
    for days, due in ((13, False), (15, True)):
        old = datetime.fromisoformat(said["renewed"]) - timedelta(days=days)
        note.write_bytes(msgspec.json.encode({**said, "renewed": old}))
        assert (renew(repository, _pin(rig), rig.state, Monitor()) > 0) is due
    note.write_bytes(b"torn")
    assert renew(repository, _pin(rig), rig.state, Monitor()) == len(names)
    for site in rig.sites:
        site.close()


def test_what_is_not_locked_is_reported(moto: int, rclone: int, tmp_path: Path) -> None:
    """Images from before site.lock_days was set; and a pass that locks them."""
    rig = _rig(tmp_path, moto, rclone)
    late = rig.sites[0]
    bucket = late.inner.bucket  # type: ignore[attr-defined]
    early = S3Site("de1", bucket, "p", access=stores.access(moto))
    rig.image(sites=[early])
    repository = Repository(late, rig.name)
    told = report(repository, [_pin(rig)], Monitor())
    assert told is not None and len(told.open) == told.checked > 3
    with pytest.raises(PolicyError):
        told.raise_for_status()
    renew(repository, _pin(rig), rig.state, Monitor())
    told = report(repository, [_pin(rig)], Monitor())
    assert told is not None and told.open == []
    told.raise_for_status()
    for site in (*rig.sites, early):
        site.close()


def test_check_says_what_each_store_does(moto: int, rclone: int) -> None:
    access, bucket = stores.access(moto), stores.bucket(moto, lock=True)
    safe = S3Site("de", bucket, "a", access=access, lock_days=30, lock_mode="compliance")
    plain = S3Site("de", stores.bucket(rclone), access=stores.access(rclone))
    wrong = S3Site("de", stores.bucket(moto), access=access, lock_days=30)
    statuses = [[each.status for each in check_store("de", site)] for site in (safe, plain, wrong)]
    assert statuses == [
        [Status.OK, Status.OK],
        [Status.WARN, Status.WARN, Status.WARN],
        [Status.WARN, Status.FAIL],
    ]
    assert "write-only for these" in check_store("de", safe)[0].message
    for site in (safe, plain, wrong):
        site.close()
