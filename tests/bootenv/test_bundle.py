"""What goes into another system's root: the code, and the requirements that hold for its Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootenv.bundle import APP, LAUNCHER, ROOMS, install_code, requirements, requirements_for
from core.errors import ConfigError


def test_the_rooms_and_a_launcher_arrive_and_stale_code_goes(tmp_path: Path) -> None:
    stale = tmp_path / APP / "core" / "gone.py"
    stale.parent.mkdir(parents=True)
    stale.write_text("left over")
    install_code(tmp_path)
    for room in ROOMS:
        assert (tmp_path / APP / room / "__init__.py").read_text() == Path(room, "__init__.py").read_text()
    assert not stale.exists()
    assert not list(tmp_path.rglob("__pycache__"))
    launcher = tmp_path / LAUNCHER
    assert launcher.stat().st_mode & 0o777 == 0o755
    assert f"PYTHONPATH=/{APP}:" in launcher.read_text()


def test_requirements_are_the_pinned_ones() -> None:
    found = requirements()
    assert any(line.startswith("msgspec==") for line in found)
    assert all("==" in line and not line.startswith("#") for line in found)


@pytest.mark.parametrize(
    ("version", "expected"),
    [("3.11", ["a==1", "old==3.7.1"]), ("3.13", ["a==1", "new==3.13.0"]), ("3.14", ["a==1", "new==3.13.0"])],
)
def test_markers_are_judged_by_the_target_s_python(version: str, expected: list[str]) -> None:
    lines = ["a==1", 'new==3.13.0 ; python_version >= "3.13"', "old==3.7.1; python_version<'3.13'"]
    assert requirements_for(version, lines) == expected


def test_a_marker_that_is_not_understood_is_an_error() -> None:
    with pytest.raises(ConfigError, match="sys_platform"):
        requirements_for("3.13", ['a==1; sys_platform == "linux"'])
