"""The second mechanism: archives from the pass of the repository, and put back with nothing but stock tools."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.appliance.e2e import disks
from tests.appliance.e2e.conftest import PARTS, SIZE, make_disk
from tests.appliance.e2e.disks import Disk
from tests.appliance.e2e.server import ENVIRONMENT, MIB, Server, blank, loop, mounted, tool

pytestmark = pytest.mark.block
#: What restore.sh may use, and nothing else is in the room it runs in.
STOCK = ("coreutils", "tar", "zstd", "age")
ONLY = ("/bin/sh", "/sbin/sfdisk")


@dataclass
class Archived:
    """A server whose second site has archives, too: a full of `old` and a differential of `vda`, read whole."""

    server: Server
    vda: Disk
    old: Path
    full: str
    differential: str

    def folder(self, image: str) -> Path:
        return self.server.sites["fr"] / "servers" / self.server.name / "archives" / image


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Archived:
    place = tmp_path_factory.mktemp("archived")
    vda = make_disk(place / "vda.img")
    server = Server.new(place / "server", {"vda": vda.path}, mechanisms={"fr": ["repository", "archive"]})
    first = server.image("--whole", "vda-part2")
    assert first.status == 0, first
    old = Path(shutil.copyfile(vda.path, place / "old.img"))
    disks.live_a_day(vda, 3)
    with vda.path.open("r+b") as file:  # what was data becomes zeros, and other data; not at a block's edge
        file.seek(PARTS[2].start + 1000)
        file.write(bytes(MIB))
        file.write(random.Random(4).randbytes(5000))
    second = server.image("--whole", "vda-part2")
    assert second.status == 0, second
    (one,), (two,) = first.value["archives"], second.value["archives"]
    assert (one["kind"], two["kind"], two["base"]) == ("full", "differential", one["image"])
    assert two["data_bytes"] < one["data_bytes"] / 2
    return Archived(server, vda, old, one["image"], two["image"])


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root folder that holds the stock tools, what they are linked with, and no other program."""
    root = tmp_path_factory.mktemp("room")
    wanted = [*ONLY]
    for package in STOCK:
        wanted += [each for each in tool("dpkg", "-L", package).splitlines() if "/bin/" in each]
    for path in map(Path, wanted):
        if path.is_file():
            _copy(path, root)
            for word in tool("ldd", path, ok=(0, 1)).split():
                if word.startswith("/"):
                    _copy(Path(word), root)
    for name in ("dev", "proc", "sys", "tmp"):
        (root / name).mkdir()
    assert sorted(each.name for each in (root / "usr/sbin").iterdir() if "sfdisk" not in each.name) in ([], ["chroot"])
    return root


def _copy(path: Path, root: Path) -> None:
    """Where merged /usr has it."""
    real = Path(os.path.realpath(path.parent)) / path.name
    there = root / real.relative_to("/")
    there.parent.mkdir(parents=True, exist_ok=True)
    if not there.exists():
        shutil.copy(real, there)
    for top in ("bin", "sbin", "lib", "lib64"):
        if not (root / top).is_symlink() and Path(f"/{top}").is_symlink():
            (root / top).symlink_to(os.readlink(f"/{top}"))


