"""The commands: prune prints and writes, gc deletes after the delay, keep holds, and all need no key."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.cli import main
from imager.sites.file import FileSite
from tests.appliance.retention.years import Years

Run = Callable[..., tuple[int, dict[str, object], str]]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A file site with five images, a day between them, the last of today."""
    years = Years(tmp_path / "server", blocks=8)
    folder = tmp_path / "de"
    folder.mkdir()
    real = FileSite("de1", folder)
    for number in range(5):
        years.write(0)
        image = years.night()
        for info in years.sites[0].list():
            if not (folder / info.name).exists():
                real.put(info.name, [years.sites[0].get(info.name)])
                _set_back(folder / info.name, 20 - number)
        assert (folder / f"servers/web1/images/{image}.json").exists()
    (tmp_path / "refloat.toml").write_text(
        f'server = "nas"\nstate = "{tmp_path}/none"\n'
        f'[[site]]\nname = "de"\ncountry = "DE"\nurl = "file://{folder}"\n'
        "[retention]\ndaily = 2\nmonthly = 0\nyearly = 0\nminimum = 1\n"
    )
    return folder


def _set_back(path: Path, days: int) -> None:
    when = path.stat().st_mtime - days * 86400
    os.utime(path, (when, when))


@pytest.fixture
def refloat(site: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    def run(*argv: str) -> tuple[int, dict[str, object], str]:
        capfd.readouterr()
        status = main([*argv, "--config", str(site.parent / "refloat.toml"), "--json"])
        out, err = capfd.readouterr()
        return status, json.loads(out), err

    return run


def test_prune_then_gc(refloat: Run, site: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, found, _ = refloat("prune")
    rows = found["rows"]
    assert status == 0 and isinstance(rows, list)
    images = [row["image"] for row in rows]
    assert [row["stays"] for row in rows] == [False] * 3 + [True] * 2 and found["written"] == []
    assert not (site / "servers/web1/trash").exists()
    assert len(refloat("prune", "--apply", "--server", "web1", "--only", "de")[1]["written"]) == 1  # type: ignore[arg-type]
    assert refloat("gc", "--apply")[1]["sites"][0]["images"] == []  # type: ignore[index]
    for path in (site / "servers/web1/trash").iterdir():
        _set_back(path, 8)
    pins = [f"--server-pin=web1:{'00' * 16}:SHA256:{'A' * 43}"]
    assert refloat("prune", *pins)[1]["rows"][-1]["state"] == "doubtful"  # type: ignore[index]
    dry = refloat("gc")[1]["sites"][0]  # type: ignore[index]
    assert dry["images"] == images[:3] and len(list((site / "servers/web1/images").iterdir())) == 5
    done = refloat("gc", "--apply")[1]["sites"][0]  # type: ignore[index]
    assert done["images"] == images[:3] and done["packs"] > 0
    assert len(list((site / "servers/web1/images").iterdir())) == 2
    main(["prune", "--config", str(site.parent / "refloat.toml")])
    out, _ = capfd.readouterr()
    assert "stays" in out and "daily (" in out


def test_what_is_refused(refloat: Run) -> None:
    assert refloat("prune", "--drop", "20260101T000000Z")[0] == 10
    assert refloat("prune", "--only", "nowhere")[0] == 10
    assert refloat("gc", "--server", "nobody")[0] == 10


def test_simulated_calendar(refloat: Run, capfd: pytest.CaptureFixture[str]) -> None:
    status, found, _ = refloat("prune", "--simulate", "3")
    assert status == 0 and len(found["days"]) == 3  # type: ignore[arg-type]
    assert main(["prune", "--simulate", "500"]) == 0
    out, _ = capfd.readouterr()
    assert "yearly (" in out and "never more than 16 at once" in out
