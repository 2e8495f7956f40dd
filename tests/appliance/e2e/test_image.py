"""`refloat image` when things go wrong: one object on stdout whatever happens, the right exit code, and the next run
makes good."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.appliance.e2e import disks
from tests.appliance.e2e.conftest import Small
from tests.appliance.e2e.disks import Disk
from tests.appliance.e2e.server import MIB, Server, bad_disk, blank, mounted, tool, wait_until

pytestmark = pytest.mark.block
SIZE = 24 * MIB
FIELDS = {"name", "status", "read_bytes", "changed_bytes", "stored_bytes", "seconds"}
#: Small packs, and slow enough to be met in the middle.
SLOW = 'pack_size = "1MiB"\nbandwidth = "12MiB/s"\nthreads = 1'


@pytest.fixture
def server(tmp_path: Path) -> Server:
    """A server with one disk of random bytes that no map describes."""
    disk = tmp_path / "vda.img"
    disk.write_bytes(random.Random(1).randbytes(SIZE))
    return Server.new(tmp_path / "server", {"vda": disk}, extra='pack_size = "1MiB"')


@pytest.fixture
def small_site(server: Server, tmp_path: Path) -> Iterator[Path]:
    """Site `de` on a filesystem of its own, with room for half of the image."""
    with mounted(Path("tmpfs"), tmp_path / "mnt", "size=12m", kind="tmpfs") as root:
        server.sites["de"] = root
        server.configure()
        yield root


def _proven(server: Server, site: str, place: Path) -> dict[str, object]:
    """What the newest image at a site restores is what is on the disk now."""
    target = blank(place / f"{site}.img", SIZE)
    report = server.restore("--from", site, to=target)
    assert target.read_bytes() == server.disks["vda"].read_bytes()
    target.unlink()
    return report


def test_one_object_says_what_was_done(small: Small, server: Server) -> None:
    first, second = server.image(), server.image("--note", "again")
    for answer in (first, second):
        assert answer.status == 0, answer
        assert {"image", "parent", "sites"} <= answer.value.keys()
        assert [each["name"] for each in answer.value["sites"]] == ["de", "fr"]
        assert all(each.keys() >= FIELDS and each["status"] == "committed" for each in answer.value["sites"])
        assert all(each["read_bytes"] == SIZE and each["seconds"] > 0 for each in answer.value["sites"])
    assert (first.value["parent"], second.value["parent"]) == (None, first.value["image"])
    assert all(each["changed_bytes"] == SIZE <= each["stored_bytes"] < SIZE + MIB for each in first.value["sites"])
    assert all(each["changed_bytes"] == 0 and each["stored_bytes"] < 4096 for each in second.value["sites"])


def test_a_site_that_is_full(server: Server, small_site: Path, tmp_path: Path) -> None:
    """The other site has the image (42); with room again, what is there already counts."""
    answer = server.image()
    assert answer.status == 42, answer
    assert (answer.sites["de"]["status"], answer.sites["fr"]["status"]) == ("failed", "committed")
    assert answer.sites["de"]["error"]["code"] == "site-full"
    assert "room" in answer.sites["de"]["error"]["hint"]
    assert "hint:" in answer.err  # the error itself goes to stderr, since stdout has its object
    _proven(server, "fr", tmp_path)
    assert not list(small_site.glob("servers/web1/images/*"))
    there = sum(path.stat().st_size for path in server.packs("de"))
    assert there > 4 * MIB
    tool("mount", "-o", "remount,size=60m", small_site)
    again = server.image()
    assert again.status == 0, again
    assert again.sites["de"]["stored_bytes"] < SIZE - there + 2 * MIB
    _proven(server, "de", tmp_path)
    _proven(server, "fr", tmp_path)


def test_every_site_is_full(server: Server, small_site: Path, tmp_path: Path) -> None:
    server.sites["fr"] = small_site / "fr"
    server.sites["de"] = small_site / "de"
    for path in server.sites.values():
        path.mkdir()
    server.configure()
    answer = server.image()
    assert answer.status == 21 and answer.error["site"] in ("de", "fr"), answer
    assert not list(small_site.glob("*/servers/web1/images/*"))


def test_a_site_that_is_not_there(server: Server, tmp_path: Path) -> None:
    """From the beginning: its folder is gone. It says so and the other goes on; the next run catches up."""
    aside = shutil.move(server.sites["de"], tmp_path / "aside")
    answer = server.image()
    assert answer.status == 42, answer
    assert answer.sites["de"]["error"]["code"] == "site"
    shutil.move(aside, server.sites["de"])
    again = server.image()
    assert again.status == 0, again
    assert (again.sites["de"]["parent"], again.sites["fr"]["parent"]) == (None, answer.value["image"])
    assert (again.sites["de"]["changed_bytes"], again.sites["fr"]["changed_bytes"]) == (SIZE, 0)
    _proven(server, "de", tmp_path)
    shutil.rmtree(server.sites["de"])
    shutil.rmtree(server.sites["fr"])
    gone = server.image()
    assert gone.status == 20 and gone.error["hint"], gone


def test_a_site_that_disappears_in_the_middle(server: Server, tmp_path: Path) -> None:
    server.configure(SLOW)
    with server.started("image", "--config", server.config, "--json") as child:
        child.when(lambda: len(server.packs("de")) > 3)
        shutil.rmtree(server.sites["de"])
        status, value = child.go_on()
    assert status == 42, value
    assert {each["name"]: each["status"] for each in value["sites"]} == {"de": "failed", "fr": "committed"}
    _proven(server, "fr", tmp_path)
    server.configure('pack_size = "1MiB"')
    server.sites["de"].mkdir()
    again = server.image()
    assert again.status == 0, again
    _proven(server, "de", tmp_path)


def test_a_second_run_while_one_is_running(server: Server, tmp_path: Path) -> None:
    """61; and the first one killed, the next finds its lock let go and goes on."""
    server.configure(SLOW)
    with server.started("image", "--config", server.config) as child:
        child.when(lambda: len(server.packs("fr")) > 3)
        server.fails(61, "image", "--config", server.config)
    assert not list(server.sites["fr"].glob("servers/web1/images/*"))
    server.configure('pack_size = "1MiB"')
    answer = server.image()
    assert answer.status == 0, answer
    assert all(each["stored_bytes"] < SIZE - 2 * MIB for each in answer.value["sites"])
    _proven(server, "fr", tmp_path)


def test_sigterm_ends_a_run_in_order(server: Server, tmp_path: Path) -> None:
    """143, as systemd expects it; nothing is committed, the lock is free, and the next run goes on."""
    server.configure(SLOW)
    with server.started("image", "--config", server.config, "--json") as child:
        child.when(lambda: len(server.packs("fr")) > 3)
        child.process.send_signal(signal.SIGTERM)
        status, value = child.go_on()
    assert (status, value["error"]["code"]) == (143, "terminated")
    assert not list(server.sites["fr"].glob("servers/web1/images/*"))
    server.configure('pack_size = "1MiB"')
    answer = server.image()
    assert answer.status == 0, answer
    assert all(each["stored_bytes"] < SIZE - 2 * MIB for each in answer.value["sites"])
    _proven(server, "fr", tmp_path)


def test_unreadable_sectors(server: Server, tmp_path: Path) -> None:
    """The kernel answers EIO: read on, recorded to the sector, zeros in the image, marked, exit code 41."""
    path, bad = server.disks["vda"], [(5 * MIB + 512, 512), (9 * MIB, 3 * 4096), (SIZE - 2 * MIB, 512)]
    with bad_disk(path, tmp_path / "bad", *bad) as node:
        answer = server.image("--disk", f"vda={node}")
    assert answer.status == 41, answer
    assert answer.value["state"] == "damaged"
    assert all(each["status"] == "committed" for each in answer.value["sites"])
    shown = server.show()
    assert shown["state"] == "damaged"
    assert [tuple(each) for each in shown["by_name"]["vda"]["unreadable"]] == bad
    target = blank(tmp_path / "t.img", SIZE)
    server.restore(to=target)
    wanted = bytearray(path.read_bytes())
    for at, size in bad:
        wanted[at : at + size] = bytes(size)
    assert target.read_bytes() == wanted
    with bad_disk(path, tmp_path / "worse", (0, 512)) as node:  # what is on it at all cannot be told
        error = server.fails(40, "image", "--config", server.config, "--disk", f"vda={node}")
    assert str(node) in error["message"]
    healed = server.image("--disk", f"vda={path}")  # another disk in its place, by the same name
    assert healed.status == 0 and healed.value["state"] == "complete", healed
    _proven(server, "de", tmp_path)


def test_bad_sectors_where_a_filesystem_begins(small: Small, tmp_path: Path) -> None:
    """What the partition holds cannot be told any more: it is imaged whole, and the rest by its map."""
    server = Server.new(tmp_path / "server", {"vda": small.vda.path})
    bad = [(small.vda.part(1).start + 300 * 1024, 512), (small.vda.part(3).start + MIB, 4096)]
    with bad_disk(small.vda.path, tmp_path / "bad", *bad) as node:
        answer = server.image("--disk", f"vda={node}")
    assert answer.status == 41, answer
    volumes = server.show()["by_name"]
    assert [(each, volumes[each]["method"], volumes[each]["unreadable"]) for each in sorted(volumes)] == [
        ("vda-head", "whole", []),
        ("vda-part1", "whole", [[300 * 1024, 512]]),
        ("vda-part2", "used", []),
        ("vda-part3", "whole", [[MIB, 4096]]),
    ]
    target = blank(tmp_path / "t.img", os.path.getsize(small.vda.path))
    server.restore(to=target)
    new, old = Disk(target, small.vda.parts), small.vda
    wanted = bytearray(old.read(old.part(1), 0, 2 * MIB))
    wanted[300 * 1024 : 300 * 1024 + 512] = bytes(512)
    assert new.read(new.part(1), 0, 2 * MIB) == wanted
    assert disks.fingerprint(new, new.part(2)) == disks.fingerprint(old, old.part(2))


def test_a_source_that_vanishes(server: Server) -> None:
    """Cut off in the middle: nothing is committed, and what was there before is still restorable."""
    server.configure(SLOW)
    path = server.disks["vda"]
    with server.started("image", "--config", server.config, "--json") as child:
        child.when(lambda: len(server.packs("fr")) > 3)
        os.truncate(path, 2 * MIB)
        status, value = child.go_on()
    assert status == 40, value
    assert "nothing was committed" in value["error"]["hint"]
    assert not list(server.sites["fr"].glob("servers/web1/images/*"))


@pytest.mark.parametrize("what", ["none", "folder", "twice", "partition", "empty"])
def test_a_source_that_is_none(server: Server, tmp_path: Path, what: str) -> None:
    path = server.disks["vda"]
    link = tmp_path / "link"
    link.symlink_to(path)
    empty = blank(tmp_path / "empty.img", 0)
    argv = {
        "none": ["--disk", str(tmp_path / "none")], "folder": ["--disk", str(tmp_path)],
        "twice": ["--disk", f"a={path}", "--disk", f"b={link}"], "empty": ["--disk", str(empty)],
        "partition": ["--disk", "/dev/null"],
    }  # fmt: skip
    server.fails(40, "image", "--config", server.config, *argv[what])


def test_keys_of_another_server(server: Server) -> None:
    server.name = "web2"
    server.configure()
    server.fails(10, "image", "--config", server.config)
    server.name = "web1"
    server.configure()
    (server.state / "keys.json").unlink()
    assert "keys new" in server.fails(10, "image", "--config", server.config)["hint"]


def test_two_sites_are_fed_from_one_read(server: Server) -> None:
    """What is read of the disk does not grow with the sites: counted by the kernel (rchar of /proc/PID/io)."""
    server.taken()
    counts = []
    for sites in (["--site", "de"], []):
        shutil.rmtree(server.state / "maps")
        with server.started("image", "--config", server.config, *sites) as child:
            io = Path(f"/proc/{child.process.pid}/io")
            last = ""

            def read(io: Path = io) -> bool:
                nonlocal last
                with_error = io.read_text() if child.process.poll() is None else ""
                last = with_error or last
                return not with_error

            wait_until(read)
        counts.append(int(last.split("rchar: ")[1].split()[0]))
    assert counts[0] >= SIZE
    assert counts[1] < counts[0] + SIZE // 2
