"""The configuration file: who may have written it, what it must not say twice."""

from __future__ import annotations

import os
from pathlib import Path

import pyrage
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.config import example, load_config, parse_config
from core.errors import ConfigError, RefloatError

RECIPIENT = str(pyrage.x25519.Identity.generate().to_public())


def test_example_loads(tmp_path: Path) -> None:
    path = tmp_path / "refloat.toml"
    path.write_text(example())
    config = load_config(path)
    assert config.server == "web1"
    assert [site.name for site in config.sites] == ["falkenstein", "strasbourg"]
    assert config.image.pack_size == 32 << 20
    assert config.site("strasbourg").country == "FR"
    with pytest.raises(ConfigError, match="no site is called 'oslo'"):
        config.site("oslo")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('recipients = ["age1nonsense"]', r"recipients\[1\]: not an age recipient"),
        (f'recipients = ["{RECIPIENT}", "{RECIPIENT}"]', "recipients: .* is given twice"),
        ('[[disk]]\npath = "/dev/a"\n[[disk]]\npath = "/dev//a"', "disk.path: '/dev/a' is given twice"),
        (
            '[[site]]\nname="a"\ncountry="DE"\nurl="file:///x"\n[[site]]\nname="b"\ncountry="FR"\nurl="file:///x/"',
            "site.url",
        ),
        (
            '[[site]]\nname="a"\ncountry="DE"\nurl="file:///x"\n[[site]]\nname="a"\ncountry="FR"\nurl="file:///y"',
            "site.name",
        ),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(f'server = "a"\n{text}')


def test_world_writable_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('server = "a"')
    path.chmod(0o646)
    with pytest.raises(ConfigError, match="anybody can write it") as caught:
        load_config(path)
    assert str(path) in caught.value.message and "chmod" in (caught.value.hint or "")
    path.chmod(0o640)
    assert load_config(path).server == "a"


@pytest.mark.block  # only root can give a file away
def test_somebody_elses_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('server = "a"')
    os.chown(path, 1234, 1234)
    with pytest.raises(ConfigError, match="belongs to user 1234"):
        load_config(path)


def test_missing_and_unreadable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration") as caught:
        load_config(tmp_path / "none")
    assert "config example" in (caught.value.hint or "")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)
    (tmp_path / "latin").write_bytes(b'server = "\xe9"')
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "latin")


@given(st.binary(max_size=300), st.booleans())
def test_any_file_gives_a_config_or_our_error(data: bytes, with_server: bool) -> None:
    text = (b'server = "a"\n' if with_server else b"") + data
    try:
        parse_config(text.decode("utf-8", "replace"))
    except RefloatError as error:
        assert error.message