def _in_room(root: Path, script: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a shell script inside, with the kernel's own folders and nothing else from outside."""
    binds = " && ".join(f"mount --rbind /{name} {root}/{name}" for name in ("dev", "proc", "sys"))
    argv = ["unshare", "--mount", "sh", "-c", f'{binds} && exec chroot {root} /bin/sh -c "$1"', "sh", script]
    return subprocess.run(argv, input=stdin, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)


@contextmanager
def _brought(archived: Archived, root: Path, *images: str) -> Iterator[str]:
    """Archives and key in the room, the script and layout of the last one unpacked as README.txt says."""
    shutil.copy(archived.server.identity, root / "tmp/key")
    for image in images:
        shutil.copytree(archived.folder(image), root / "tmp" / image)
    try:
        last = f"/tmp/{images[-1]}"
        done = _in_room(
            root,
            f"cd {last} && mkdir /tmp/work && cat part-* | age -d -i /tmp/key | zstd -dc | "
            "tar -x -C /tmp/work --exclude='data/*' --exclude='zero/*'",
        )
        assert done.returncode == 0, done
        yield " ".join(f"/tmp/{image}" for image in images)
    finally:
        shutil.rmtree(root / "tmp")
        (root / "tmp").mkdir()


def _restored(room: Path, folders: str, target: Path, answer: str | None = None) -> subprocess.CompletedProcess[str]:
    script = f"sh /tmp/work/restore.sh /tmp/key {folders} vda={target}"
    return _in_room(room, script, f"{target if answer is None else answer}\n")


def _equal(left: Path, right: Path, start: int = 0, size: int = SIZE) -> None:
    tool("cmp", "--bytes", str(size), "--ignore-initial", str(start), left, right)


@pytest.mark.parametrize("which", ["full", "differential"])
def test_stock_tools_alone_bring_the_disk_back(archived: Archived, room: Path, tmp_path: Path, which: str) -> None:
    """In a room with only sh, coreutils, tar, zstd, age and sfdisk: onto a blank disk, every byte."""
    images = (archived.full,) if which == "full" else (archived.full, archived.differential)
    target = blank(tmp_path / "target.img", SIZE)
    with _brought(archived, room, *images) as folders, loop(target) as node:
        done = _restored(room, folders, node)
        assert done.returncode == 0, done
    _equal(archived.old if which == "full" else archived.vda.path, target)


def test_a_larger_disk_with_other_bytes_on_it(archived: Archived, room: Path, tmp_path: Path) -> None:
    """Zeros are written, too: what was on the target shows in no volume; and the table is the old one."""
    target = tmp_path / "target.img"
    target.write_bytes(random.Random(9).randbytes(SIZE + 4 * MIB))
    with _brought(archived, room, archived.full, archived.differential) as folders, loop(target) as node:
        done = _restored(room, folders, node)
        assert done.returncode == 0, done
        dumped = tool("sfdisk", "--dump", node).replace(str(node), "DISK")
    for part in PARTS:
        _equal(archived.vda.path, target, part.start, part.size)
    wanted = tool("sfdisk", "--dump", archived.vda.path).replace(str(archived.vda.path), "DISK")
    assert _rows(dumped) == _rows(wanted)


def _rows(dump: str) -> list[str]:
    return [line.replace("DISKp", "DISK") for line in dump.splitlines() if "start=" in line or "label-id" in line]


def test_restore_sh_refuses(archived: Archived, room: Path, tmp_path: Path) -> None:
    """Nothing is written to what is too small, in use, or not confirmed; nor from what is damaged or does not fit."""
    target = blank(tmp_path / "target.img", SIZE)
    small = blank(tmp_path / "small.img", SIZE - 512)
    other = blank(tmp_path / "other.img", SIZE)
    tool("mkfs.ext4", "-q", other)
    with _brought(archived, room, archived.full, archived.differential) as folders:
        with loop(small) as node:
            assert "too small" in _refused(room, folders, node)
        with loop(other) as node, mounted(node, tmp_path / "mounted"):
            assert "in use" in _refused(room, folders, node)
        with loop(target) as node:
            assert "not confirmed" in _refused(room, folders, node, "yes")
            assert "name the full" in _refused(room, folders.split()[0], node)
            backwards = " ".join(reversed(folders.split()))
            assert "not the full" in _refused(room, backwards, node)
            with (room / folders.split()[1].lstrip("/") / "part-000000").open("r+b") as file:
                file.seek(1000)
                file.write(b"\xff\x00")
            assert "damaged" in _refused(room, folders, node)
    assert not any(target.read_bytes()) and not any(small.read_bytes())


def _refused(room: Path, folders: str, node: Path, answer: str | None = None) -> str:
    done = _restored(room, folders, node, answer)
    assert done.returncode == 1, done
    return done.stderr


def test_anybody_can_check_who_wrote_it(archived: Archived, tmp_path: Path) -> None:
    """ssh-keygen and sha256sum, as README.txt says; a byte changed anywhere, and they refuse."""
    folder = Path(shutil.copytree(archived.folder(archived.differential), tmp_path / "archive"))
    readme = (folder / "README.txt").read_text()
    key = next(line.split("'")[1].partition(" ")[2] for line in readme.splitlines() if ">signers" in line)
    name = archived.server.name
    (folder / "signers").write_text(f"{name} {key}\n")
    argv: tuple[str | Path, ...] = (
        "ssh-keygen",
        "-Y",
        "verify",
        "-f",
        folder / "signers",
        "-I",
        name,
        "-n",
        "refloat-archive",
    )
    argv += ("-s", folder / "SHA256SUMS.sig")
    sums = (folder / "SHA256SUMS").read_text()
    assert "Good" in tool(*argv, stdin=sums)
    tool(*argv, stdin=sums.replace("a", "b", 1), ok=(255,))
    shown = archived.server.ok("keys", "show", "--config", archived.server.config)
    script = next(line for line in readme.splitlines() if "base64 -d" in line)
    fingerprint = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    assert f"SHA256:{fingerprint.rstrip('=')}" in str(shown)


def test_refloat_lists_restores_and_exports_archives(archived: Archived, tmp_path: Path) -> None:
    """The same planning and confirmation; a full, a differential, and one volume of each as a file."""
    server, name = archived.server, archived.server.name
    rows = server.ok("images", *server.unlock)["archives"]
    assert [(each["image"], each["kind"], each["state"]) for each in rows] == [
        (f"archives/{archived.full}", "full", "complete"),
        (f"archives/{archived.differential}", "differential", "complete"),
    ]
    for image, disk in ((archived.full, archived.old), (archived.differential, archived.vda.path)):
        target = tmp_path / f"{image}.img"
        target.write_bytes(random.Random(5).randbytes(SIZE))
        report = server.restore(to=target, image=f"{name}/archives/{image}")
        assert {each["volume"] for each in report["volumes"]} == {"vda-head", "vda-part1", "vda-part2", "vda-part3"}
        assert all(each["verified_bytes"] == each["written_bytes"] for each in report["volumes"])
        for part in PARTS:
            _equal(disk, target, part.start, part.size)
        out = tmp_path / f"{image}.part"
        server.ok("export", f"{name}/archives/{image}", "vda-part3", "-o", out, *server.unlock)
        assert out.read_bytes() == disk.read_bytes()[PARTS[2].start : PARTS[2].start + PARTS[2].size]


def test_an_archive_is_checked_before_it_is_opened(archived: Archived, tmp_path: Path) -> None:
    """What was not signed by the pinned server, or is not what it signed, is refused before a target is touched or age
    has seen it."""
    server, name = archived.server, f"{archived.server.name}/archives/{archived.differential}"
    target = blank(tmp_path / "target.img", SIZE)
    words, confirmed = server.onto(target)
    restore = ("restore", name, *server.unlock, *words, *confirmed)
    part = archived.folder(archived.full) / "part-000000"
    good = part.read_bytes()
    try:
        part.write_bytes(good[:-1])
        server.fails(22, *restore)  # a size is seen by a listing
        assert not any(target.read_bytes())
        part.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        server.fails(23, *restore)
    finally:
        part.write_bytes(good)
    stranger = Server.new(tmp_path / "stranger", {"vda": archived.vda.path}, mechanisms={"fr": ["archive"]})
    theirs = stranger.image().value["archives"][0]["image"]
    there = stranger.sites["fr"] / "servers" / stranger.name / "archives" / theirs
    shutil.copytree(there, archived.folder(theirs))
    try:
        server.fails(31, "restore", f"{server.name}/archives/{theirs}", *server.unlock, *words, *confirmed)
    finally:
        shutil.rmtree(archived.folder(theirs))
    server.fails(30, "restore", name, "--config", server.config, "--identity", stranger.identity, *words, *confirmed)


def test_a_site_may_keep_archives_only(archived: Archived, tmp_path: Path) -> None:
    """Then they have a pass of their own, and the bytes are the same; the next month begins with a full."""
    alone = Server.new(
        tmp_path / "alone", {"vda": archived.vda.path}, mechanisms={"de": ["archive"], "fr": ["archive"]}
    )
    for kind in ("full", "differential"):
        made = alone.image("--whole", "vda-part2")
        assert made.status == 0 and [each["kind"] for each in made.value["archives"]] == [kind, kind], made
    assert made.value["archives"][0]["data_bytes"] < 1 * MIB  # its texts
    target = blank(tmp_path / "target.img", SIZE)
    alone.restore(to=target, image=f"{alone.name}/archives/latest")
    for part in PARTS:
        _equal(archived.vda.path, target, part.start, part.size)
    record = alone.state / "archive" / "de.json"
    month = made.value["archives"][0]["base"][:6]
    record.write_text(record.read_text().replace(month, "202001"))
    (old,) = record.parent.glob("de-*.list")
    old.rename(record.parent / old.name.replace(month, "202001"))
    kinds = {each["name"]: each["kind"] for each in alone.image("--whole", "vda-part2").value["archives"]}
    assert kinds == {"de": "full", "fr": "differential"}


def test_a_site_that_fails_with_its_archive_stops_nobody(archived: Archived, tmp_path: Path) -> None:
    """No place for the archive: the images are committed everywhere, and the exit code tells; the next run is well."""
    server = Server.new(tmp_path / "server", {"vda": archived.vda.path})
    server.taken()
    server.mechanisms = {"fr": ["repository", "archive"]}
    server.configure()
    folder = server.sites["fr"] / "servers" / server.name
    (folder / "archives").write_text("in the way")
    made = server.image()
    assert made.status == 42, made
    assert {each["status"] for each in made.value["sites"]} == {"committed"}
    assert made.value["archives"][0]["status"] == "failed" and made.value["archives"][0]["error"], made
    (folder / "archives").unlink()
    made = server.image()
    assert made.status == 0 and made.value["archives"][0]["kind"] == "full", made
