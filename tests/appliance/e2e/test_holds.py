"""The plan says what is on each target now: a used disk does not look like a blank one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.appliance.e2e.conftest import DATA_SIZE, SIZE, Small
from tests.appliance.e2e.server import blank, tool

pytestmark = pytest.mark.block


@pytest.mark.parametrize("state", ["used", "blank", "torn"])
def test_what_is_on_the_target(small: Small, tmp_path: Path, state: str) -> None:
    target = blank(tmp_path / "t.img", SIZE)
    if state == "used":
        tool("mkfs.ext4", "-q", "-L", "payroll", target)
    if state == "torn":
        tool("sgdisk", "--new=1:2048:+4M", target)
        with target.open("r+b") as file:
            file.seek(512)
            file.write(bytes(512))
    other = blank(tmp_path / "other.img", DATA_SIZE)
    argv = ("restore", "latest", *small.server.unlock, "--to", f"vda={target}", "--to", f"vdb={other}", "--plan")
    done = small.server.run(*argv)
    expected = {"used": "ext4 'payroll' without a table", "blank": "nothing recognised", "torn": "cannot be read: "}
    (line,) = done.value["holds"][str(target)]
    assert line.startswith(expected[state])
    text = small.server.run(*argv, text=True, COLUMNS="300")
    assert f"on it now: {expected[state]}" in text.out
