"""A site of format version 1 is read, whatever later versions write.

`data/version1.tar.xz` and its facts stand for images that exist somewhere. The identity in it opens nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from pathlib import Path

import pytest

from appliance.kit import KitServer
from appliance.verify import Verify
from core.monitor import Monitor
from imager.keys import Identities
from imager.placing import VolumeTarget
from imager.repository.reader import OpenImage
from imager.repository.restore import Restore
from imager.repository.store import Repository
from imager.sites.file import FileSite
from imager.target import Target

DATA = Path(__file__).parent / "data"
FACTS = json.loads((DATA / "version1.json").read_text())


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    with tarfile.open(DATA / "version1.tar.xz") as tar:
        for member in tar:
            path = tmp_path / "site" / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            content = tar.extractfile(member)
            assert content is not None
            path.write_bytes(content.read())
    return Repository(FileSite("de", tmp_path / "site"), FACTS["server"])


def test_it_proves_intact_without_keys(repository: Repository) -> None:
    pin = KitServer(name=FACTS["server"], id=FACTS["server_id"], fingerprint=FACTS["fingerprint"])
    monitor = Monitor()
    run = Verify(repository, [pin], monitor)
    report = run.run()
    (task,) = monitor.tasks
    assert task.done_bytes == report.read_bytes > 0
    assert report.damage == [] and report.images == len(FACTS["images"]) and report.packs > 1
    run.deep(Identities.parse(FACTS["identity_for_tests_only"]), Monitor())
    assert run.report.damage == [] and run.report.blocks > 0


def test_a_pin_is_a_key_and_an_id(repository: Repository) -> None:
    """Keys may be copied to a clone: every manifest, and the card, are then of another server."""
    pin = KitServer(name=FACTS["server"], id="00" * 16, fingerprint=FACTS["fingerprint"])
    report = Verify(repository, [pin], Monitor()).run()
    assert {each.object for each in report.damage} == {
        repository.card_name, *(repository.image_name(name) for name in FACTS["images"])
    }  # fmt: skip
    assert all(f"of the server with id {FACTS['server_id']}" in each.problem for each in report.damage)


def test_it_holds_what_the_format_has(repository: Repository) -> None:
    """Several layers, runs of zeros and of unused blocks, pages taken as free: a fixture of less would show less."""
    kinds, masks, layers, parents = set(), set(), 0, 0
    for image in FACTS["images"]:
        stored = repository.load(image, FACTS["fingerprint"])
        layers = max(layers, len(stored.manifest.layers))
        parents += stored.manifest.parent is not None
        for layer in stored.manifest.layers:
            for item in repository.layer(layer, stored.manifest.server_id):
                kinds.add(item.kind)
                masks.add(item.mask)
    assert kinds == {0, 1, 2} and len(masks) > 2 and layers > 1 and parents == len(FACTS["images"]) - 1


@pytest.mark.parametrize("image", sorted(FACTS["images"]))
def test_every_image_restores_bit_by_bit(image: str, repository: Repository, tmp_path: Path) -> None:
    stored = repository.load(image, FACTS["fingerprint"])
    opened = OpenImage([repository], stored, Identities.parse(FACTS["identity_for_tests_only"]))
    wanted = FACTS["images"][image]
    assert sorted(volume.spec.name for volume in opened.manifest.volumes) == sorted(wanted)
    for name, fact in wanted.items():
        path = tmp_path / name
        path.touch()
        os.truncate(path, fact["bytes"])
        disk = Target(str(path))
        try:
            Restore(opened, [VolumeTarget(name, str(path), 0, fact["bytes"])], {str(path): disk}, Monitor()).run()
        finally:
            disk.close()
        assert hashlib.sha256(path.read_bytes()).hexdigest() == fact["sha256"]
        assert opened.manifest.volume(name).method == fact["method"]
