"""The planner on one server's disk: what gives way in which order, what is refused, what is warned of."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from core.errors import TargetError
from core.layout import Content, Disk, Layout, Partition, Table, TableKind
from core.sizes import GIB, MIB, TIB
from hardware.actions import ClearTable, GrowFilesystem, MakeSwap, ShrinkFilesystem, WriteTable, WriteVolume
from hardware.machine import SiteSpot, Use, UseKind
from hardware.plan import Plan, PlanOptions, make_plan
from tests.hardware.disks import BIOS_BOOT, LINUX, SWAP_GUID
from tests.hardware.planning import check_accepted, device

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
