"""Every kind of disk and filesystem through the whole program: image, a day, image, restore elsewhere, and proof.

One server holds all disks, so that two images serve every test here.
"""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.appliance.e2e import disks
from tests.appliance.e2e.disks import Disk, Part
from tests.appliance.e2e.server import MIB, Server, blank, loop, tool

pytestmark = pytest.mark.block
LINUX = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
SWAP = "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F"
USED = {"ext2", "ext3", "ext4", "xfs", "btrfs", "vfat", "ntfs"}


def _part(number: int, start_mib: int, size_mib: int, make: str) -> Part:
    return Part(number, start_mib * MIB, size_mib * MIB, make)


#: Numbers with holes and out of order; room between partitions and behind them; swap that can give way.
GPT = (
    _part(2, 1, 1, "random"), _part(15, 2, 40, "vfat"), _part(3, 48, 40, "ext4-1k"), _part(1, 96, 80, "ext4"),
    _part(9, 176, 3, "random"), _part(7, 180, 128, "swap"), _part(20, 310, 64, "btrfs"),
)  # fmt: skip
GPT_MIB = 400
LARGE_SECTORS = (_part(1, 1, 300, "vfat"), _part(2, 302, 64, "ext4"), _part(5, 368, 320, "xfs"))
LARGE_SECTORS_MIB = 700
DOS = (_part(1, 1, 40, "ext2"), _part(5, 42, 40, "ntfs"), _part(6, 84, 20, "swap"), _part(4, 110, 40, "ext3"))
DOS_MIB = 160
BARE = (_part(0, 0, 320, "xfs"),)
BARE_MIB = 320
#: These are imaged from loop devices, the others from their files.
DEVICES = ("gpt", "large")


def _gpt(path: Path) -> Disk:
    types = {2: BIOS_BOOT, 15: ESP, 7: SWAP}
    more = {
        2: ', name="BIOS boot \\x22x\\x22 é"',
        3: ', attrs="LegacyBIOSBootable GUID:48 GUID:63"',
        1: ', name="root", attrs="RequiredPartition NoBlockIOProtocol"',
    }
    rows = [
        f"{each.number} : start={each.start // 512}, size={each.size // 512}, type={types.get(each.number, LINUX)}"
        + more.get(each.number, "")
        for each in GPT
    ]
    return _table(path, GPT_MIB, 512, "label: gpt\ntable-length: 136\n\n" + "\n".join(rows), GPT)


def _large(path: Path) -> Disk:
    rows = [f"{each.number} : start={each.start // 4096}, size={each.size // 4096}" for each in LARGE_SECTORS]
    return _table(path, LARGE_SECTORS_MIB, 4096, "label: gpt\n\n" + "\n".join(rows), LARGE_SECTORS)


def _dos(path: Path) -> Disk:
    sectors = MIB // 512
    script = f"""label: dos
label-id: 0xdeadbeef

1 : start={1 * sectors}, size={40 * sectors}, type=83, bootable
2 : start={41 * sectors}, size={64 * sectors}, type=f
4 : start={110 * sectors}, size={40 * sectors}, type=83
5 : start={42 * sectors}, size={40 * sectors}, type=7
6 : start={84 * sectors}, size={20 * sectors}, type=82
"""
    return _table(path, DOS_MIB, 512, script, DOS)


def _table(path: Path, size_mib: int, sector: int, script: str, parts: tuple[Part, ...]) -> Disk:
    blank(path, size_mib * MIB)
    with loop(path, sector_bytes=sector) as node:
        tool("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", node, stdin=script)
    with path.open("r+b") as file:
        file.write(random.Random(path.name).randbytes(440))  # boot code
        if script.startswith("label: dos"):
            file.seek(512)  # where GRUB's core.img lies on a dos disk
            file.write(random.Random(path.name).randbytes(MIB - 512))
    return Disk(path, parts, sector)


