"""LVM and device-mapper, as far as snapshots go. Each function is one tool, or reads what one printed.

Snapshots carry the tags `refloat` and `refloat:server=ID`, and are called `VOLUME.refloat-TIME`: only what has all
three is ever removed. Imports `core` and `imager.hold.decide`.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

from core.errors import SourceError, ToolError
from core.layout import LvKind
from core.run import Runner, find_tool
from imager.hold.decide import Lv

TAG = "refloat"
_NAME = re.compile(r".+\.refloat-\d{8}T\d{6}Z")
_FIELDS = "vg_name,lv_name,lv_uuid,lv_size,lv_tags,lv_attr,origin,origin_uuid,pool_lv,pool_lv_uuid,thin_id"
_REMOVE_TRIES = 10


@dataclass(frozen=True)
class Snapshot:
    """One of our snapshots. `thin_id` is None for a thick one."""

    group: str
    name: str
    uuid: str
    origin: str
    origin_uuid: str
    size_bytes: int
    pool: str = ""
    pool_uuid: str = ""
    thin_id: int | None = None
    invalid: bool = False

    @property
    def full_name(self) -> str:
        return f"{self.group}/{self.name}"

    @property
    def node(self) -> str:
        return dm_name(self.group, self.name)

    @property
    def path(self) -> str:
        return f"/dev/mapper/{self.node}"


def is_there() -> bool:
    """Whether this machine runs device-mapper and has LVM. Without the one no volume is active, and the node that
    controls it may be there all the same."""
    return "device-mapper" in Path("/proc/misc").read_text().split() and find_tool("lvs") is not None


def dm_name(group: str, name: str) -> str:
    """The device-mapper name of a logical volume (lvm(8): hyphens are doubled)."""
    return f"{group.replace('-', '--')}-{name.replace('-', '--')}"


def snapshot_name(volume: str, image: str) -> str:
    """What the snapshot of a volume for an image is called."""
    return f"{volume}.refloat-{image}"


def server_tag(server_id: bytes) -> str:
    """The tag that says whose snapshot it is."""
    return f"{TAG}:server={server_id.hex()}"


def our_snapshots(server_id: bytes, runner: Runner) -> list[Snapshot]:
    """Every snapshot this server's runs have made and not removed. Raises ToolError."""
    argv = ["lvs", "--units", "b", "--nosuffix", "--reportformat", "json", "-o", _FIELDS, f"@{TAG}"]
    rows = json.loads(runner.run(argv, purpose="list snapshots").text)["report"][0]["lv"]
    mine = server_tag(server_id)
    return [_snapshot(row) for row in rows if mine in row["lv_tags"].split(",") and _NAME.fullmatch(row["lv_name"])]


def _snapshot(row: dict[str, str]) -> Snapshot:
    return Snapshot(
        group=row["vg_name"], name=row["lv_name"], uuid=row["lv_uuid"], origin=row["origin"],
        origin_uuid=row["origin_uuid"], size_bytes=int(row["lv_size"]), pool=row["pool_lv"],
        pool_uuid=row["pool_lv_uuid"], thin_id=int(row["thin_id"]) if row["thin_id"] else None,
        invalid=row["lv_attr"][4:5] in ("I", "S"),
    )  # fmt: skip


def create_snapshot(lv: Lv, name: str, size_bytes: int, server_id: bytes, runner: Runner) -> None:
    """Snapshot a volume; LVM suspends it meanwhile, which freezes a filesystem directly on it. `size_bytes` is for
    thick ones. A thin one is not active yet."""
    argv = ["lvcreate", "--yes", "--snapshot", "--permission", "r", "--addtag", TAG, "--addtag", server_tag(server_id)]
    if lv.kind is not LvKind.THIN:
        argv += ["--size", f"{size_bytes}b"]
    runner.run([*argv, "--name", name, lv.full_name], purpose=f"snapshot {lv.full_name}")


def activate(group: str, name: str, runner: Runner) -> None:
    """Make a thin snapshot readable; those are skipped by ordinary activation, also at boot."""
    argv = ["lvchange", "--activate", "y", "--ignoreactivationskip", f"{group}/{name}"]
    runner.run(argv, purpose=f"activate {group}/{name}")


