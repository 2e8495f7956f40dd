"""What people read: words from a disk, a note or a site are shown as they are, and never steer the terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.sizes import format_size
from tests.appliance.e2e.server import MIB, Server, blank, loop, tool

pytestmark = pytest.mark.block
NOTE = "before [/upgrade] [red]now[/red] :smile: \\"
LABEL = "[/bold]x[b]"


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server whose label and note are markup to rich, and whose note would clear the screen."""
    place = tmp_path_factory.mktemp("odd")
    disk = blank(place / "vda.img", 8 * MIB)
    tool("mkfs.ext4", "-q", "-L", LABEL, disk)
    server = Server.new(place / "server", {"vda": disk})
    server.taken("--note", NOTE + "\x1b[2J\x07")
    return server


def test_note_and_label_are_shown_as_they_are(odd: Server) -> None:
    for command in (("images",), ("show", "latest")):
        answer = odd.run(*command, "--config", odd.config, text=True, COLUMNS="200")
        assert answer.status == 0, answer
        assert NOTE in answer.out
        assert not any(char in answer.out for char in "\x1b\x07")
    assert LABEL in answer.out


def test_a_plan_and_a_report_survive_odd_paths(odd: Server, tmp_path: Path) -> None:
    """A target's path is markup, too: it must be confirmed by what is really its name."""
    folder = tmp_path / "[bold]"
    folder.mkdir()
    target = blank(folder / "[red]disk[", 8 * MIB)
    words, confirmed = odd.onto(target)
    answer = odd.run("restore", "latest", *odd.unlock, *words, *confirmed, text=True, COLUMNS="400")
    assert answer.status == 0, answer
    assert f"confirm with: {target}:{8 * MIB}" in answer.out


def test_a_manifest_that_is_unreadable_says_why(odd: Server, tmp_path: Path) -> None:
    """Its trouble holds the site's words."""
    name = "20990101T000000Z"
    for site in odd.sites:
        odd.manifest(site, name).write_text('{"refloat":"[/red]","version":1}')
    try:
        answer = odd.run("images", "--config", odd.config, text=True, COLUMNS="300")
        assert answer.status == 0, answer
        assert "unreadable" in answer.out
        assert f"web1/{name}" in answer.out
    finally:
        for site in odd.sites:
            odd.manifest(site, name).unlink()


def test_show_describes_the_disks(tmp_path: Path) -> None:
    """What a person needs to find a replacement: sizes, sectors, the table, swap, which is not imaged."""
    disk = blank(tmp_path / "vda.img", 32 * MIB)
    rows = "label: gpt\n\nstart=2048, size=32768, name=[red]root\nstart=36864, size=16384, type=swap, name=pages\n"
    tool("sfdisk", "--quiet", "--no-reread", disk, stdin=rows)
    for kind, label, start, size in (("ext4", LABEL, MIB, 16 * MIB), ("swap", "pagefile", 18 * MIB, 8 * MIB)):
        with loop(disk, start, size) as node:
            tool(*(["mkswap"] if kind == "swap" else ["mkfs.ext4", "-q"]), "-L", label, node)
    server = Server.new(tmp_path / "server", {"vda": disk})
    server.taken()
    shown = server.show()
    answer = server.run("show", "latest", "--config", server.config, text=True, COLUMNS="200")
    assert answer.status == 0, answer
    assert f"taken {shown['taken_at']}" in answer.out
    assert f"disk vda  32.0 MiB ({32 * MIB} B)  sectors of 512 B  gpt" in answer.out
    (root,) = (line for line in answer.out.splitlines() if "[red]root" in line)
    (swap,) = (line for line in answer.out.splitlines() if "pagefile" in line)
    assert "16.0 MiB" in root and "ext4" in root and LABEL in root
    least = shown["layout"]["disks"][0]["table"]["partitions"][0]["content"]["min_bytes"]
    assert least and format_size(least) in root
    assert "8.0 MiB" in swap and "pages" in swap and "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F" in swap.upper()
