"""`refloat restore`: what a plan promises is what happens; by difference, in part, after a kill, by kit alone."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest

from tests.appliance.e2e import disks
from tests.appliance.e2e.conftest import DATA_SIZE, PARTS, SIZE, Small
from tests.appliance.e2e.disks import Disk, Part
from tests.appliance.e2e.server import MIB, Server, blank, loop, mounted, token

pytestmark = pytest.mark.block
BLOCK = 65536


def _prove(target: Path, was: Disk) -> Disk:
    """Table, files, and the parts that no map describes are those of the disk."""
    now = disks.placed(was, target)
    assert disks.table(now) == disks.table(was)
    for part in now.parts:
        disks.check(now, part)
        assert disks.fingerprint(now, part) == disks.fingerprint(was, was.part(part.number)), part
    return now


def _written(report: dict[str, object]) -> int:
    volumes = report["volumes"]
    assert isinstance(volumes, list)
    return sum(each["written_bytes"] + each["zeroed_bytes"] for each in volumes)


def test_a_plan_writes_nothing(small: Small, tmp_path: Path) -> None:
    """As text and as JSON; and it names what confirms each target."""
    target = blank(tmp_path / "t.img", SIZE)
    target.write_bytes(os.urandom(SIZE))
    before, state = disks.digest(target), os.stat(target)
    argv = ("restore", "latest", *small.server.unlock, "--only", "vda", "--to", target, "--plan")
    value = small.server.ok(*argv)
    assert value["confirm"] == {str(target): token(target)}
    assert [each["action"] for each in value["plan"]["actions"]][0] == "WriteTable"
    assert {each.get("volume") for each in value["plan"]["actions"]} >= {"vda-head", "vda-part1", "vda-part2"}
    text = small.server.run(*argv, text=True, COLUMNS="300")
    assert text.status == 0 and token(target) in text.out and "vda-part2" in text.out
    small.server.ok(*argv, "--confirm", token(target))  # confirming a plan is not carrying it out
    assert disks.digest(target) == before
    assert os.stat(target).st_mtime_ns == state.st_mtime_ns


def test_both_disks_and_a_second_time(small: Small, tmp_path: Path) -> None:
    """Onto blank disks; once more writes nothing: not a byte reported, and the files untouched."""
    targets = small.blanks(tmp_path)
    assert _written(small.server.restore(to=targets)) > DATA_SIZE
    _prove(targets["vda"], small.vda)
    assert targets["vdb"].read_bytes() == small.vdb.read_bytes()
    before = {
        path: (os.stat(path).st_mtime_ns, os.stat(path).st_blocks, disks.digest(path)) for path in targets.values()
    }
    report = small.server.restore(to=targets)
    assert _written(report) == 0
    assert sum(each["equal_bytes"] for each in report["volumes"]) > DATA_SIZE
    after = {
        path: (os.stat(path).st_mtime_ns, os.stat(path).st_blocks, disks.digest(path)) for path in targets.values()
    }
    assert [row[1:] for row in after.values()] == [row[1:] for row in before.values()]
    assert after[targets["vdb"]] == before[targets["vdb"]]


def test_one_of_two_disks_is_lost(small: Small, tmp_path: Path) -> None:
    targets = small.blanks(tmp_path)
    shutil.copyfile(small.vda.path, targets["vda"])
    before = disks.digest(targets["vda"])
    small.server.restore("--only", "vdb", to={"vdb": targets["vdb"]})
    assert targets["vdb"].read_bytes() == small.vdb.read_bytes()
    assert disks.digest(targets["vda"]) == before


def test_one_volume_leaves_everything_else(small: Small, tmp_path: Path) -> None:
    target = Disk(blank(tmp_path / "t.img", SIZE), PARTS)
    shutil.copyfile(small.old_vda, target.path)
    with target.path.open("r+b") as file:  # also what stands in no partition
        file.seek(SIZE - 3 * MIB)
        file.write(random.Random(1).randbytes(MIB))
    before = target.path.read_bytes()
    report = small.server.restore("--only", "vda-part2", to={"vda": target.path})
    assert [each["volume"] for each in report["volumes"]] == ["vda-part2"]
    after, part = target.path.read_bytes(), target.part(2)
    assert after[: part.start] == before[: part.start]
    assert after[part.start + part.size :] == before[part.start + part.size :]
    assert disks.fingerprint(target, part) == disks.fingerprint(small.vda, part)
    disks.check(target, part)


def test_back_and_forth_by_difference(small: Small, tmp_path: Path) -> None:
    """Roll back the live disk to the first image, and forward again: only blocks that differ are written."""
    target = tmp_path / "t.img"
    shutil.copyfile(small.vdb, target)
    for image, wanted in ((small.first, small.old_vdb), (small.second, small.vdb)):
        now, then = target.read_bytes(), wanted.read_bytes()
        differ = sum(now[at : at + BLOCK] != then[at : at + BLOCK] for at in range(0, DATA_SIZE, BLOCK))
        assert 0 < differ < DATA_SIZE // BLOCK
        report = small.server.restore("--only", "vdb", image=image, to={"vdb": target})
        assert _written(report) == differ * BLOCK
        assert target.read_bytes() == then


def test_a_killed_restore_goes_on(small: Small, tmp_path: Path) -> None:
    target = blank(tmp_path / "t.img", DATA_SIZE)
    words, confirmed = small.server.onto({"vdb": target})
    argv = ("restore", "latest", *small.server.unlock, "--only", "vdb", *words, *confirmed)
    with small.server.started(*argv) as child:
        child.when(lambda: os.stat(target).st_blocks * 512 >= 2 * MIB)
        child.process.kill()
        assert child.process.wait() == -9
    report = small.server.restore("--only", "vdb", to={"vdb": target})
    assert report["volumes"][0]["written_bytes"] <= DATA_SIZE - 2 * MIB + BLOCK
    assert target.read_bytes() == small.vdb.read_bytes()


# What is enough


def test_the_kit_alone_is_enough(small: Small, tmp_path: Path) -> None:
    """No configuration, no state, another working directory, a machine that never was a server."""
    kit = Path(shutil.copy(small.server.kit, tmp_path / "found.kit"))
    config, state = small.server.config.rename(tmp_path / "c"), small.server.state.rename(tmp_path / "s")
    targets = small.blanks(tmp_path)
    words, confirmed = small.server.onto(targets)
    try:
        argv = ("restore", "web1/latest", "--kit", kit, "--passphrase-file", small.server.passphrase)
        answer = small.server.run(*argv, *words, *confirmed, cwd=tmp_path)
    finally:
        config.rename(small.server.config)
        state.rename(small.server.state)
    assert answer.status == 0, answer
    _prove(targets["vda"], small.vda)
    assert targets["vdb"].read_bytes() == small.vdb.read_bytes()


def test_the_kits_pins_beat_the_site(small: Small, tmp_path: Path) -> None:
    """A site that presents another server, complete and consistent, under the name: not believed, even where the
    machine's own configuration and keys would."""
    thief = Server.new(tmp_path / "thief", {"vdb": small.vdb})
    thief.taken()
    thief.ok("images", "--config", thief.config)
    places = [word for name, path in thief.sites.items() for word in ("--site", f"{name}=file://{path}")]
    target = blank(tmp_path / "t.img", DATA_SIZE)
    argv = ("restore", "web1/latest", *small.server.by_kit, *places, "--to", target, "--confirm", token(target))
    for more in ((), ("--config", thief.config)):
        error = small.server.fails(31, *argv, *more)
        assert "images/" in error["message"]
    assert os.stat(target).st_blocks == 0
    identity = ("--identity", small.server.identity, "--config", thief.config)
    small.server.fails(30, "restore", "latest", *identity, "--to", target)  # trusted there, but sealed to the thief


