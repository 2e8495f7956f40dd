"""The ground under the tests holds: the fence stops, and skips fail where they must."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytest_plugins = ["pytester"]


def test_fence_stops_processes() -> None:
    with pytest.raises(BaseException, match="started a process"):
        subprocess.run(["true"], check=True)


def test_fence_stops_devices() -> None:
    with pytest.raises(BaseException, match="opened /dev/loop-control"):
        os.open("/dev/loop-control", os.O_RDONLY)


def test_fence_stops_the_network() -> None:
    with socket.socket() as plug, pytest.raises(BaseException, match="connected"):
        plug.connect(("127.0.0.1", 9))


@pytest.mark.block
def test_fence_lets_other_tiers_through() -> None:
    assert subprocess.run(["true"], check=True).returncode == 0


SKIPPING = """
import pytest

@pytest.mark.skip(reason="no such hardware")
def test_skipped(): ...

@pytest.mark.xfail(strict=True)
def test_expected_to_fail(): assert False
"""


@pytest.mark.block
@pytest.mark.parametrize(("strict", "skip"), [("0", "skipped"), ("1", "errors")])
def test_ci_refuses_skips(strict: str, skip: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("REFLOAT_NO_SKIP", strict)
    pytester.makeconftest((ROOT / "tests/conftest.py").read_text())
    pytester.makepyfile(SKIPPING)
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(**{skip: 1}, xfailed=1)