def remove(snapshot: Snapshot, runner: Runner) -> None:
    """Remove one of ours. Somebody may look at it for a moment (udev does): tried for a few seconds."""
    argv = ["lvremove", "--yes", "--force", snapshot.full_name]
    for attempt in range(_REMOVE_TRIES):
        try:
            runner.run(argv, purpose=f"remove the snapshot {snapshot.full_name}")
            return
        except ToolError:
            if attempt == _REMOVE_TRIES - 1:
                raise
            time.sleep(1)


def extend(group: str, name: str, by_bytes: int, runner: Runner) -> None:
    """Make a thick snapshot larger."""
    argv = ["lvextend", "--size", f"+{by_bytes}b", f"{group}/{name}"]
    runner.run(argv, purpose=f"extend the snapshot {group}/{name}")


@dataclass(frozen=True)
class Room:
    """What is free in a volume group."""

    free_bytes: int
    extent_bytes: int


def rooms(runner: Runner) -> dict[str, Room]:
    """Volume group → what is free in it."""
    argv = ["vgs", "--units", "b", "--nosuffix", "--reportformat", "json", "-o", "vg_name,vg_free,vg_extent_size"]
    rows = json.loads(runner.run(argv, purpose="see what is free in volume groups").text)["report"][0]["vg"]
    return {row["vg_name"]: Room(int(row["vg_free"]), int(row["vg_extent_size"])) for row in rows}


@dataclass(frozen=True)
class Fill:
    """How full a thick snapshot is (`used`/`total`, sectors), or why it is of no use any more."""

    used: int = 0
    total: int = 0
    broken: str = ""

    @property
    def share(self) -> float:
        return self.used / self.total if self.total else 0.0


def snapshot_fills(runner: Runner) -> dict[str, Fill]:
    """Device-mapper name → fill of every thick snapshot on the machine (`dmsetup status`; dm-snap.c,
    snapshot_status)."""
    text = runner.run(["dmsetup", "status", "--target", "snapshot"], purpose="see how full the snapshots are").text
    return dict(_fill(line) for line in text.splitlines() if " snapshot " in line)


def _fill(line: str) -> tuple[str, Fill]:
    name, _, rest = line.partition(": ")
    words = rest.split()[3:]
    match = re.fullmatch(r"(\d+)/(\d+)", words[0]) if words else None
    return name, Fill(int(match[1]), int(match[2])) if match else Fill(broken=" ".join(words) or "no status")


def open_devices(runner: Runner) -> frozenset[str]:
    """The device-mapper names that anybody has open: a virtual machine opens its disk without claiming it."""
    argv = ["dmsetup", "info", "--columns", "--noheadings", "--separator", " ", "-o", "name,open"]
    rows = (line.split() for line in runner.run(argv, purpose="see which devices are open").text.splitlines())
    return frozenset(row[0] for row in rows if len(row) == 2 and row[1] != "0")


@dataclass(frozen=True)
class PoolFill:
    """How full a thin pool is (0 to 1), and `state` when it does not take writes any more. `held` tells that a
    metadata snapshot is reserved."""

    data: float
    metadata: float
    state: str = ""
    held: bool = False


def pool_fill(group: str, pool: str, runner: Runner) -> PoolFill:
    """Ask the kernel (Documentation/admin-guide/device-mapper/thin-provisioning.rst, Status)."""
    name = pool_device(group, pool)
    words = runner.run(["dmsetup", "status", name], purpose=f"see how full thin pool {group}/{pool} is").text.split()
    return parse_pool(words, f"{group}/{pool}")


def pool_device(group: str, pool: str) -> str:
    """The device-mapper name of the pool itself: LVM stacks a linear device of the plain name over it."""
    return f"{dm_name(group, pool)}-tpool"


def parse_pool(words: list[str], what: str) -> PoolFill:
    """`START LENGTH thin-pool TRANSACTION USED/TOTAL USED/TOTAL HELD MODE …` as a value. Raises SourceError."""
    ratios = [re.fullmatch(r"(\d+)/(\d+)", word) for word in words[4:6]]
    if len(words) < 8 or words[2] != "thin-pool" or len(ratios) != 2 or not all(ratios):
        raise SourceError(f"thin pool {what} is in no good state: {' '.join(words[3:])}", hint="see lvs -a, dmesg")
    metadata, data = (int(match[1]) / int(match[2]) for match in ratios if match)
    bad = [word for word in words[7:] if word in ("ro", "out_of_data_space", "needs_check")]
    return PoolFill(data, metadata, " ".join(bad), words[6] != "-")