# Growing and shrinking


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> tuple[Server, dict[str, Disk]]:
    """Three bare filesystems that can grow."""
    place = tmp_path_factory.mktemp("bare")
    sizes = {"ext4": 64, "xfs": 300, "btrfs": 128}
    made = {}
    for number, (kind, size) in enumerate(sizes.items()):
        path = blank(place / f"{kind}.img", size * MIB)
        made[kind] = disks.make(Disk(path, (Part(0, 0, size * MIB, kind),)), number)
    server = Server.new(place / "server", {kind: disk.path for kind, disk in made.items()})
    server.taken()
    return server, made


def test_grow_last(bare: tuple[Server, dict[str, Disk]], tmp_path: Path) -> None:
    server, made = bare
    bigger = {kind: blank(tmp_path / f"{kind}.img", 420 * MIB) for kind in made}
    report = server.restore("--grow", "last", to=bigger)
    assert len([step for step in report["steps"] if ": grow " in step]) == 3
    for kind, disk in made.items():
        part = Part(0, 0, 420 * MIB, kind)
        grown = Disk(bigger[kind], (part,))
        disks.check(grown, part)
        assert disks.fingerprint(grown, part) == disks.fingerprint(disk, disk.parts[0])
        with grown.mounted(part, read_only=True) as root:
            status = os.statvfs(root)
            assert status.f_blocks * status.f_frsize > 350 * MIB


