"""Sites that lie, lose or change what they were given: found, named, healed from the other site, never restored."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.appliance.e2e.conftest import DATA_SIZE, Small
from tests.appliance.e2e.server import PASSPHRASE, Server, blank, token, wait_until

pytestmark = pytest.mark.block
Damage = Callable[[list[Path]], None]


def _flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(os.path.getsize(path) * 9 // 10)  # the last disk lies there
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x10]))


def _cut(path: Path) -> None:
    os.truncate(path, os.path.getsize(path) - 100)


def _each(one: Callable[[Path], None]) -> Damage:
    def all_of(paths: list[Path]) -> None:
        for path in paths:
            one(path)

    return all_of


def _rotate(paths: list[Path]) -> None:
    """Every name has the bytes of another object."""
    held = [path.read_bytes() for path in paths]
    for path, data in zip(paths, [*held[1:], held[0]], strict=True):
        path.write_bytes(data)


DAMAGES: dict[str, tuple[Damage, int]] = {
    "gone": (_each(Path.unlink), 22), "flipped": (_each(_flip), 23), "short": (_each(_cut), 23),
    "another's": (_rotate, 23),
}  # fmt: skip


@pytest.fixture
def broken(small: Small, tmp_path: Path) -> Server:
    """A copy whose sites may be damaged."""
    return small.copied(tmp_path / "copy")


@pytest.mark.parametrize(("damage", "status"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_packs(broken: Server, small: Small, tmp_path: Path, damage: Damage, status: int) -> None:
    """At one site: healed from the other, and said. At both: an error that names object and site, nothing wrong
    written."""
    target = blank(tmp_path / "t.img", DATA_SIZE)
    damage(broken.packs("de"))
    verified = broken.run("verify", "--config", broken.config)
    assert verified.status == 23, verified
    assert {each["site"] for each in verified.value["damage"]} == {"de"}
    assert {Path(each["object"]).name for each in verified.value["damage"]} == {
        each.name for each in broken.packs("fr")
    }
    assert all(each["images"] for each in verified.value["damage"])
    report = broken.restore("--only", "vdb", to={"vdb": target})
    assert target.read_bytes() == small.vdb.read_bytes()
    assert any("de" in each for each in report["warnings"]), report
    damage(broken.packs("fr"))
    again = blank(tmp_path / "again.img", DATA_SIZE)
    error = broken.fails(
        status, "restore", "latest", *broken.unlock, "--only", "vdb", "--to", again, "--confirm", token(again)
    )
    assert "packs/" in error["message"] and error["site"] in ("de", "fr")
    found, wanted = again.read_bytes(), small.vdb.read_bytes()
    for at in range(0, DATA_SIZE, 65536):
        assert found[at : at + 65536] in (bytes(65536), wanted[at : at + 65536])


@pytest.mark.parametrize(("damage", "status"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_maps(broken: Server, tmp_path: Path, damage: Damage, status: int) -> None:
    for site in broken.sites:
        damage(sorted((broken.sites[site] / "servers/web1/maps").iterdir()))
    target = blank(tmp_path / "t.img", DATA_SIZE)
    error = broken.fails(
        status, "restore", "latest", *broken.unlock, "--only", "vdb", "--to", target, "--confirm", token(target)
    )
    assert "maps/" in error["message"]
    assert os.stat(target).st_blocks == 0


def test_a_pack_that_is_damaged_before_the_next_image(broken: Server, small: Small, tmp_path: Path) -> None:
    """An increment on a parent whose map is damaged at one site: that site gets what it lacks, the other does not."""
    for segment in (broken.sites["de"] / "servers/web1/maps").iterdir():
        _cut(segment)
    shutil.rmtree(broken.state / "maps")
    answer = broken.image("--disk", f"vdb={small.vdb}")
    assert answer.status == 0, answer
    assert answer.sites["de"]["changed_bytes"] == DATA_SIZE
    assert answer.sites["fr"]["changed_bytes"] == 0
    assert any("cannot serve as parent" in each for each in answer.value["warnings"])
    target = blank(tmp_path / "t.img", DATA_SIZE)
    broken.restore("--from", "de", to=target)
    assert target.read_bytes() == small.vdb.read_bytes()


# Whom to trust


def _everywhere(server: Server, image: str, data: bytes) -> None:
    for site in server.sites:
        server.manifest(site, image).write_bytes(data)


def test_a_forged_manifest(broken: Server, small: Small, tmp_path: Path) -> None:
    """Another key signs a later image under the server's name: a thief of the site's credentials."""
    thief = Server.new(tmp_path / "thief", {"vdb": small.vdb})
    wait_until(lambda: time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) > small.second)  # names are of whole seconds
    forged = thief.taken()
    assert forged > small.second
    for site in broken.sites:
        shutil.copytree(thief.sites[site] / "servers", broken.sites[site] / "servers", dirs_exist_ok=True)
    target = blank(tmp_path / "t.img", DATA_SIZE)
    argv = ("--to", target, "--confirm", token(target))
    error = broken.fails(31, "restore", "latest", *broken.unlock, *argv)
    assert forged in error["message"]
    kit = ("--kit", small.server.kit, "--passphrase-file", small.server.passphrase)
    places = [word for name, path in broken.sites.items() for word in ("--site", f"{name}=file://{path}")]
    broken.fails(31, "restore", "web1/latest", *kit, *places, *argv)
    assert os.stat(target).st_blocks == 0
    rows = broken.ok("images", "--config", broken.config)["images"]
    assert {row["image"]: row["state"] for row in rows}[forged] == "unreadable"
    assert broken.run("verify", "--config", broken.config).status == 23
    after = broken.image("--disk", f"vdb={small.vdb}")  # and it is no parent
    assert after.status == 0 and after.value["parent"] == small.second


def test_an_older_manifest_in_place_of_a_newer(broken: Server, small: Small, tmp_path: Path) -> None:
    """It is rightly signed, but says which image it is."""
    _everywhere(broken, small.second, broken.manifest("de", small.first).read_bytes())
    error = broken.fails(31, "restore", small.second, *broken.unlock, "--to", blank(tmp_path / "t.img", DATA_SIZE))
    assert small.first in error["message"] and small.second in error["message"]


def test_a_site_rolled_back(broken: Server, small: Small) -> None:
    """The newest image taken away at one site: noticed by the server's memory; the other site still has it."""
    broken.manifest("de", small.second).unlink()
    assert broken.show()["image"] == small.second
    answer = broken.image("--disk", f"vdb={small.vdb}")
    assert answer.status == 0, answer
    assert any("older state" in each and "de" in each for each in answer.value["warnings"]), answer
    assert answer.sites["de"]["parent"] == small.first
    assert answer.sites["fr"]["parent"] == small.second


