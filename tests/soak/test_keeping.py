"""kill -9 of prune, gc and repack, also with images running: no image that stays is lost, none restores wrong, and the
next collection goes on.

As in `test_kills`: a past, a point drawn from a seed, a real process really killed there.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from tests.soak.fire import Pilot, amount, draw, pilot, shoot, start
from tests.soak.keeping import age, collect, pruner
from tests.soak.stage import MIB, SITES, Stage

pytestmark = pytest.mark.soak

GC_KINDS = (
    "de:delete before", "de:put after", "time", "de:delete after", "os:unlink after", "de:put before", "os:link after",
    "de:get before", "time", "os:fsync before", "os:link before", "de:list after", "os:unlink before", "os:mkdir after",
    "de:stat before", "os:fsync after",
)  # fmt: skip
PRUNE_KINDS = ("de:put before", "os:link after", "de:put after", "os:fsync before", "de:delete before", "time")


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> tuple[Stage, Pilot, Pilot]:
    """Five nights in which much is rewritten, so that packs are worn; a decision is due. With what prune
    and gc do from there."""
    folder, rng = tmp_path_factory.mktemp("past"), random.Random(5)
    stage = Stage.create(folder / "server", rng, {"vda": 16 * MIB, "vdb": 3 * MIB + 512 * 5})
    # Text that compresses: many frames a pack, so that some die and some live.
    for name, size in stage.sizes.items():
        (stage.folder / f"{name}.img").write_bytes(_wordy(rng, size))
    for _ in range(5):
        stage.image()
        age(stage, 1)
        for name, size in stage.sizes.items():
            _rewrite(rng, stage.folder / f"{name}.img", size)
    before = pilot("prune", stage.clone(folder / "prune").folder)
    for site in SITES:
        assert pruner(stage).run(site, apply=True).written
    age(stage, 8)
    worn = stage.clone(folder / "gc")
    seen = pilot("gc", worn.folder)
    assert len(list(worn.repository("de").moved.digests())) > 1, "something is repacked"
    assert len(worn.images("de")) == 2 and seen.counts["de:delete"] > 10
    return stage, before, seen


def _wordy(rng: random.Random, size: int) -> bytes:
    return b"".join(rng.choice((b"alpha ", b"beta ", b"gamma ", b"delta\n")) for _ in range(size // 5))[:size].ljust(
        size, b"."
    )


def _rewrite(rng: random.Random, path: Path, size: int) -> None:
    """Four fifths of the disk, frame by frame: of each pack of the night before little is left."""
    with open(path, "r+b") as file:
        for start in range(0, size - MIB, MIB):
            if rng.random() < 0.8:
                file.seek(start)
                file.write(_wordy(rng, MIB))


def _check(stage: Stage, must: set[str], scratch: Path) -> None:
    """What must be there is; whatever is there is known, proven intact, and restores bit by bit."""
    found = set(stage.images("de"))
    assert must <= found, f"lost: {must - found}"
    for image in found:
        stage.known.setdefault(("de", image), stage.disks())  # committed while gc ran: the disks are as they were
    assert stage.verify("de").report.damage == []
    for image in found:
        stage.restore("de", scratch, image)
        assert {path.name: path.read_bytes() for path in scratch.iterdir()} == stage.known["de", image], image


def _shoot(work: str, past: Stage, folder: Path, rng: random.Random, kind: str, seen: Pilot) -> tuple[Stage, str]:
    for attempt in range(20):
        point, moment = draw(rng, kind, seen, 0.8**attempt)
        stage = past.clone(folder)
        if shoot(work, stage.folder, point, moment):
            return stage, point
        shutil.rmtree(folder)
    raise AssertionError(f"{kind} killed nothing in 20 tries")


@pytest.mark.parametrize("number", range(amount(8, 220)))
def test_gc_killed(number: int, past: tuple[Stage, Pilot, Pilot], tmp_path: Path) -> None:
    stage, _, seen = past
    rng = random.Random(4000 + number)
    stay = {row.image for row in pruner(stage).run("de").rows if row.stays}
    kind = GC_KINDS[number % len(GC_KINDS)]
    if number % 3 == 2:  # an image is taken meanwhile
        copy = stage.clone(tmp_path / "server")
        with start("image", copy.folder, "none") as image:
            point, moment = draw(rng, kind, seen, 0.9)
            killed = shoot("gc", copy.folder, point, moment)
            image.communicate(timeout=120)
            assert image.returncode == 0
        print(f"gc killed at {point}: {killed}, an image was taken meanwhile")
    else:
        copy, point = _shoot("gc", stage, tmp_path / "server", rng, kind, seen)
        print(f"gc killed at {point}")
    _check(copy, stay, tmp_path / "out")
    if number % 2:
        shoot("gc", copy.folder, *draw(rng, kind, seen))
        _check(copy, stay, tmp_path / "out")
    collect(copy, "de")
    _check(copy, stay, tmp_path / "out")
    outcome = copy.image()
    assert [each.status for each in outcome.sites] == ["committed", "committed"] and outcome.warnings == []
    age(copy, 15)
    collect(copy, "de")
    assert len(copy.images("de")) <= 4
    _check(copy, {outcome.image}, tmp_path / "out")


@pytest.mark.parametrize("number", range(amount(3, 80)))
def test_prune_killed(number: int, past: tuple[Stage, Pilot, Pilot], tmp_path: Path) -> None:
    stage, before, _ = past
    rng = random.Random(5000 + number)
    copy, point = _shoot("prune", stage, tmp_path / "server", rng, PRUNE_KINDS[number % len(PRUNE_KINDS)], before)
    print(f"prune killed at {point}")
    _check(copy, set(stage.images("de")), tmp_path / "out")
    pruner(copy).run("de", apply=True)
    age(copy, 8)
    collect(copy, "de")
    assert len(copy.images("de")) == 2
    _check(copy, set(), tmp_path / "out")