def test_grow_a_partition(small: Small, tmp_path: Path) -> None:
    """The table's partition and its filesystem; the one behind it moves up."""
    target = blank(tmp_path / "t.img", SIZE + 50 * MIB)
    small.server.restore("--only", "vda", "--grow", "vda-part2", to={"vda": target})
    now = disks.placed(small.vda, target)
    assert now.part(2).size >= PARTS[1].size + 48 * MIB
    disks.check(now, now.part(2))
    assert disks.fingerprint(now, now.part(3)) == disks.fingerprint(small.vda, PARTS[2])
    with loop(target, now.part(2).start, now.part(2).size) as node, mounted(node, tmp_path / "mnt", "ro") as root:
        assert disks.files(root) == disks.fingerprint(small.vda, PARTS[1])
        assert os.statvfs(root).f_blocks * os.statvfs(root).f_frsize > 85 * MIB


def test_too_little_scratch_is_refused_before_a_byte_is_written(small: Small, tmp_path: Path) -> None:
    """And with enough of it the same restore works, shrunk."""
    target = blank(tmp_path / "t.img", 48 * MIB)
    target.write_bytes(os.urandom(MIB) * 48)
    before = disks.digest(target)
    words, confirmed = small.server.onto({"vda": target})
    argv = ("restore", "latest", *small.server.unlock, "--only", "vda", *words, *confirmed)
    with mounted(Path("tmpfs"), tmp_path / "mnt", "size=256k", kind="tmpfs") as root:
        error = small.server.fails(50, *argv, "--scratch", root)
        assert "scratch" in error["message"] and "--scratch" in error["hint"]
    assert disks.digest(target) == before
    small.server.ok(*argv, "--scratch", tmp_path)
    now = disks.placed(small.vda, target)
    assert now.part(2).size < PARTS[1].size
    for part in now.parts:
        disks.check(now, part)
        assert disks.fingerprint(now, part) == disks.fingerprint(small.vda, small.vda.part(part.number))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("refloat")]


def test_unused_space_is_zeroed_where_asked(small: Small, tmp_path: Path) -> None:
    """What an old disk held does not stay between the partitions nor in free blocks; without it, it may."""
    target = tmp_path / "t.img"
    marker = b"what was on this disk before "
    target.write_bytes((marker * (MIB // len(marker) + 1))[:MIB] * (SIZE // MIB))
    small.server.restore("--only", "vda", to={"vda": target})
    assert marker in target.read_bytes()
    small.server.restore("--only", "vda", "--unused", "zero", to={"vda": target})
    assert marker not in target.read_bytes()
    _prove(target, small.vda)


def test_confirmation_asked_at_no_terminal(small: Small, tmp_path: Path) -> None:
    """Nobody answers: 51, and as JSON the token is a field for programs."""
    target = blank(tmp_path / "t.img", DATA_SIZE)
    answer = small.server.run("restore", "latest", *small.server.unlock, "--only", "vdb", "--to", target)
    assert answer.status == 51 and answer.error["token"] == token(target)
    assert json.loads(answer.out)["error"]["code"] == "confirm"
