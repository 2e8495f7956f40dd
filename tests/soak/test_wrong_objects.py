"""Objects that are cut, grown, emptied, gone, or another object: each a clear error that names object and site."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import CorruptError, ObjectMissingError, RefloatError, TrustError
from tests.soak.stage import Stage, content_of

pytestmark = pytest.mark.soak

KINDS = ("images", "maps", "packs", "server.json")


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Stage, Stage]:
    """Our server, three nights, and another one of the same name elsewhere."""
    made = []
    for seed in (11, 12):
        rng = random.Random(seed)
        stage = Stage.create(tmp_path_factory.mktemp("wrong") / "server", rng, {"vda": 1_500_160})
        for _ in range(3):
            stage.image()
            stage.scribble(rng, 1)
        made.append(stage)
    return made[0], made[1]


@pytest.fixture
def ours(stages: tuple[Stage, Stage], tmp_path: Path) -> Iterator[Stage]:
    """A copy that may be spoilt; the server's cache of maps must not help."""
    stage = stages[0].clone(tmp_path / "server")
    shutil.rmtree(stage.state / "maps")
    yield stage


def objects(stage: Stage, kind: str) -> list[Path]:
    """What the newest image needs of that kind at site de, the oldest first, the newest last."""
    found = [stage.folder / "de" / name for name in stage.needed("de") if f"/{kind}" in name]
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))


def check(stage: Stage, path: Path, out: Path, *errors: type[RefloatError], harmless: bool = False) -> None:
    """Verify names the object; restoring the newest image gives one of `errors` that names it, or, where `harmless`,
    the right bytes."""
    name = str(path.relative_to(stage.folder / "de"))
    damage = {each.object: each for each in stage.verify("de").report.damage}
    assert name in damage and damage[name].site == "de", damage
    if harmless:
        stage.restore("de", out)
        assert content_of(out) == stage.known["de", stage.images("de")[-1]]
        return
    with pytest.raises(errors) as caught:
        stage.restore("de", out)
    assert name in caught.value.message and "de" in caught.value.message
    assert (caught.value.fields["object"], caught.value.fields["site"]) == (name, "de")
    # the other site has it all, and is asked when the first one fails
    if "/images/" not in name:
        stage.restore("de", out, "", "fr")
        assert content_of(out) == stage.known["de", stage.images("de")[-1]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["cut", "grown", "emptied", "gone"])
def test_spoilt(kind: str, how: str, ours: Stage, tmp_path: Path) -> None:
    path = objects(ours, kind)[-1]
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
        gone_with_it = kind == "images"  # then the one before is the newest: nothing is said to be missing
        if not gone_with_it:
            check(ours, path, tmp_path / "out", ObjectMissingError, harmless=kind == "server.json")
        else:
            assert ours.verify("de").report.damage == [] and len(ours.images("de")) == 2
        return
    path.write_bytes({"cut": data[:-1], "grown": data + b"\0", "emptied": b""}[how])
    # A map and a pack are read by the lengths that signed objects state: what is appended is never looked at.
    harmless = kind == "server.json" or (how == "grown" and kind in ("maps", "packs"))
    check(ours, path, tmp_path / "out", CorruptError, harmless=harmless)


def test_another_image_under_this_name(ours: Stage, tmp_path: Path) -> None:
    paths = objects(ours, "images")
    shutil.copyfile(paths[0], paths[-1])
    check(ours, paths[-1], tmp_path / "out", TrustError)


def test_an_image_renamed_into_the_future(ours: Stage, tmp_path: Path) -> None:
    paths = objects(ours, "images")
    future = paths[-1].with_name("29991231T235959Z.json")
    shutil.copyfile(paths[0], future)
    check(ours, future, tmp_path / "out", TrustError)


@pytest.mark.parametrize("kind", ["maps", "packs"])
def test_an_older_object_under_a_newer_name(kind: str, ours: Stage, tmp_path: Path) -> None:
    paths = objects(ours, kind)
    assert len(paths) > 1
    shutil.copyfile(paths[0], paths[-1])
    check(ours, paths[-1], tmp_path / "out", CorruptError)


@pytest.mark.parametrize("kind", KINDS)
def test_another_servers_object(kind: str, ours: Stage, stages: tuple[Stage, Stage], tmp_path: Path) -> None:
    path = objects(ours, kind)[-1]
    shutil.copyfile(objects(stages[1], kind)[-1], path)
    errors = (TrustError,) if kind == "images" else (CorruptError,)
    check(ours, path, tmp_path / "out", *errors, harmless=kind == "server.json")


def test_all_of_another_server(ours: Stage, stages: tuple[Stage, Stage], tmp_path: Path) -> None:
    """A site that holds another server's images under our name: nothing of it is trusted."""
    shutil.rmtree(ours.folder / "de")
    shutil.copytree(stages[1].folder / "de", ours.folder / "de")
    report = ours.verify("de").report
    assert len(report.damage) == 4 and all("pinned" in each.problem for each in report.damage)
    with pytest.raises(TrustError, match="pinned"):
        ours.restore("de", tmp_path / "out")


def test_a_lying_site_harms_no_next_image(ours: Stage, tmp_path: Path) -> None:
    """A name far in the future, or no time at all, neither stops the next run nor makes it name its image after it."""
    folder = objects(ours, "images")[-1].parent
    for name in ("99991231T235959Z", "99999999T999999Z"):
        (folder / f"{name}.json").write_bytes(b"{}")
    outcome = ours.image()
    assert [each.status for each in outcome.sites] == ["committed", "committed"]
    assert any("9999" in warning for warning in outcome.warnings)
    ours.restore("fr", tmp_path / "out", outcome.image)
    assert content_of(tmp_path / "out") == ours.disks()