def test_an_unknown_format_version(broken: Server, small: Small, tmp_path: Path) -> None:
    text = broken.manifest("de", small.second).read_bytes()
    _everywhere(broken, small.second, text.replace(b'"version":1', b'"version":2', 1))
    error = broken.fails(26, "restore", small.second, *broken.unlock, "--to", blank(tmp_path / "t.img", DATA_SIZE))
    assert "version 2" in error["message"]
    for site in broken.sites.values():
        (site / "refloat-site.json").write_text(json.dumps({"refloat": "site", "version": 2}))
    assert broken.image().status == 26


def test_a_pin_is_key_and_id(small: Small, tmp_path: Path) -> None:
    """The right key under another server's id is not the server."""
    shown = small.server.ok("keys", "show", "--config", small.server.config)
    places = [word for name, path in small.server.sites.items() for word in ("--site", f"{name}=file://{path}")]
    argv: tuple[str | Path, ...] = ("show", "web1/latest", "--identity", small.server.identity, *places)
    small.server.ok(*argv, "--server-pin", shown["pin"])
    other = shown["pin"].replace(shown["id"], "00" * 16)
    error = small.server.fails(31, *argv, "--server-pin", other)
    assert shown["id"] in error["message"]
    small.server.fails(31, *argv, "--server-pin", shown["pin"][:-1] + ("A" if shown["pin"][-1] != "A" else "B"))


def test_a_wrong_identity(small: Small, tmp_path: Path) -> None:
    other = Server.new(tmp_path / "other", {"vdb": small.vdb})
    target = blank(tmp_path / "t.img", DATA_SIZE)
    argv = ("--only", "vdb", "--to", target, "--confirm", token(target))
    config = ("--config", small.server.config)
    error = small.server.fails(30, "restore", "latest", *config, "--identity", other.identity, *argv)
    assert "recovery kit" in error["hint"]
    small.server.fails(30, "restore", "latest", *config, *argv)
    assert os.stat(target).st_blocks == 0


def test_a_wrong_passphrase(small: Small, tmp_path: Path) -> None:
    (tmp_path / "pw").write_text(PASSPHRASE.upper())
    argv = ("images", "web1", "--kit", small.server.kit, "--passphrase-file", tmp_path / "pw")
    small.server.fails(30, *argv)


def test_an_image_that_no_site_has(small: Small) -> None:
    """Not damage: nothing of that name was ever taken. The hint names what there is."""
    for command in ("verify", "show"):
        error = small.server.fails(22, command, "web1/20200101T000000Z", "--config", small.server.config)
        assert "web1/20200101T000000Z" in error["message"]
        assert f"web1/{small.second}, web1/{small.first};" in error["hint"]


def test_an_image_that_one_site_has_is_damaged_at_the_other(broken: Server, small: Small) -> None:
    broken.manifest("de", small.second).unlink()
    answer = broken.run("verify", f"web1/{small.second}", "--config", broken.config)
    assert answer.status == 23 and [each["site"] for each in answer.value["damage"]] == ["de"]
