"""What the terminal asks before a target is overwritten."""

from __future__ import annotations

import click
import pytest

from appliance.cli.restore import _asking


def test_prompt_says_what_is_lost_and_cannot_be_rewritten_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def prompt(text: str, **_rest: object) -> str:
        asked.append(text)
        return "typed"

    monkeypatch.setattr(click, "prompt", prompt)
    ask = _asking({"/dev/sdb": ["GPT with 1 partition", "partition 1, 1.0 GiB: ext4 'a\x1b[2K\rb'"]})
    assert ask("/dev/sdb", "SERIAL") == "typed"
    assert "ext4 'a" in asked[0] and "GPT with 1 partition" in asked[0] and "Type SERIAL" in asked[0]
    assert "/dev/sdb will be overwritten" in asked[0]
    _asking({"/dev/sdc": ["LVM"]}, {"/dev/sdc"})("/dev/sdc", "OTHER")
    assert "overwritten" not in asked[1] and "there twice" in asked[1] and "Type OTHER" in asked[1]
    assert "\x1b" not in asked[0] and "\r" not in asked[0]