@dataclass
class Zoo:
    """The server, its disks by name, and what was on them when the second image was taken."""

    server: Server
    disks: dict[str, Disk]
    first: str = ""
    kept: dict[str, dict[int, dict[str, object]]] = field(default_factory=dict)
    before: dict[str, dict[int, dict[str, object]]] = field(default_factory=dict)
    used: dict[tuple[str, int], list[tuple[int, int]]] = field(default_factory=dict)
    shown: dict[str, Any] = field(default_factory=dict)
    answers: list[dict[str, Any]] = field(default_factory=list)

    def fingerprints(self) -> dict[str, dict[int, dict[str, object]]]:
        """Of every part of every disk, as it is now."""
        return {
            name: {part.number: disks.fingerprint(disk, part) for part in disk.parts}
            for name, disk in self.disks.items()
        }


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    place = tmp_path_factory.mktemp("zoo")
    bare = Disk(blank(place / "bare.img", BARE_MIB * MIB), BARE)
    made = {"gpt": _gpt(place / "gpt.img"), "dos": _dos(place / "dos.img"), "bare": bare}
    made["large"] = _large(place / "large.img")
    for number, disk in enumerate(made.values()):
        disks.make(disk, number)
    server = Server.new(place / "server", {name: disk.path for name, disk in made.items()})
    found = Zoo(server, made)
    found.before = found.fingerprints()
    found.first = _image(found, "day 1")
    for number, disk in enumerate(made.values()):
        disks.live_a_day(disk, 100 + number)
    found.kept = found.fingerprints()
    _image(found, "day 2")
    found.shown = server.show()
    mapped = [(name, part) for name, disk in made.items() for part in disk.parts if part.kind in USED]
    with ThreadPoolExecutor(4) as pool:
        extents = pool.map(lambda row: disks.used_extents(made[row[0]], row[1]), mapped)
        found.used = {(name, part.number): each for (name, part), each in zip(mapped, extents, strict=True)}
    return found


def _image(zoo: Zoo, note: str) -> str:
    """An image of all disks; those of DEVICES have another node each time."""
    with ExitStack() as stack:
        for name in DEVICES:
            disk = zoo.disks[name]
            zoo.server.disks[name] = stack.enter_context(loop(disk.path, sector_bytes=disk.sector_bytes))
        zoo.server.configure()
        answer = zoo.server.image("--note", note)
    assert answer.status == 0, answer
    zoo.answers.append(answer.value)
    return str(answer.value["image"])


def _prove(zoo: Zoo, name: str, target: Path, sector_bytes: int | None = None) -> Disk:
    """The disk on the target holds what the second image holds: fsck, files, swap, every used byte."""
    was = zoo.disks[name]
    now = disks.placed(was, target, sector_bytes)
    for part in now.parts:
        old = was.part(part.number)
        disks.check(now, part)
        assert disks.fingerprint(now, part) == zoo.kept[name][part.number], part
        if part.size == old.size and (name, part.number) in zoo.used:
            disks.same_bytes(was, now, old, part, zoo.used[name, part.number])
    return now


def _same_table(was: Disk, now: Disk, *, places: bool = True) -> None:
    old, new = disks.table(was), disks.table(now)
    if not places:
        for row in (*old["parts"].values(), *new["parts"].values()):
            row.pop("start"), row.pop("size")
    assert new == old


def _volume(name: str, part: Part) -> str:
    return f"{name}-part{part.number}" if part.number else name


