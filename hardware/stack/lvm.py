"""LVM groups that are active, from the JSON of `pvs`, `vgs` and `lvs` (lvmreport(7)). All numbers are bytes."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import SourceError
from core.layout import Group, LogicalVolume, LvKind, PhysicalVolume
from core.run import Runner
from hardware.facts import Numbers, facts_of

#: The tag on every snapshot that Refloat makes; such volumes are never part of a layout.
TAG = "refloat"


@dataclass(frozen=True)
class Report:
    """One look at LVM: rows by what they are of."""

    pvs: list[dict[str, Any]] = field(default_factory=list)
    vgs: list[dict[str, Any]] = field(default_factory=list)
    lvs: list[dict[str, Any]] = field(default_factory=list)


_FIELDS = {
    "pvs": "pv_name,pv_uuid,pv_size,pe_start,vg_name",
    "vgs": "vg_name,vg_uuid,vg_extent_size,vg_size,vg_free,vg_missing_pv_count",
    "lvs": "vg_name,lv_name,lv_uuid,lv_size,lv_layout,lv_role,pool_lv,origin,chunk_size,lv_metadata_size,lv_active,"
    "lv_dm_path,lv_tags",
}


def read_report(runner: Runner, *, one_of_a_name: bool = True) -> Report:
    """Ask LVM. Raises ToolError when it fails, and SourceError when two groups share a name (`one_of_a_name` False:
    that is left to the caller)."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for tool, fields in _FIELDS.items():
        argv = [tool, "--units", "b", "--nosuffix", "--reportformat", "json", "-o", fields]
        text = runner.run(argv, purpose="read what LVM knows").text
        rows[tool] = [dict(row) for row in json.loads(text)["report"][0][tool.removesuffix("s")]]
    names = [row["vg_name"] for row in rows["vgs"]]
    for name in names:
        if one_of_a_name and names.count(name) > 1:
            raise SourceError(f"two volume groups are called {name!r}", hint="rename one: vgrename UUID NEWNAME")
    return Report(**rows)


def group_of(report: Report, rdev: Numbers) -> str | None:
    """The name of the group that a PV's device belongs to; None for a PV without a group, or one LVM does not see."""
    for row in report.pvs:
        if _numbers(row["pv_name"]) == rdev:
            return row["vg_name"] or None
    return None


def is_active(report: Report, group: str) -> bool:
    """Whether any of the group's volumes is active: a group with none is carried whole, on its PVs."""
    return any(row["lv_active"] == "active" for row in report.lvs if row["vg_name"] == group)


def read_group(report: Report, name: str, known: dict[Numbers, str]) -> Group:
    """Describe an active group; `known` are nodes by device. Contents are filled in by the caller.

    Raises SourceError when a PV is missing or not known, or when a volume that is no snapshot is not active.
    """
    row = next(each for each in report.vgs if each["vg_name"] == name)
    if row["vg_missing_pv_count"] not in ("", "0"):
        raise SourceError(
            f"volume group {name} lacks a PV", hint="repair it first: vgreduce --removemissing, or the disk"
        )
    pvs = []
    for pv in (each for each in report.pvs if each["vg_name"] == name):
        rdev = _numbers(pv["pv_name"])
        if rdev not in known:
            raise SourceError(
                f"{pv['pv_name']} is part of the volume group {name}, and its disk is not to be imaged",
                hint="image all disks of a group: add a [[disk]] for that one",
            )
        start, size = int(pv["pe_start"]), int(pv["pv_size"])
        pvs.append(PhysicalVolume(node=known[rdev], uuid=pv["pv_uuid"], size_bytes=size, start_bytes=start))
    return Group(
        name=name,
        uuid=row["vg_uuid"],
        extent_bytes=int(row["vg_extent_size"]),
        size_bytes=int(row["vg_size"]),
        free_bytes=int(row["vg_free"]),
        pvs=tuple(pvs),
        volumes=tuple(_volume(each) for each in report.lvs if each["vg_name"] == name and _counts(each)),
    )


def _counts(row: dict[str, Any]) -> bool:
    """Refloat's snapshots do not count, nor others' that are of no use now: thick ones, and thin ones not active."""
    if TAG in row["lv_tags"].split(",") or "thicksnapshot" in row["lv_role"].split(","):
        return False
    active = row["lv_active"] == "active"
    if not active and not row["origin"]:
        raise SourceError(
            f"logical volume {row['vg_name']}/{row['lv_name']} is not active, so it cannot be read",
            hint=f"lvchange -ay {row['vg_name']}/{row['lv_name']}",
        )
    return bool(active)


def _volume(row: dict[str, Any]) -> LogicalVolume:
    kinds = set(row["lv_layout"].split(","))
    kind = LvKind.OTHER
    if "pool" in kinds and "thin" in kinds:
        kind = LvKind.POOL
    elif "thin" in kinds:
        kind = LvKind.THIN
    elif kinds == {"linear"}:
        kind = LvKind.LINEAR
    pool = kind is LvKind.POOL
    return LogicalVolume(
        name=row["lv_name"],
        node=Path(row["lv_dm_path"]).name,
        uuid=row["lv_uuid"],
        kind=kind,
        size_bytes=int(row["lv_size"]),
        pool=row["pool_lv"] if kind is LvKind.THIN else "",
        chunk_bytes=int(row["chunk_size"]) if pool else 0,
        metadata_bytes=int(row["lv_metadata_size"]) if pool else 0,
    )


def _numbers(path: str) -> Numbers | None:
    """None for what LVM writes instead of a path (`[unknown]`)."""
    return facts_of(path).rdev if os.path.exists(path) else None
