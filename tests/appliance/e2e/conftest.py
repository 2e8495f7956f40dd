"""What the end-to-end proofs share: a small server whose images no test changes, and copies of it to be broken."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.appliance.e2e import disks
from tests.appliance.e2e.disks import Disk, Part
from tests.appliance.e2e.server import MIB, Server, blank, tool

PARTS = (
    Part(1, 1 * MIB, 2 * MIB, "random"),
    Part(2, 4 * MIB, 48 * MIB, "ext4"),
    Part(3, 56 * MIB, 4 * MIB, "random"),
)
SIZE = 64 * MIB
DATA_SIZE = 8 * MIB


def make_disk(path: Path) -> Disk:
    """A GPT disk: random bytes, an ext4 with files, random bytes."""
    rows = [f"{each.number} : start={each.start // 512}, size={each.size // 512}" for each in PARTS]
    tool("sfdisk", "--quiet", "--no-reread", blank(path, SIZE), stdin="label: gpt\n\n" + "\n".join(rows))
    return disks.make(Disk(path, PARTS), 1)


@dataclass
class Small:
    """A server with two disks: `vda` (PARTS) and `vdb` (random, no table), each imaged twice."""

    server: Server
    vda: Disk
    vdb: Path
    first: str
    second: str
    old_vda: Path
    old_vdb: Path

    def copied(self, place: Path) -> Server:
        """The same server with sites and state of its own, to be broken."""
        shutil.copytree(self.server.place, place)
        made = Server(place, dict(self.server.disks), recipients=self.server.recipients)
        made.configure()
        return made

    def blanks(self, place: Path, more: int = 0) -> dict[str, Path]:
        """Blank targets for both disks."""
        return {
            "vda": blank(place / "new-vda.img", SIZE + more),
            "vdb": blank(place / "new-vdb.img", DATA_SIZE + more),
        }


@pytest.fixture(scope="package")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    place = tmp_path_factory.mktemp("small")
    vda, vdb = make_disk(place / "vda.img"), place / "vdb.img"
    vdb.write_bytes(random.Random(2).randbytes(DATA_SIZE))
    server = Server.new(place / "server", {"vda": vda.path, "vdb": vdb}, with_kit=True)
    first = server.taken("--note", "first")
    old = [Path(shutil.copyfile(path, path.with_suffix(".old"))) for path in (vda.path, vdb)]
    disks.live_a_day(vda, 3)
    with vdb.open("r+b") as file:
        file.seek(2 * MIB + 1)
        file.write(random.Random(4).randbytes(MIB))
    second = server.taken("--note", "second")
    return Small(server, vda, vdb, first, second, *old)


@pytest.fixture(autouse=True, scope="package")
def nothing_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No loop device and no mount outlives these tests."""
    yield
    mine = str(tmp_path_factory.getbasetemp())
    loops = tool("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE")
    assert mine not in loops
    assert mine not in Path("/proc/self/mountinfo").read_text()
