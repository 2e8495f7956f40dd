"""kill -9 of image, restore and verify: nothing committed is lost, nothing half is listed, the next run goes on.

Each test is one past, one point drawn from a seed, and a real process really killed there. `make test` runs the first
of them, `make soak` (REFLOAT_SOAK=full) all.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from core.layout import volumes_of
from core.monitor import Monitor
from core.run import SystemRunner
from hardware.inventory import firmware_mode
from hardware.read import DiskSource, read_layout
from imager.repository.journal import load_journals
from imager.repository.parents import survey
from imager.spans import BLOCK_BYTES
from imager.volumes import volume_ids
from tests.soak.fire import Pilot, amount, draw, pilot, shoot
from tests.soak.stage import MIB, SITES, Stage, content_of, differing_blocks, tree_digest

pytestmark = pytest.mark.soak

PASTS = ("two nights", "one site missed a night", "nothing yet")
#: Where an image is killed; the sample takes them from the top.
IMAGE_KINDS = (
    "between", "fr:put after", "journal half", "os:link after", "os:pwrite half", "os:replace before", "time",
    "de:put before", "journal after", "os:unlink before", "os:fsync before", "os:fdatasync after", "de:get before",
    "fr:list after", "os:mkdir after", "os:replace after", "de:stat before", "os:pwrite after", "time",
    "os:link before", "journal before", "fr:put before", "os:unlink after",
)  # fmt: skip
RESTORE_KINDS = (
    "os:pwrite half", "de:get before", "os:pwrite after", "time", "punch after", "os:fdatasync before",
    "os:preadv before", "os:pwrite before", "de:get after", "os:fdatasync after", "punch before", "time",
)  # fmt: skip
VERIFY_KINDS = ("de:get before", "time", "fr:get after", "fr:list before", "fr:stat after")


@pytest.fixture(scope="module")
def pasts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Stage, Pilot]]:
    """Each past with disks changed since, and what a run from there does when nobody kills it."""
    found: dict[str, tuple[Stage, Pilot]] = {}
    for number, past in enumerate(PASTS):
        rng = random.Random(number)
        folder = tmp_path_factory.mktemp("past")
        stage = Stage.create(folder / "server", rng, {"vda": 9 * MIB, "vdb": 3 * MIB + 512 * 5})
        if past != "nothing yet":
            stage.image()
            stage.scribble(rng, 6)
            stage.image(only=("de",) if past == "one site missed a night" else ())
            stage.scribble(rng, 14)
        found[past] = stage, pilot("image", stage.clone(folder / "pilot").folder)
    return found


def _kill(work: str, past: Stage, folder: Path, rng: random.Random, kind: str, seen: Pilot) -> tuple[Stage, str]:
    """A copy of the past, killed at a point of that kind; an earlier one when the run was over before it came."""
    for attempt in range(20):
        point, moment = draw(rng, kind, seen, 0.8**attempt)
        stage = past.clone(folder)
        if shoot(work, stage.folder, point, moment):
            return stage, point
        shutil.rmtree(folder)
    raise AssertionError(f"{kind} killed nothing in 20 tries")


@pytest.mark.parametrize("number", range(amount(12, 140)))
def test_image_killed(number: int, pasts: dict[str, tuple[Stage, Pilot]], tmp_path: Path) -> None:
    rng = random.Random(1000 + number)
    past, seen = pasts[PASTS[number % 3]]
    kind = IMAGE_KINDS[number % len(IMAGE_KINDS)]
    stage, point = _kill("image", past, tmp_path / "server", rng, kind, seen)
    rounds = 1
    if number % 4 == 3:  # and the run after it, too: two journals
        again, _ = draw(rng, "fr:put after", seen)
        rounds += shoot("image", stage.folder, again)
    print(f"killed at {point}, {rounds} times")
    _learn(stage)
    stage.check_past(tmp_path / "out")
    expected = {site: _left_to_do(stage, past, site, rounds) for site in SITES}
    outcome = stage.image()
    assert outcome.warnings == []
    for result in outcome.sites:
        assert (result.status, result.error) == ("committed", None)
        assert result.changed_bytes == expected[result.name] * BLOCK_BYTES
    stage.check_swept()
    stage.check_past(tmp_path / "out")
    if kind == "between":
        assert len(stage.images("de")) == len(stage.images("fr")) + 1 + (PASTS[number % 3] == PASTS[1])


def _learn(stage: Stage) -> None:
    """What a killed run committed holds what is on the disks: nothing changed since."""
    for site in SITES:
        for image in stage.images(site):
            stage.known.setdefault((site, image), stage.disks())


def _left_to_do(stage: Stage, past: Stage, site: str, rounds: int) -> int:
    """Blocks the next run must store: what differs from the site's newest image, less what the journals have durable.

    A feed puts one pack at a time: of those that are at the site, the journals miss at most one for each kill.
    """
    images = stage.images(site)
    differing = set(differing_blocks(stage.known[site, images[-1]] if images else None, stage.disks()))
    journals, _ = load_journals(stage.state / "journal", stage.keys.server_id)
    state = survey(stage.repository(site), stage.keys, stage.state, journals, Monitor())
    names = _volume_names(stage)
    durable = {
        (names[item.volume], item.block) for journal, packs in state.journals for item in journal.items(set(packs))
    }
    if images == past.images(site):
        marked = {name for _, packs in state.journals for name in packs}
        fresh = _packs(stage, site) - _packs(past, site)
        assert marked <= fresh and len(fresh - marked) <= rounds, f"{len(fresh - marked)} packs at {site} forgotten"
    return len(differing - durable)


def _packs(stage: Stage, site: str) -> set[str]:
    return {info.name.rsplit("/", 1)[1] for info in stage.sites[site].list(f"{stage.repository(site).prefix}packs/")}


def _volume_names(stage: Stage) -> dict[int, str]:
    """Volume ids as the format derives them from the keys of the volumes (docs/format.md, Blocks)."""
    layout = read_layout(
        tuple(DiskSource(each.path, each.name, None) for each in stage.config.disks), SystemRunner(), firmware_mode()
    )
    return {number: name for name, number in volume_ids(volumes_of(layout)).items()}


# -- restore ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def imaged(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """Two images of 20 MiB of disks."""
    rng = random.Random(7)
    stage = Stage.create(tmp_path_factory.mktemp("imaged") / "server", rng, {"vda": 16 * MIB, "vdb": 4 * MIB})
    stage.image()
    stage.scribble(rng, 10)
    stage.image()
    return stage


def _targets(stage: Stage, folder: Path, kind: int) -> Stage:
    """A copy of the stage with targets `out/`: blank, as of the image before, or full of something else."""
    copy = stage.clone(folder)
    if kind == 1:
        copy.restore("de", folder / "out", copy.images("de")[0])
    elif kind == 2:
        (folder / "out").mkdir()
        for name, size in copy.sizes.items():
            (folder / "out" / name).write_bytes(random.Random(3).randbytes(size))
    return copy


@pytest.fixture(scope="module")
def targets(imaged: Stage, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Stage, Pilot]]:
    found = []
    for kind in range(3):
        folder = tmp_path_factory.mktemp("target")
        stage = _targets(imaged, folder / "server", kind)
        found.append((stage, pilot("restore", stage.clone(folder / "pilot").folder)))
    return found


@pytest.mark.parametrize("number", range(amount(6, 60)))
def test_restore_killed(number: int, targets: list[tuple[Stage, Pilot]], tmp_path: Path) -> None:
    rng = random.Random(2000 + number)
    before, seen = targets[number % 3]
    kind = RESTORE_KINDS[number % len(RESTORE_KINDS)]
    stage, point = _kill("restore", before, tmp_path / "server", rng, kind, seen)
    print(f"killed at {point}")
    want, out = stage.known["de", stage.images("de")[-1]], stage.folder / "out"
    have = content_of(out) if out.exists() else {}
    wrong, data = _wrong(have, want), len(list(differing_blocks(None, want)))
    reports = stage.restore("de", out)
    assert content_of(out) == want
    written = sum(report.written_bytes for report in reports)
    # What was right is left alone; where next to nothing was, the sample that decides may have met none of it.
    assert written == wrong or (data - len(list(differing_blocks(have, want))) < 0.1 * data and written <= _size(want))
    again = stage.restore("de", out)
    assert sum(report.written_bytes + report.zeroed_bytes for report in again) == 0
    assert tree_digest(stage.folder / "de") == tree_digest(before.folder / "de")


def _wrong(have: dict[str, bytes], want: dict[str, bytes]) -> int:
    """Bytes of the data blocks that are not right yet."""
    blocks = differing_blocks(have, want)
    return sum(len(want[name][block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES]) for name, block in blocks)


def _size(content: dict[str, bytes]) -> int:
    return sum(map(len, content.values()))


# -- verify -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def proven(imaged: Stage, tmp_path_factory: pytest.TempPathFactory) -> tuple[Stage, Pilot]:
    return imaged, pilot("verify", imaged.clone(tmp_path_factory.mktemp("proven") / "server").folder)


@pytest.mark.parametrize("number", range(amount(2, 20)))
def test_verify_killed(number: int, proven: tuple[Stage, Pilot], tmp_path: Path) -> None:
    rng = random.Random(3000 + number)
    imaged, seen = proven
    stage, point = _kill("verify", imaged, tmp_path / "server", rng, VERIFY_KINDS[number % len(VERIFY_KINDS)], seen)
    print(f"killed at {point}")
    assert tree_digest(stage.folder) == tree_digest(imaged.folder)
    assert all(stage.verify(site).report.damage == [] for site in SITES)
