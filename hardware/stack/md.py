"""md arrays that run: what `mdadm --detail --export` and sysfs (Documentation/admin-guide/md.rst) tell of them."""

from __future__ import annotations

from pathlib import Path

from core.errors import SourceError
from core.layout import Array
from core.run import Runner
from hardware.facts import Numbers, kernel_path, numbers_of, read_sys, sys_folder
from hardware.stack.nodes import Node, facts_at


def array_on(member: Node) -> Numbers | None:
    """The running array that a member belongs to, or None."""
    found = [rdev for rdev in member.holders() if (sys_folder(rdev) / "md").exists()]
    return found[0] if found else None


def read_array(rdev: Numbers, members: dict[Numbers, str], runner: Runner) -> Array:
    """Describe a running array; `members` are the nodes that are known by device. Raises SourceError when it has one
    that is not known: then a disk is missing among those to image."""
    path, folder = kernel_path(rdev), sys_folder(rdev) / "md"
    told = _export(runner.run(["mdadm", "--detail", "--export", path], purpose=f"describe the array {path}").text)
    level, metadata = told.get("MD_LEVEL", ""), told.get("MD_METADATA", "")
    if not level or not metadata or "MD_UUID" not in told:
        raise SourceError(
            f"{path} is an array of a kind that cannot be described (metadata {metadata or 'unknown'})",
            hint="firmware RAID containers are imaged from the rescue environment, disk by disk",
        )
    in_use = sorted(_members(folder, members), key=lambda each: each[0])
    return Array(
        name=Path(path).name,
        uuid=told["MD_UUID"],
        level=level,
        metadata=metadata,
        slots=int(told.get("MD_DEVICES", "0")),
        size_bytes=facts_at(rdev).size_bytes,
        members=tuple(name for _, name, _ in in_use),
        label=told.get("MD_NAME", ""),
        chunk_bytes=int(read_sys(folder / "chunk_size") or 0),
        data_offset_bytes=max((offset for _, _, offset in in_use), default=0),
        degraded=read_sys(folder / "degraded") not in ("", "0"),
    )


def _export(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _members(folder: Path, known: dict[Numbers, str]) -> list[tuple[int, str, int]]:
    """(slot, node, data offset in bytes) of the members that hold data now; spares and faulty ones are left out."""
    found = []
    for entry in sorted(folder.glob("dev-*")):
        rdev, slot = numbers_of((entry / "block").resolve()), read_sys(entry / "slot")
        if rdev not in known:
            raise SourceError(
                f"{kernel_path(rdev)} is part of the array {folder.parent.name}, and its disk is not to be imaged",
                hint="image all disks of an array: add a [[disk]] for that one",
            )
        if slot.isdigit() and "in_sync" in read_sys(entry / "state").split(","):
            found.append((int(slot), known[rdev], int(read_sys(entry / "offset") or 0) * 512))
    return found
