"""The documents name only what exists: commands and options, files, exit codes, limits of line length."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from appliance.cli import COMMANDS, program
from core.errors import exit_table

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])

# Importing mfusepy starts ldconfig to find libfuse; a unit test must not, so all are imported here.
LOADED = {name: program.get_command(click.Context(program), name) for name in COMMANDS}


def _commands() -> Iterator[tuple[str, str]]:
    """(page, command line) of everything in the documents that is set as code and begins with `refloat `.

    What is signed also begins so, and has an escape in it (`refloat image 1\\n`).
    """
    for page in PAGES:
        text = page.read_text()
        for block in re.findall(r"^ *```\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
            for line in block.splitlines():
                found = re.search(r"(?:^|\s)(refloat [a-z].*)", line)
                if found:
                    yield page.name, found[1]
        for found in re.finditer(r"`(refloat [a-z][^`\\]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
            yield page.name, found[1].replace("\n", " ")


@pytest.mark.parametrize(("page", "line"), sorted(set(_commands())))
def test_commands_exist(page: str, line: str) -> None:
    words = shlex.split(re.split(r"\s(?:>|>>|&&|\|)|\s{3,}", line)[0], comments=True)[1:]
    if words[0].isupper():
        return  # `refloat COMMAND --help` speaks of any
    assert words[0] in LOADED, f"{page}: there is no `refloat {words[0]}`"
    command, words = LOADED[words[0]], words[1:]
    assert command is not None
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.commands.get(words[0])
        assert found is not None, f"{page}: there is no `refloat {words[0]}`"
        command, words = found, words[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if word.startswith("-") and word not in ("-", "--help"):
            assert word.split("=")[0] in known, f"{page}: `{line}` has an option that does not exist"


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} points to {target}"


def test_exit_codes_in_the_docs() -> None:
    """`docs/operating.md` prints the table of core/errors.py, row by row."""
    page = (ROOT / "docs/operating.md").read_text()
    rows = re.findall(r"^\| (\d+) \| `([\w-]+)` \| ([^|]+) \|", page, re.MULTILINE)
    assert [(int(status), code, meaning.strip()) for status, code, meaning in rows] == exit_table()


def test_packages_are_one_list() -> None:
    """Every name once: two lines for one package hide which part needs it."""
    names = [line for line in (ROOT / "packages.apt").read_text().splitlines() if line and not line.startswith("#")]
    assert len(names) == len(set(names))
