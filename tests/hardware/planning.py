"""For planner tests: what must hold of every accepted plan, and generated disks."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from hypothesis import strategies as st

from core.layout import Content, Disk, Layout, Partition, Role, Table, TableKind, VolumeRole, volumes_of
from core.sizes import MIB
from hardware.actions import (
    AnyAction,
    ClearSpace,
    ClearTable,
    GrowFilesystem,
    MakeSwap,
    RecreateFilesystem,
    ShrinkFilesystem,
    WriteTable,
    WriteVolume,
)
from hardware.machine import Device
from hardware.placement import bounds_of, least_bytes
from hardware.plan import Plan
from hardware.recreate import RECREATABLE, least_recreated, sector_fault

_ON_DISKS = ClearTable | WriteTable | ClearSpace | WriteVolume | RecreateFilesystem | MakeSwap | GrowFilesystem


def device(size: int, sector: int = 512, path: str = "/dev/vdz", **fields: object) -> Device:
    base = Device(path=path, name=path.rsplit("/", 1)[-1], size_bytes=size, sector_bytes=sector, spots=())
    return msgspec.structs.replace(base, **fields)


def check_accepted(layout: Layout, targets: dict[str, Device], plan: Plan) -> None:
    """Everything that must hold of a plan without refusals for whole disks: what is made anew covers its volume once,
    as what is written does."""
    assert not plan.refusals
    paths = {target.path for target in targets.values()}
    for action in plan.actions:
        assert isinstance(action, ShrinkFilesystem | _ON_DISKS)
        assert isinstance(action, ShrinkFilesystem) or action.path in paths
    _check_order(plan.actions)
    volumes = [spec for spec in volumes_of(layout) if spec.disk in targets]
    written = [action for action in plan.actions if isinstance(action, WriteVolume | RecreateFilesystem)]
    assert sorted(action.volume for action in written) == sorted(spec.name for spec in volumes)
    for disk in layout.disks:
        if disk.name in targets:
            _check_disk(disk, targets[disk.name], [each for each in written if each.disk == disk.name], plan)


def _check_order(actions: Sequence[AnyAction]) -> None:
    rank = {
        ShrinkFilesystem: 0,
        ClearTable: 1,
        WriteTable: 1,
        ClearSpace: 1,
        WriteVolume: 1,
        RecreateFilesystem: 1,
        MakeSwap: 1,
        GrowFilesystem: 2,
    }
    ranks = [rank[type(action)] for action in actions]
    assert ranks == sorted(ranks)
    tabled: set[str] = set()
    for action in actions:
        if isinstance(action, ClearTable | WriteTable):
            tabled.add(action.disk)
        elif isinstance(action, WriteVolume | RecreateFilesystem | MakeSwap | ClearSpace):
            assert action.disk in tabled


def _check_disk(disk: Disk, target: Device, written: Sequence[WriteVolume | RecreateFilesystem], plan: Plan) -> None:
    used: list[tuple[int, int]] = [(each.offset_bytes, each.offset_bytes + each.size_bytes) for each in written]
    used += [
        (each.offset_bytes, each.offset_bytes + each.size_bytes)
        for each in plan.actions
        if isinstance(each, MakeSwap) and each.disk == disk.name
    ]
    used += [
        place
        for each in plan.actions
        if isinstance(each, ClearSpace) and each.disk == disk.name
        for place in each.ranges
    ]
    if disk.table is None:
        assert len(used) == 1 or not written and not used
    _check_disjoint(used, target.size_bytes)
    if disk.table is None:
        return
    (table,) = [each.table for each in plan.actions if isinstance(each, WriteTable) and each.disk == disk.name]
    _check_table(disk, disk.table, table, target, plan)
    parts = {part.number: part for part in table.partitions}
    specs = {spec.name: spec for spec in volumes_of(Layout(disks=(disk,)))}
    grows = {each.volume: each for each in plan.actions if isinstance(each, GrowFilesystem)}
    for each in written:
        spec = specs[each.volume]
        if spec.role is VolumeRole.HEAD:
            assert each.offset_bytes == 0 and each.size_bytes == spec.size_bytes
            assert each.size_bytes <= min((part.start_bytes for part in table.partitions), default=target.size_bytes)
            continue
        part = parts[spec.partition]
        if isinstance(each, RecreateFilesystem):
            _check_recreated(disk, spec.content, each, part, plan)
            continue
        if target.sector_bytes > disk.sector_bytes:
            assert not sector_fault(spec.content, target.sector_bytes)
        assert (each.offset_bytes, each.keep) == (part.start_bytes, ())
        assert each.size_bytes == min(part.size_bytes, spec.size_bytes)
        if each.volume in grows:
            assert grows[each.volume].to_bytes == part.size_bytes > spec.size_bytes


def _check_recreated(disk: Disk, content: Content, action: RecreateFilesystem, part: Partition, plan: Plan) -> None:
    """It fills its partition, says what it is, fits by what is used, and a person is told; and it had to be."""
    assert (action.offset_bytes, action.size_bytes) == (part.start_bytes, part.size_bytes)
    assert (action.type, action.uuid, action.label) == (content.type, content.uuid, content.label)
    assert content.type in RECREATABLE and any(action.volume in text for text in plan.warnings)
    fault = action.sector_bytes > disk.sector_bytes and sector_fault(content, action.sector_bytes)
    assert fault or action.size_bytes < action.from_bytes
    if action.size_bytes < action.from_bytes:
        least = least_recreated(content)
        assert least is not None and (action.size_bytes >= least or fault)
        assert action.size_bytes > (content.used_bytes or 0) or fault


def _check_disjoint(ranges: list[tuple[int, int]], size: int) -> None:
    at = 0
    for start, end in sorted(ranges):
        assert at <= start < end <= size
        at = end


def _check_table(disk: Disk, before: Table, after: Table, target: Device, plan: Plan) -> None:
    old = {part.number: part for part in before.partitions}
    bounds = bounds_of(after, target.size_bytes, target.sector_bytes)
    slots = sorted(
        (part for part in after.partitions if part.role is not Role.EXTENDED), key=lambda part: part.start_bytes
    )
    _check_disjoint([(part.start_bytes, part.end_bytes) for part in slots], bounds.end)
    recreated = {each.volume for each in plan.actions if isinstance(each, RecreateFilesystem)}
    shrunk = {each.volume: each for each in plan.actions if isinstance(each, ShrinkFilesystem)}
    for part in after.partitions:
        was = old[part.number]
        assert not part.start_bytes % target.sector_bytes and not part.size_bytes % target.sector_bytes
        assert (part.type, part.uuid, part.name, part.role) == (was.type, was.uuid, was.name, was.role)
        if part.role is Role.EXTENDED:
            inside = [each for each in slots if each.role is Role.LOGICAL]
            assert all(part.start_bytes < each.start_bytes and each.end_bytes <= part.end_bytes for each in inside)
            others = [each for each in slots if each.role is Role.PRIMARY]
            assert all(each.end_bytes <= part.start_bytes or each.start_bytes >= part.end_bytes for each in others)
            continue
        if f"{disk.name}-part{part.number}" in recreated:
            continue
        assert part.size_bytes >= least_bytes(was)
        filesystem = was.content.size_bytes or was.size_bytes
        if part.size_bytes < filesystem and part.content.type != "swap":
            action = shrunk[f"{disk.name}-part{part.number}"]
            assert action.to_bytes == part.size_bytes >= (was.content.min_bytes or 0) and action.scratch_bytes > 0
    lost = set(old) - {part.number for part in after.partitions}
    assert all(old[number].content.type == "swap" or old[number].role is Role.EXTENDED for number in lost)
    assert all(
        any(f"part{number}" in text for text in plan.warnings)
        for number in lost
        if old[number].role is not Role.EXTENDED
    )


KINDS = ("ext4", "ext4", "xfs", "swap", "swap", "vfat", "btrfs", "", "crypto_LUKS")
#: Those that a request can take anywhere.
FILES = ("ext4", "xfs", "swap", "vfat", "btrfs")


@st.composite
def contents(draw: st.DrawFn, size: int, kinds: tuple[str, ...] = KINDS) -> Content:
    kind = draw(st.sampled_from(kinds))
    used = draw(st.integers(0, size))
    least = used if kind == "ext4" and draw(st.booleans()) else None
    known = size // 4096 * 4096 if kind in ("ext4", "xfs", "btrfs") else 0
    block = draw(st.sampled_from([0, 1024, 4096, 4096])) if kind in ("ext4", "btrfs") else 0
    sector = draw(st.sampled_from([0, 512, 512, 4096])) if kind in ("xfs", "vfat") else 0
    known_used = used if draw(st.booleans()) else None
    return Content(
        type=kind, uuid=f"u{draw(st.integers(0, 9))}", size_bytes=known, used_bytes=known_used, min_bytes=least,
        block_bytes=block, sector_bytes=sector,
    )  # fmt: skip


@st.composite
def disks(draw: st.DrawFn, name: str = "vda", kinds: tuple[str, ...] = KINDS, scale: int = 1) -> Disk:
    """A disk with 0–6 partitions, aligned or not, with holes; GPT, or dos with some of them logical. `scale` makes the
    partitions larger."""
    sector = draw(st.sampled_from([512, 512, 4096]))
    kind = draw(st.sampled_from([TableKind.GPT, TableKind.DOS]))
    count = draw(st.integers(0, 6))
    unit = draw(st.sampled_from([MIB, MIB, sector, 63 * sector]))
    first_logical = draw(st.integers(1, 3)) if kind is TableKind.DOS else 99
    at = max(draw(st.sampled_from([1, 1, 2, 40])) * MIB if unit == MIB else 63 * sector, 40 * sector)
    parts: list[Partition] = []
    numbers = draw(st.permutations(range(1, count + 1))) if kind is TableKind.GPT else list(range(1, count + 1))
    extended = 0
    for index in range(count):
        logical = index >= first_logical
        if logical and not extended:
            extended = at
            at += max(unit, sector)
        elif logical:
            at += max(unit, sector)
        size = draw(st.integers(1, 400)) * scale * unit if unit >= MIB else draw(st.integers(20, 20000)) * unit
        number = 5 + index - first_logical if logical else numbers[index]
        role = Role.LOGICAL if logical else Role.PRIMARY
        uuid = "" if kind is TableKind.DOS else f"guid-{number}"
        content = draw(contents(size, kinds))
        parts.append(
            Partition(number=number, start_bytes=at, size_bytes=size, type="83", uuid=uuid, role=role, content=content)
        )
        at += size + draw(st.sampled_from([0, 0, 1, 100])) * unit
    if extended:
        end = at + draw(st.sampled_from([0, 50])) * unit
        parts.append(Partition(number=4, start_bytes=extended, size_bytes=end - extended, type="5", role=Role.EXTENDED))
        at = end
    table = Table(kind=kind, id="id", first_bytes=40 * sector, partitions=tuple(parts))
    tail = bounds_of(table, 1 << 60, sector).tail
    size = -(-(at + tail) // sector) * sector + draw(st.sampled_from([0, 100])) * MIB
    return Disk(name=name, size_bytes=size, sector_bytes=sector, table=table)
