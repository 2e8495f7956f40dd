"""The settings table: what it accepts, what it says of what it does not, and that nothing but our errors comes out."""

from __future__ import annotations

import string
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ConfigError
from core.settings import SECTIONS, SETTINGS, Kind, example_text, markdown_table, read_settings

MINIMAL = 'server = "web1"\n'


def test_example_parses_and_shows_every_setting() -> None:
    text = example_text()
    values = read_settings(text)
    assert isinstance(values["site"], list) and [site["country"] for site in values["site"]] == ["DE", "FR"]
    for setting in SETTINGS:
        assert f"\n{setting.key} = " in text or f"\n#{setting.key} = " in text


def test_examples_are_accepted_by_their_own_setting() -> None:
    """Every commented line of the example works when the # is taken away (but for the elided recipients)."""
    lines = [line[1:] if line.startswith("#") and line[1:2] != " " else line for line in example_text().splitlines()]
    values = read_settings("\n".join(lines))
    assert values["image"]["bandwidth"] == 50 << 20  # type: ignore[call-overload]
    assert values["policy"]["accept_single_site"] == "I know that one site is not enough"  # type: ignore[call-overload]


def test_defaults_are_of_their_kind_and_in_the_markdown_table() -> None:
    values = read_settings(MINIMAL)
    assert values["image"]["pack_size"] == 32 << 20  # type: ignore[call-overload]
    assert values[""]["recipients"] == ()  # type: ignore[call-overload]
    assert values["disk"] == []
    assert markdown_table().count("\n") == len(SETTINGS) + 2
    assert '`"32MiB"`' in markdown_table()


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "server is missing", "web1"),
        ('server = "Web 1"', "'Web 1' will not do", "lower case"),
        ('server = "web1\\n"', "cannot be printed", ""),
        (MINIMAL + "sever = 1", "unknown key 'sever'", "did you mean 'server'"),
        (MINIMAL + "[imag]", "unknown key 'imag'", "did you mean 'image'"),
        (MINIMAL + "[image]\nlevels = 3", "unknown key 'image.levels'", "did you mean 'level'"),
        (MINIMAL + '[[disk]]\npath = "/dev/a"\n[[disk]]\npth = "/dev/b"', "unknown key 'disk[2].pth'", "'path'"),
        (MINIMAL + "[image]\nqqqq = 3", "unknown key 'image.qqqq'", "known are: audit"),
        (MINIMAL + "image = 3", "image: not a table", "[image]"),
        (MINIMAL + "[site]", "site: not a list of tables", "[[site]]"),
        (MINIMAL + "[image]\nlevel = 20", "image.level: 20 is not between 1 and 19", "zstd"),
        (MINIMAL + "[image]\nlevel = true", "image.level: not a number", ""),
        (MINIMAL + "[image]\nlive = 1", "image.live: not a true or false", ""),
        (MINIMAL + '[image]\nio_class = "idel"', "'idel' is none of", "did you mean 'idle'"),
        (MINIMAL + '[image]\npack_size = "1KiB"', "image.pack_size: 1024 is not between", ""),
        (MINIMAL + '[image]\nbandwidth = "fast"', "image.bandwidth: not a size: 'fast'", "64M"),
        (MINIMAL + "[image]\nbandwidth = -1", "image.bandwidth: -1 is not between", ""),
        (MINIMAL + "[image]\nbandwidth = 1.5", "image.bandwidth: not a size", ""),
        (MINIMAL + '[policy]\naccept_same_country = "yes"', "not the words", "I know that one country is not enough"),
        (MINIMAL + '[[site]]\nname = "a"\nurl = "file:///a"', "site[1].country is missing", "ISO 3166"),
        (MINIMAL + '[[site]]\nname = "a"\nurl = "/a"\ncountry = "DE"', "site[1].url", "file:///"),
        (MINIMAL + '[[site]]\nname = "a"\nurl = "file:///a"\ncountry = "de"', "site[1].country", "ISO 3166"),
        (MINIMAL + "recipients = [1]", "recipients: not a list of texts", ""),
        ("server =", "not TOML", "config example"),
        ("a = " + "[" * 5000, "not TOML", "config example"),
        ("#" * (1 << 20) + "#", "larger than", ""),
    ],
)
def test_refusals_name_the_key_and_what_to_do(text: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(text)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


_KEYS = st.sampled_from(
    [each.key for each in SETTINGS] + [each.name for each in SECTIONS if each.name] + ["oops", "", "x.y"]
)
_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.dates()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_KEYS, inner, max_size=4)),
    max_leaves=12,
)


def _toml(value: object) -> str:
    """Just enough of a TOML writer for hypothesis: inline tables and arrays."""
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{_quoted(key)} = {_toml(each)}" for key, each in value.items() if each is not None) + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(_toml(each) for each in value if each is not None) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return _quoted(value) if isinstance(value, str) else str(value)


def _quoted(text: str) -> str:
    safe = set(string.ascii_letters + string.digits + " ./:-_")
    return '"' + "".join(c if c in safe else f"\\U{ord(c):08x}" for c in text if not 0xD800 <= ord(c) < 0xE000) + '"'


@given(st.dictionaries(_KEYS, _VALUES, max_size=6))
def test_any_document_gives_values_or_a_config_error(document: dict[str, object]) -> None:
    text = "\n".join(f"{_quoted(key)} = {_toml(value)}" for key, value in document.items() if value is not None)
    tomllib.loads(text)  # what is tested is our checking, so the text must get past TOML
    try:
        values = read_settings(text)
    except ConfigError:
        return
    assert values.keys() == {section.name for section in SECTIONS}


@given(st.text(max_size=200))
def test_any_text_gives_values_or_a_config_error(text: str) -> None:
    try:
        read_settings(text)
    except ConfigError:
        pass


@given(st.data())
def test_a_single_wrong_value_is_named(data: st.DataObject) -> None:
    """Whatever is wrong, the message begins with the path of the key that holds it."""
    setting = data.draw(st.sampled_from([each for each in SETTINGS if each.section == "image"]))
    wrong = data.draw(st.sampled_from(["[]", "{}", "1979-05-27", "nan", '"\\u0007"', "-99999999999999999999"]))
    with pytest.raises(ConfigError) as caught:
        read_settings(f"{MINIMAL}[image]\n{setting.key} = {wrong}")
    assert caught.value.message.startswith(f"image.{setting.key}")


def test_the_page_in_the_docs_is_the_table() -> None:
    """`docs/configuration.md` ends with the table; when this fails, put in what `markdown_table` gives."""
    page = (Path(__file__).resolve().parents[2] / "docs/configuration.md").read_text()
    assert page.endswith("\n\n" + markdown_table())


def test_table_is_consistent() -> None:
    assert len({(each.section, each.key) for each in SETTINGS}) == len(SETTINGS)
    assert {each.section for each in SETTINGS} == {each.name for each in SECTIONS}
    assert all(each.sentence for each in SETTINGS if each.kind is Kind.WORDS)
