"""The planner on generated disks: whatever it accepts fits, covers every volume once, and hurts nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from core.errors import TargetError
from core.layout import Content, Disk, Layout, Partition, Role, Table, TableKind, VolumeRole, volumes_of
from core.sizes import GIB, MIB, TIB
from hardware.actions import (
    AnyAction,
    ClearSpace,
    ClearTable,
    GrowFilesystem,
    MakeSwap,
    ShrinkFilesystem,
    WriteTable,
    WriteVolume,
)
from hardware.draft import PlanOptions
from hardware.machine import Device, SiteSpot, Use, UseKind
from hardware.placement import bounds_of, least_bytes
from hardware.plan import Plan, describe, make_plan, plan_as_dict
from tests.hardware.disks import BIOS_BOOT, LINUX, SWAP_GUID


def device(size: int, sector: int = 512, path: str = "/dev/vdz", **fields: object) -> Device:
    base = Device(path=path, name=path.rsplit("/", 1)[-1], size_bytes=size, sector_bytes=sector, spots=())
    return msgspec.structs.replace(base, **fields)


def check_accepted(layout: Layout, targets: dict[str, Device], plan: Plan, options: PlanOptions | None = None) -> None:
    """Everything that must hold of a plan without refusals for whole disks."""
    assert not plan.refusals
    paths = {target.path for target in targets.values()}
    assert {action.path for action in plan.actions if not isinstance(action, ShrinkFilesystem)} <= paths
    _check_order(plan.actions)
    volumes = [spec for spec in volumes_of(layout) if spec.disk in targets]
    written = [action for action in plan.actions if isinstance(action, WriteVolume)]
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
        MakeSwap: 1,
        GrowFilesystem: 2,
    }
    ranks = [rank[type(action)] for action in actions]
    assert ranks == sorted(ranks)
    tabled: set[str] = set()
    for action in actions:
        if isinstance(action, ClearTable | WriteTable):
            tabled.add(action.disk)
        elif isinstance(action, WriteVolume | MakeSwap | ClearSpace):
            assert action.disk in tabled


def _check_disk(disk: Disk, target: Device, written: list[WriteVolume], plan: Plan) -> None:
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
        assert (each.offset_bytes, each.keep) == (part.start_bytes, ())
        assert each.size_bytes == min(part.size_bytes, spec.size_bytes)
        if each.volume in grows:
            assert grows[each.volume].to_bytes == part.size_bytes > spec.size_bytes


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


@st.composite
def contents(draw: st.DrawFn, size: int) -> Content:
    kind = draw(st.sampled_from(["ext4", "ext4", "xfs", "swap", "swap", "vfat", "btrfs", "", "crypto_LUKS"]))
    used = draw(st.integers(0, size))
    least = used if kind == "ext4" and draw(st.booleans()) else None
    known = size // 4096 * 4096 if kind in ("ext4", "xfs", "btrfs") else 0
    return Content(type=kind, uuid=f"u{draw(st.integers(0, 9))}", size_bytes=known, used_bytes=used, min_bytes=least)


@st.composite
def disks(draw: st.DrawFn, name: str = "vda") -> Disk:
    """A disk with 0–6 partitions, aligned or not, with holes; GPT, or dos with some of them logical."""
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
        size = draw(st.integers(1, 400)) * unit if unit >= MIB else draw(st.integers(20, 20000)) * unit
        number = 5 + index - first_logical if logical else numbers[index]
        role = Role.LOGICAL if logical else Role.PRIMARY
        uuid = "" if kind is TableKind.DOS else f"guid-{number}"
        content = draw(contents(size))
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


@settings(max_examples=400)
@given(disks(), st.data())
def test_whatever_is_accepted_fits(disk: Disk, data: st.DataObject) -> None:
    sector = data.draw(st.sampled_from([512, 4096]))
    size = data.draw(st.one_of(st.integers(1, disk.size_bytes), st.integers(disk.size_bytes, 3 * disk.size_bytes)))
    names = [spec.name for spec in volumes_of(Layout(disks=(disk,)))]
    options = PlanOptions(
        grow=data.draw(st.sampled_from(["none", "last", *names])),
        unused=data.draw(st.sampled_from(["keep", "zero", "discard"])),
    )
    layout, targets = Layout(disks=(disk,)), {disk.name: device(size, sector)}
    plan = make_plan(layout, targets, options)
    if plan.refusals:
        assert not plan.actions
        with pytest.raises(TargetError):
            plan.require()
    else:
        check_accepted(layout, targets, plan)
        plan.require()
    assert len(describe(plan)) == len(plan.actions) + len(plan.warnings) + len(plan.refusals)
    as_json = msgspec.json.decode(msgspec.json.encode(plan_as_dict(plan)))
    assert msgspec.convert(as_json["actions"], tuple[AnyAction, ...]) == plan.actions
    assert [each["message"] for each in as_json["refusals"]] == [each.message for each in plan.refusals]


@settings(max_examples=200)
@given(disks(), st.integers(0, 1 << 40))
def test_same_or_larger_disk_keeps_every_place(disk: Disk, more: int) -> None:
    assume(disk.table is not None)
    plan = make_plan(Layout(disks=(disk,)), {disk.name: device(disk.size_bytes + more, disk.sector_bytes)})
    check_accepted(Layout(disks=(disk,)), {disk.name: device(disk.size_bytes + more, disk.sector_bytes)}, plan)
    (table,) = [action.table for action in plan.actions if isinstance(action, WriteTable)]
    assert table == disk.table
    assert not any(isinstance(action, ShrinkFilesystem | GrowFilesystem) for action in plan.actions)


@settings(max_examples=300)
@given(disks())
def test_needed_size_is_neither_too_much_nor_too_little(disk: Disk) -> None:
    layout = Layout(disks=(disk,))
    need = make_plan(layout, {disk.name: device(disk.size_bytes, disk.sector_bytes)}).need_bytes[disk.name]
    assume(need)
    enough = make_plan(layout, {disk.name: device(need, disk.sector_bytes)})
    check_accepted(layout, {disk.name: device(need, disk.sector_bytes)}, enough)
    short = make_plan(layout, {disk.name: device(need - disk.sector_bytes, disk.sector_bytes)})
    assert short.refusals and short.need_bytes[disk.name] == need


# one server's disk, step by step smaller


def server(*, sector: int = 512) -> Disk:
    """BIOS-boot 1 MiB, /boot ext4 512 MiB, swap 2 GiB, xfs 10 GiB, root ext4 20 GiB (8 used), 5 GiB free at the end."""

    def part(number: int, start: int, size: int, kind: str, guid: str = LINUX, least: int | None = None) -> Partition:
        content = Content(
            type=kind, uuid=f"uuid-{number}", size_bytes=size if kind in ("ext4", "xfs") else 0, min_bytes=least
        )
        return Partition(
            number=number, start_bytes=start * MIB, size_bytes=size, type=guid, uuid=f"GUID-{number}", content=content
        )

    parts = (
        part(1, 1, MIB, "", BIOS_BOOT),
        part(2, 2, 512 * MIB, "ext4", least=100 * MIB),
        part(3, 514, 2 * GIB, "swap", SWAP_GUID),
        part(4, 514 + 2048, 10 * GIB, "xfs"),
        part(5, 514 + 2048 + 10240 + 100, 20 * GIB, "ext4", least=8 * GIB),
    )
    table = Table(kind=TableKind.GPT, id="DISK", first_bytes=34 * 512, partitions=parts)
    return Disk(name="sda", size_bytes=40 * GIB, sector_bytes=sector, table=table)


def plan_for(size: int, disk: Disk | None = None, **fields: object) -> Plan:
    disk = disk or server()
    return make_plan(Layout(disks=(disk,)), {"sda": device(size, **fields)})  # type: ignore[arg-type]


def table_in(plan: Plan) -> dict[int, Partition]:
    (action,) = [each for each in plan.actions if isinstance(each, WriteTable)]
    return {part.number: part for part in action.table.partitions}


OLD = {part.number: part for part in server().table.partitions}  # type: ignore[union-attr]
END = OLD[5].end_bytes


def test_free_space_at_the_end_gives_way_first() -> None:
    assert table_in(plan_for(END + 33 * 512)) == OLD


def test_then_space_between_partitions_and_only_what_follows_it_moves() -> None:
    placed = table_in(plan_for(END))
    assert {number for number in OLD if placed[number] != OLD[number]} == {5}
    assert placed[5].size_bytes == OLD[5].size_bytes and placed[5].start_bytes == OLD[4].end_bytes


def test_then_swap_and_what_lies_before_it_stays() -> None:
    plan = plan_for(END - GIB)
    placed = table_in(plan)
    assert [placed[number] for number in (1, 2)] == [OLD[number] for number in (1, 2)]
    assert 64 * MIB <= placed[3].size_bytes < OLD[3].size_bytes
    assert placed[5].size_bytes == OLD[5].size_bytes
    assert any("swap shrinks" in text for text in plan.warnings)
    assert not any(isinstance(action, ShrinkFilesystem) for action in plan.actions)


def test_then_the_ext_filesystem_that_has_most_to_give() -> None:
    plan = plan_for(END - 6 * GIB)
    placed = table_in(plan)
    assert placed[2] == OLD[2] and placed[3].size_bytes == 64 * MIB
    assert placed[4].size_bytes == OLD[4].size_bytes
    (shrink,) = [action for action in plan.actions if isinstance(action, ShrinkFilesystem)]
    assert (shrink.volume, shrink.from_bytes) == ("sda-part5", 20 * GIB)
    assert shrink.to_bytes == placed[5].size_bytes < 20 * GIB
    assert plan.actions[0] == shrink and plan.scratch_bytes == shrink.scratch_bytes


def test_then_swap_is_left_out_with_a_warning_and_then_it_is_refused() -> None:
    need = plan_for(40 * GIB).need_bytes["sda"]
    plan = plan_for(need)
    assert 3 not in table_in(plan) and any("left out" in text for text in plan.warnings)
    refused = plan_for(need - 512)
    with pytest.raises(TargetError) as caught:
        refused.require()
    assert str(need) in caught.value.message and "sda-part4 with xfs 10.0 GiB" in caught.value.message
    assert caught.value.hint


def test_growing() -> None:
    layout, bigger = Layout(disks=(server(),)), {"sda": device(80 * GIB)}
    last = make_plan(layout, bigger, PlanOptions(grow="last"))
    assert table_in(last)[5].end_bytes > 79 * GIB
    (grown,) = [action for action in last.actions if isinstance(action, GrowFilesystem)]
    assert (grown.volume, grown.to_bytes) == ("sda-part5", table_in(last)[5].size_bytes) and last.actions[-1] == grown
    middle = make_plan(layout, bigger, PlanOptions(grow="sda-part4"))
    placed = table_in(middle)
    assert placed[3] == OLD[3] and placed[4].size_bytes > 50 * GIB and placed[5].size_bytes == OLD[5].size_bytes
    assert "sda-part4" in [action.volume for action in middle.actions if isinstance(action, GrowFilesystem)]
    head = make_plan(layout, bigger, PlanOptions(grow="sda-part1"))
    assert any("grows" in text and "does not" in text for text in head.warnings)


def test_head_keeps_the_tables_own_bytes() -> None:
    def head(plan: Plan) -> WriteVolume:
        return next(action for action in plan.actions if isinstance(action, WriteVolume) and action.offset_bytes == 0)

    assert head(plan_for(40 * GIB)).keep == ((440, 34 * 512),)
    assert head(plan_for(40 * GIB, server(sector=4096), sector_bytes=4096)).keep == ((440, 512), (4096, 6 * 4096))
    assert head(plan_for(40 * GIB, server(sector=4096), sector_bytes=512)).keep == ((440, 6 * 4096),)
    dos = replace(server(), table=replace(server().table, kind=TableKind.DOS))  # type: ignore[type-var]
    assert head(plan_for(40 * GIB, dos)).keep == ((440, 512),)


def test_512_onto_4096_is_refused_and_4096_onto_512_warned() -> None:
    assert "sectors of 512 bytes" in plan_for(80 * GIB, sector_bytes=4096).refusals[0].message
    plan = plan_for(80 * GIB, server(sector=4096), sector_bytes=512)
    assert not plan.refusals and "install the boot loader again" in plan.warnings[0]


def test_dos_beyond_2_tib() -> None:
    disk = replace(server(), table=replace(server().table, kind=TableKind.DOS))  # type: ignore[type-var]
    targets = {"sda": device(4 * TIB)}
    plan = make_plan(Layout(disks=(disk,)), targets, PlanOptions(grow="last"))
    check_accepted(Layout(disks=(disk,)), targets, plan)
    assert table_in(plan)[5].end_bytes <= 2 * TIB and "dos table" in plan.warnings[0]


MOUNTED = Use(kind=UseKind.MOUNTED, device="/dev/vdz2", where="/srv", start_bytes=2 * MIB)
SITE = SiteSpot(start_bytes=2 * MIB, what="ext4 with refloat-site.json", certain=True, uuid="other")
UNSEEN = SiteSpot(start_bytes=2 * MIB, what="LVM2_member, which cannot be looked into", certain=False, uuid="other")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"uses": (MOUNTED,)}, "mounted at /srv"),
        ({"uses": (replace(MOUNTED, where="/run/live/medium"),)}, "this machine runs from it"),
        ({"uses": (replace(MOUNTED, kind=UseKind.SWAP),)}, "swap"),
        ({"uses": (replace(MOUNTED, kind=UseKind.HOLDER, where="/dev/dm-0"),)}, "part of /dev/dm-0"),
        ({"uses": (replace(MOUNTED, kind=UseKind.UNKNOWN, where="I/O error", start_bytes=None),)}, "cannot be told"),
        ({"read_only": True}, "read-only"),
        ({"spots": None}, "nobody has looked"),
        ({"spots": (SITE,)}, "holds a site"),
        ({"spots": (UNSEEN,)}, "nobody can tell"),
        ({"size": 0}, "no size"),
    ],
)
def test_refused_targets(fields: dict[str, Any], says: str) -> None:
    plan = make_plan(Layout(disks=(server(),)), {"sda": device(**{"size": 40 * GIB, **fields})})
    assert any(says in refusal.message for refusal in plan.refusals) and all(refusal.hint for refusal in plan.refusals)
    assert not plan.actions
    with pytest.raises(TargetError, match=says):
        plan.require()


def test_what_nobody_can_look_into_is_overwritten_when_it_is_the_servers_own_or_when_told() -> None:
    layout = Layout(disks=(server(),))
    own = replace(UNSEEN, uuid="uuid-5")
    assert not make_plan(layout, {"sda": device(40 * GIB, spots=(own,))}).refusals
    target = {"sda": device(40 * GIB, spots=(UNSEEN,))}
    assert not make_plan(layout, target, PlanOptions(overwrite_unseen=True)).refusals
    target = {"sda": device(40 * GIB, spots=(SITE,))}
    assert make_plan(layout, target, PlanOptions(overwrite_unseen=True)).refusals


def test_all_refusals_are_told_at_once() -> None:
    plan = plan_for(GIB, uses=(MOUNTED,), spots=(SITE,), read_only=True)
    with pytest.raises(TargetError) as caught:
        plan.require()
    assert len(plan.refusals) == 4 and len(caught.value.fields["refusals"]) == 4  # type: ignore[arg-type]


def two_disks() -> Layout:
    return Layout(disks=(server(), replace(server(), name="sdb")))


def test_one_device_for_two_disks() -> None:
    one = device(40 * GIB)
    assert "same device" in make_plan(two_disks(), {"sda": one, "sdb": one}).refusals[0].message
    left, right = device(40 * GIB, path="/dev/a", wwn="0x5000c5"), device(40 * GIB, path="/dev/b", wwn="0x5000c5")
    assert "same device" in make_plan(two_disks(), {"sda": left, "sdb": right}).refusals[0].message
    left, right = device(40 * GIB, path="/dev/a", wwn="0"), device(40 * GIB, path="/dev/b", wwn="0")
    targets = {"sda": left, "sdb": right}
    check_accepted(two_disks(), targets, make_plan(two_disks(), targets))


def test_disks_without_target_are_named() -> None:
    plan = make_plan(two_disks(), {"sdb": device(40 * GIB)})
    assert not plan.refusals and plan.warnings == ("sda is not restored: no target is given for it",)
    assert make_plan(two_disks(), {"sdb": device(40 * GIB)}, PlanOptions(only=frozenset({"sda"}))).refusals
    only = make_plan(two_disks(), {"sdb": device(40 * GIB)}, PlanOptions(only=frozenset({"sdb"})))
    assert not only.refusals and not only.warnings
    assert make_plan(two_disks(), {}).refusals


@pytest.mark.parametrize(
    "options",
    [PlanOptions(only=frozenset({"sdx"})), PlanOptions(grow="sdx"), PlanOptions(unused="burn")],
)
def test_requests_that_make_no_sense(options: PlanOptions) -> None:
    assert make_plan(Layout(disks=(server(),)), {"sda": device(40 * GIB)}, options).refusals
    assert make_plan(Layout(disks=(server(),)), {"sdq": device(40 * GIB)}).refusals


def some(*names: str, present: Disk | None = None, **fields: object) -> Plan:
    options = PlanOptions(only=frozenset(names), present={"sda": present} if present else {})
    return make_plan(Layout(disks=(server(),)), {"sda": device(40 * GIB, **fields)}, options)  # type: ignore[arg-type]


def test_single_volumes_go_into_the_partitions_that_are_there() -> None:
    moved = tuple(replace(part, start_bytes=part.start_bytes + 8 * MIB) for part in OLD.values())
    present = replace(server(), table=replace(server().table, partitions=moved))  # type: ignore[type-var]
    plan = some("sda-part4", "sda-part5", present=present)
    assert [(each.volume, each.offset_bytes) for each in plan.actions if isinstance(each, WriteVolume)] == [
        ("sda-part4", OLD[4].start_bytes + 8 * MIB),
        ("sda-part5", OLD[5].start_bytes + 8 * MIB),
    ]
    assert len(plan.actions) == 2


def test_single_volumes_only_ask_for_their_own_partitions() -> None:
    elsewhere = replace(MOUNTED, where="/", start_bytes=OLD[2].start_bytes)
    assert not some("sda-part5", present=server(), uses=(elsewhere,), spots=(SITE,)).refusals
    assert some("sda-part2", present=server(), uses=(elsewhere,)).refusals
    assert some("sda-part5", present=server(), uses=(replace(elsewhere, start_bytes=None),)).refusals
    assert some("sda-part2", present=server(), spots=(SITE,)).refusals


def test_single_volumes_without_a_partition_for_them() -> None:
    assert "no partitions" in some("sda-part5").refusals[0].message
    fewer = replace(server(), table=replace(server().table, partitions=tuple(OLD.values())[:4]))  # type: ignore[type-var]
    assert "no partition for it" in some("sda-part5", present=fewer).refusals[0].message
    small = tuple(replace(part, size_bytes=MIB) for part in OLD.values())
    less = replace(server(), table=replace(server().table, partitions=small))  # type: ignore[type-var]
    assert "has 1048576 bytes" in some("sda-part5", present=less).refusals[0].message


def test_boot_code_alone() -> None:
    (write,) = some("sda-head", present=server()).actions
    assert isinstance(write, WriteVolume) and write.keep == ((440, 34 * 512),)
    dos = replace(server(), table=replace(server().table, kind=TableKind.DOS))  # type: ignore[type-var]
    assert some("sda-head", present=dos).refusals


def bare(kind: str, least: int | None = None) -> Layout:
    content = Content(type=kind, uuid="u", size_bytes=10 * GIB, min_bytes=least)
    return Layout(disks=(Disk(name="sda", size_bytes=10 * GIB, sector_bytes=512, content=content),))


def test_bare_filesystem() -> None:
    for size, options in ((10 * GIB, PlanOptions()), (30 * GIB, PlanOptions(grow="last"))):
        targets = {"sda": device(size)}
        plan = make_plan(bare("xfs"), targets, options)
        check_accepted(bare("xfs"), targets, plan)
        assert [type(action) for action in plan.actions][:2] == [ClearTable, WriteVolume]
        assert any(isinstance(action, GrowFilesystem) for action in plan.actions) == (size > 10 * GIB)
    assert make_plan(bare("xfs"), {"sda": device(10 * GIB - 512)}).refusals
    smaller = make_plan(bare("ext4", GIB), {"sda": device(5 * GIB + 512)})
    shrink, _clear, write = smaller.actions
    assert isinstance(shrink, ShrinkFilesystem) and isinstance(write, WriteVolume)
    assert shrink.to_bytes == write.size_bytes == 5 * GIB
    swap = make_plan(bare("swap"), {"sda": device(GIB)})
    assert [type(action) for action in swap.actions] == [ClearTable, MakeSwap]


def test_layout_that_no_disk_has() -> None:
    overlapping = tuple(replace(part, start_bytes=MIB) for part in OLD.values())
    outside = (replace(OLD[1], start_bytes=50 * GIB),)
    doubled = (OLD[1], replace(OLD[2], number=1))
    for parts in (overlapping, outside, doubled):
        disk = replace(server(), table=replace(server().table, partitions=parts))  # type: ignore[type-var]
        assert "makes no sense" in plan_for(80 * GIB, disk).refusals[0].message


def test_reserved_attributes_are_left_out_and_told() -> None:
    parts = (replace(OLD[1], attrs=1 << 2 | 1 << 20 | 1 << 60), *tuple(OLD.values())[1:])
    plan = plan_for(40 * GIB, replace(server(), table=replace(server().table, partitions=parts)))  # type: ignore[type-var]
    assert table_in(plan)[1].attrs == 1 << 2 | 1 << 60 and "reserved" in plan.warnings[0]
