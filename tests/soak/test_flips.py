"""Single-bit flips over every region of every object: verify finds each without keys, and none is restored silently."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from appliance.cli import main
from core.errors import RefloatError
from tests.soak.fire import amount
from tests.soak.regions import Region, regions_of
from tests.soak.stage import SERVER, Stage, content_of, restore_into

pytestmark = pytest.mark.soak

FLIPS = amount(150, 2100)
BATCHES = amount(2, 14)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """Four nights of a small server; the second and third are layers of their own."""
    rng = random.Random(5)
    made = Stage.create(tmp_path_factory.mktemp("flips") / "server", rng, {"vda": 1_100_288, "vdb": 300_032})
    for _ in range(4):
        made.image()
        made.scribble(rng, 1)
    return made


def flip(path: Path, bit: int) -> None:
    """Turn one bit of a file over, in place."""
    with open(path, "r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def draw(stage: Stage, rng: random.Random, count: int) -> list[tuple[Region, int]]:
    """(region, bit) in turn over all kinds of region; within a kind any region, within it any bit."""
    kinds: dict[str, list[Region]] = {}
    needed = stage.needed("de")
    for region in regions_of(stage.folder / "de"):
        if region.name in needed:
            kinds.setdefault(region.kind, []).append(region)
    assert len(kinds) == 6 + 6 + 9 + 5, sorted(kinds)
    order = sorted(kinds)
    chosen = [rng.choice(kinds[order[number % len(order)]]) for number in range(count)]
    return [(region, rng.randrange(8 * region.start, 8 * region.stop)) for region in chosen]


@pytest.mark.parametrize("batch", range(BATCHES))
def test_every_flip_is_found_and_none_restored(batch: int, stage: Stage, tmp_path: Path) -> None:
    ends: Counter[str] = Counter()
    for region, bit in draw(stage, random.Random(4000 + batch), FLIPS // BATCHES):
        path, where = stage.folder / "de" / region.name, f"bit {bit} of {region.name} ({region.kind})"
        flip(path, bit)
        try:
            damage = stage.verify("de").report.damage
            assert region.name in [each.object for each in damage], f"verify did not find {where}: {damage}"
            assert all(each.site == "de" for each in damage)
            for image in stage.images("de"):
                ends[_restored(stage, image, tmp_path / "out", where)] += 1
        finally:
            flip(path, bit)
    assert stage.verify("de").report.damage == []
    assert ends["refused"] > 0 < ends["right"], ends


def _restored(stage: Stage, image: str, out: Path, where: str) -> str:
    """How restoring an image to blank disks ends: refused by one of our errors, or with the right bytes."""
    shutil.rmtree(out, ignore_errors=True)
    try:
        opened = stage.open("de", image)
        restore_into(opened, out)
    except RefloatError as error:
        assert error.fields.get("site") == "de" and error.fields.get("object"), f"{where}: {error.message}"
        assert "de" in error.message, f"{where}: {error.message}"
        return "refused"
    assert content_of(out) == stage.known["de", image], f"{where} was restored silently in image {image}"
    return "right"


def test_the_program_finds_a_flip_without_identity(
    stage: Stage, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "refloat.toml"
    sites = "".join(
        f'[[site]]\nname = "{each.name}"\ncountry = "{each.country}"\nurl = "{each.url}"\n'
        for each in stage.config.sites
    )
    config.write_text(f'server = "{SERVER}"\nstate = "{stage.state}"\n{sites}')
    argv = ["verify", "--config", str(config), "--json"]
    assert main(argv) == 0
    capfd.readouterr()
    pack = next(region for region in regions_of(stage.folder / "fr") if region.kind == "pack/sealed")
    flip(stage.folder / "fr" / pack.name, 8 * pack.start)
    try:
        assert main(argv) == 23
        (damage,) = json.loads(capfd.readouterr().out)["damage"]
        assert (damage["site"], damage["object"]) == ("fr", pack.name) and damage["images"]
    finally:
        flip(stage.folder / "fr" / pack.name, 8 * pack.start)
    assert os.listdir(stage.state / "journal") == []