def test_every_known_filesystem_is_read_by_its_map(zoo: Zoo) -> None:
    volumes = zoo.shown["by_name"]
    for name, disk in zoo.disks.items():
        for part in disk.parts:
            if part.kind == "swap":
                assert _volume(name, part) not in volumes
                continue
            volume = volumes[_volume(name, part)]
            assert volume["method"] == ("used" if part.kind in USED else "whole"), volume
            assert volume["spec"]["content"]["type"] == (part.kind if part.kind in USED else "")
            if part.kind in USED:
                used = sum(size for _, size in zoo.used[name, part.number])
                assert volume["used_bytes"] < part.size * 3 // 4
                if name in DEVICES:  # of a sparse file, holes are not read
                    assert volume["used_bytes"] >= used
    total = sum(os.path.getsize(disk.path) for disk in zoo.disks.values())
    for answer in zoo.answers:
        assert all(site["read_bytes"] < total // 4 for site in answer["sites"])


def test_the_second_image_holds_what_changed(zoo: Zoo) -> None:
    first, second = zoo.answers
    assert (first["parent"], second["parent"]) == (None, first["image"])
    for one, two in zip(first["sites"], second["sites"], strict=True):
        assert two["changed_bytes"] < one["changed_bytes"] * 3 // 4
        assert two["stored_bytes"] < one["stored_bytes"] * 3 // 4


@pytest.mark.parametrize("size_mib", [GPT_MIB, 555])
def test_gpt_onto_the_same_size_and_bigger(zoo: Zoo, tmp_path: Path, size_mib: int) -> None:
    target = blank(tmp_path / "t.img", size_mib * MIB)
    zoo.server.restore("--only", "gpt", to={"gpt": target})
    now = _prove(zoo, "gpt", target)
    _same_table(zoo.disks["gpt"], now)
    with target.open("rb") as new, zoo.disks["gpt"].path.open("rb") as old:
        assert new.read(440) == old.read(440)
    tool("sgdisk", "--verify", target)


def test_gpt_onto_a_smaller_disk(zoo: Zoo, tmp_path: Path) -> None:
    """Unallocated space and swap give way: 400 MiB onto 330."""
    target = blank(tmp_path / "t.img", 330 * MIB)
    zoo.server.restore("--only", "gpt", to={"gpt": target})
    now = _prove(zoo, "gpt", target)
    _same_table(zoo.disks["gpt"], now, places=False)
    assert now.part(7).size < 128 * MIB
    assert [now.part(each) for each in (2, 15)] == [zoo.disks["gpt"].part(each) for each in (2, 15)]


def test_an_ext4_shrinks(zoo: Zoo, tmp_path: Path) -> None:
    """Below what space and swap can give, ext4 has to: 400 MiB onto 236."""
    target = blank(tmp_path / "t.img", 236 * MIB)
    zoo.server.restore("--only", "gpt", "--scratch", tmp_path, to={"gpt": target})
    now = _prove(zoo, "gpt", target)
    _same_table(zoo.disks["gpt"], now, places=False)
    shrunk = [
        each.number for each in now.parts if each.kind == "ext4" and each.size < zoo.disks["gpt"].part(each.number).size
    ]
    assert shrunk


def test_sectors_of_4096(zoo: Zoo, tmp_path: Path) -> None:
    target = blank(tmp_path / "t.img", 800 * MIB)
    with loop(target, sector_bytes=4096) as node:
        zoo.server.restore("--only", "large", to={"large": node})
    now = _prove(zoo, "large", target)
    _same_table(zoo.disks["large"], now)


def test_sectors_of_4096_onto_512(zoo: Zoo, tmp_path: Path) -> None:
    """The table is computed anew, every byte of the partitions is where it was."""
    target = blank(tmp_path / "t.img", LARGE_SECTORS_MIB * MIB)
    with loop(target) as node:
        answer = zoo.server.restore("--only", "large", to={"large": node})
    assert answer["volumes"]
    _same_table(zoo.disks["large"], _prove(zoo, "large", target, 512))


def test_sectors_of_512_onto_4096_is_refused(zoo: Zoo, tmp_path: Path) -> None:
    target = blank(tmp_path / "t.img", 800 * MIB)
    with loop(target, sector_bytes=4096) as node:
        words, confirmed = zoo.server.onto({"gpt": node})
        unlock = zoo.server.unlock
        error = zoo.server.fails(50, "restore", "latest", *unlock, "--only", "gpt", *words, *confirmed)
    assert "sectors of 4096" in error["message"]
    assert "512" in error["hint"]
    assert os.stat(target).st_blocks == 0


@pytest.mark.parametrize("size_mib", [DOS_MIB, 200, 152])
def test_dos(zoo: Zoo, tmp_path: Path, size_mib: int) -> None:
    """Boot code and what lies behind the MBR come back; logical partitions keep their numbers."""
    target = blank(tmp_path / "t.img", size_mib * MIB)
    zoo.server.restore("--only", "dos", to={"dos": target})
    now = _prove(zoo, "dos", target)
    _same_table(zoo.disks["dos"], now)
    with target.open("rb") as new, zoo.disks["dos"].path.open("rb") as old:
        assert new.read(MIB) == old.read(MIB)


@pytest.mark.parametrize("size_mib", [BARE_MIB, 400])
def test_a_bare_filesystem(zoo: Zoo, tmp_path: Path, size_mib: int) -> None:
    target = blank(tmp_path / "t.img", size_mib * MIB)
    zoo.server.restore("--only", "bare", to={"bare": target})
    _prove(zoo, "bare", target)


def test_what_cannot_get_smaller_is_refused(zoo: Zoo, tmp_path: Path) -> None:
    target = blank(tmp_path / "t.img", 300 * MIB)
    words, confirmed = zoo.server.onto({"bare": target})
    error = zoo.server.fails(50, "restore", "latest", *zoo.server.unlock, "--only", "bare", *words, *confirmed)
    assert str(BARE_MIB * MIB) in error["message"]
    assert os.stat(target).st_blocks == 0


def test_the_first_day_is_still_there(zoo: Zoo, tmp_path: Path) -> None:
    targets = {name: blank(tmp_path / f"{name}.img", os.path.getsize(disk.path)) for name, disk in zoo.disks.items()}
    target = targets["large"]
    with loop(target, sector_bytes=4096) as node:
        zoo.server.restore(image=zoo.first, to={**targets, "large": node})
    for name, disk in zoo.disks.items():
        now = disks.placed(disk, targets[name])
        assert {part.number: disks.fingerprint(now, part) for part in now.parts} == zoo.before[name]


def test_verify_deep_finds_nothing_wrong(zoo: Zoo) -> None:
    found = zoo.server.ok("verify", "--deep", *zoo.server.unlock)
    assert found["images"] == 4 and found["damage"] == [] and found["blocks"] > 0
