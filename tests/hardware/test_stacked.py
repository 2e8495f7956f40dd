"""Planning stacks: on generated ones whatever is accepted fits; and the cases a person would think of."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from core.layout import Array, Content, Crypt, Group, Layout, LogicalVolume, LvKind, PhysicalVolume
from core.sizes import GIB, MIB
from hardware.actions import (
    AnyAction,
    GrowFilesystem,
    LeaveArray,
    MakeArray,
    MakeEsp,
    MakeGroup,
    RecreateFilesystem,
    RepairBoot,
    RetireTwin,
    ShrinkFilesystem,
    WriteTable,
    WriteVolume,
)
from hardware.firmware import BIOS_BOOT, ESP
from hardware.machine import Device, DeviceKind, Remnant, RemnantKind, Use, UseKind
from hardware.plan import Plan, PlanOptions, make_plan
from tests.hardware.planning import device
from tests.hardware.stacks import EXTENT, carrier, check_stack, disk, stacks


@settings(max_examples=500)
@given(stacks(), st.data())
def test_whatever_is_accepted_fits(layout: Layout, data: st.DataObject) -> None:
    targets = {}
    for number, each in enumerate(layout.disks):
        size = each.size_bytes + data.draw(st.integers(-200, 600)) * MIB
        if number == 0 or data.draw(st.booleans()):
            targets[each.name] = device(max(size, MIB), path=f"/dev/new{number}")
    nodes = [node for node, *_ in layout.stacked()]
    options = PlanOptions(
        grow=data.draw(st.sampled_from(["none", "last", *nodes])),
        firmware=data.draw(st.sampled_from(["", "bios", "uefi"])),
        repair=data.draw(st.booleans()),
        recreate=data.draw(st.sampled_from([frozenset[str](), frozenset({"all"}), frozenset(nodes[:1])])),
    )
    plan = make_plan(layout, targets, options)
    if plan.refusals:
        assert not plan.actions
    else:
        check_stack(layout, targets, plan, options.recreate)
        as_json = msgspec.json.encode(plan.actions)
        assert msgspec.json.decode(as_json, type=tuple[AnyAction, ...]) == plan.actions


@settings(max_examples=200)
@given(stacks(), st.integers(-400, 0))
def test_nothing_is_made_anew_where_the_rest_can_give_way(layout: Layout, less: int) -> None:
    targets = {
        each.name: device(max(each.size_bytes + less * MIB, MIB), path=f"/dev/new-{each.name}") for each in layout.disks
    }
    without = make_plan(layout, targets)
    with_it = make_plan(layout, targets, PlanOptions(recreate=frozenset({"all"})))
    if not without.refusals:
        assert with_it.actions == without.actions
    elif not with_it.refusals:
        assert any(isinstance(action, RecreateFilesystem) for action in with_it.actions)
        check_stack(layout, targets, with_it, frozenset({"all"}))


@settings(max_examples=200)
@given(stacks())
def test_disks_of_the_same_size_take_everything_as_it_was(layout: Layout) -> None:
    targets = {each.name: device(each.size_bytes, path=f"/dev/new-{each.name}") for each in layout.disks}
    plan = make_plan(layout, targets)
    check_stack(layout, targets, plan)
    assert not any(isinstance(action, ShrinkFilesystem | GrowFilesystem) for action in plan.actions)
    assert [action.table for action in plan.actions if isinstance(action, WriteTable)] == [
        each.table for each in layout.disks
    ]
    for action in plan.actions:
        if isinstance(action, MakeGroup):
            sizes = {volume.name: volume.size_bytes for volume in layout.groups[0].volumes}
            assert {volume.name: volume.size_bytes for volume in action.volumes} == sizes
        elif isinstance(action, MakeArray):
            assert action.size_bytes == layout.arrays[0].size_bytes


def _volume(name: str, extents: int, kind: str, least: int | None = None) -> LogicalVolume:
    size = extents * EXTENT
    content = Content(type=kind, uuid=f"fs-{name}", size_bytes=size, min_bytes=least)
    return LogicalVolume(
        name=name, node=f"vg0-{name}", uuid=name, kind=LvKind.LINEAR, size_bytes=size, content=content
    )  # fmt: skip


def _thick(boot: str = BIOS_BOOT) -> Layout:
    """A BIOS server: boot partition, and a group with an ext4 root that uses little and an xfs that cannot shrink."""
    made = disk("vda", Content(type="LVM2_member", uuid="pv"), 2 * GIB, boot)
    volumes = (_volume("root", 250, "ext4", 200 * MIB), _volume("data", 150, "xfs"), _volume("swap", 32, "swap"))
    pv = PhysicalVolume(node=carrier(made), uuid="pv", size_bytes=2 * GIB - MIB)
    free = 2 * GIB - 4 * MIB - 432 * EXTENT
    group = Group(
        name="vg0", uuid="vg", extent_bytes=EXTENT, size_bytes=2 * GIB, free_bytes=free, pvs=(pv,), volumes=volumes
    )  # fmt: skip
    firmware = "bios" if boot == BIOS_BOOT else "uefi"
    return Layout(disks=(made,), groups=(group,), firmware=firmware)


def _sizes(plan: Plan) -> dict[str, int]:
    (group,) = [action for action in plan.actions if isinstance(action, MakeGroup)]
    return {volume.name: volume.size_bytes // EXTENT for volume in group.volumes}


def test_a_smaller_disk_takes_free_extents_first_then_swap_then_ext4() -> None:
    layout = _thick()
    full = layout.disks[0].size_bytes
    assert _sizes(make_plan(layout, {"vda": device(full - 200 * MIB)})) == {"root": 250, "data": 150, "swap": 32}
    swap = make_plan(layout, {"vda": device(full - 380 * MIB)})
    assert _sizes(swap)["root"] == 250 and _sizes(swap)["data"] == 150 and 16 <= _sizes(swap)["swap"] < 32
    much = make_plan(layout, {"vda": device(full * 7 // 10)})
    assert _sizes(much)["swap"] == 16 and _sizes(much)["data"] == 150 and 55 <= _sizes(much)["root"] < 250
    (shrink,) = [action for action in much.actions if isinstance(action, ShrinkFilesystem)]
    assert shrink.volume == "vg0-root" and shrink.to_bytes == _sizes(much)["root"] * EXTENT
    none = make_plan(layout, {"vda": device(full * 4 // 10)})
    assert any("too small" in refusal.message for refusal in none.refusals)


def test_a_larger_disk_grows_the_volume_that_is_named() -> None:
    layout = _thick()
    plan = make_plan(layout, {"vda": device(layout.disks[0].size_bytes + GIB)}, PlanOptions(grow="vg0-data"))
    assert _sizes(plan)["data"] > 150 + 250 and _sizes(plan)["root"] == 250
    (grow,) = [action for action in plan.actions if isinstance(action, GrowFilesystem)]
    assert (grow.volume, grow.path, grow.to_bytes) == (
        "vg0-data",
        "/dev/mapper/vg0-data",
        _sizes(plan)["data"] * EXTENT,
    )


def test_bios_to_uefi_adds_an_efi_system_partition_after_all_others() -> None:
    layout = _thick()
    options = PlanOptions(firmware="uefi", repair=True)
    plan = make_plan(layout, {"vda": device(layout.disks[0].size_bytes + GIB)}, options)
    (table,) = [action.table for action in plan.actions if isinstance(action, WriteTable)]
    (esp,) = [part for part in table.partitions if part.type == ESP]
    assert esp.start_bytes == max(part.end_bytes for part in table.partitions if part is not esp)
    assert [action.spot.number for action in plan.actions if isinstance(action, MakeEsp)] == [esp.number]
    assert isinstance(plan.actions[-1], RepairBoot) and plan.actions[-1].firmware == "uefi"
    assert any("EFI system partition" in text for text in plan.warnings)
    # on a disk of the same size the group makes room for it
    same = make_plan(layout, {"vda": device(layout.disks[0].size_bytes)}, options)
    assert not same.refusals and _sizes(same) == {"root": 250, "data": 150, "swap": 32}


def test_uefi_to_bios_adds_a_bios_boot_partition_before_all_others() -> None:
    layout = _thick(ESP)
    plan = make_plan(layout, {"vda": device(layout.disks[0].size_bytes)}, PlanOptions(firmware="bios", repair=True))
    (table,) = [action.table for action in plan.actions if isinstance(action, WriteTable)]
    (boot,) = [part for part in table.partitions if part.type == BIOS_BOOT]
    assert 34 * 512 <= boot.start_bytes and boot.end_bytes <= MIB
    assert not any(isinstance(action, MakeEsp) for action in plan.actions)


@pytest.mark.parametrize("remnant", [
    Remnant(path="/dev/old", kind=RemnantKind.GROUP, mark="vg0"),
    Remnant(path="/dev/old", kind=RemnantKind.FILESYSTEM, mark="FS-root"),
    Remnant(path="/dev/old", kind=RemnantKind.TABLE, mark="ID-vda"),
    Remnant(path="/dev/old", kind=RemnantKind.FILESYSTEM, mark="FS-swap"),
])  # fmt: skip
def test_a_twin_on_another_disk_is_refused(remnant: Remnant) -> None:
    layout = _thick()
    target = device(layout.disks[0].size_bytes)
    other = replace(remnant, mark="another")
    assert not make_plan(layout, {"vda": target}, PlanOptions(remnants=(other,))).refusals
    (refusal,) = make_plan(layout, {"vda": target}, PlanOptions(remnants=(remnant,))).refusals
    assert refusal.subject == "/dev/old" and "either" in refusal.message and "unplug" in refusal.hint


def test_a_twin_is_retired_on_request_unless_its_disk_is_in_use() -> None:
    layout = _thick()
    target, old = device(layout.disks[0].size_bytes), device(GIB, path="/dev/old")
    twin = Remnant(path="/dev/old", kind=RemnantKind.GROUP, mark="vg0", number=2, start_bytes=MIB, size_bytes=100 * MIB)
    other = Remnant(path="/dev/old", kind=RemnantKind.GROUP, mark="vg9", number=3, start_bytes=200 * MIB)

    def plan(old: Device, *remnants: Remnant) -> Plan:
        return make_plan(layout, {"vda": target}, PlanOptions(remnants=remnants, retired={old.path: old}))

    first, *rest = plan(old, twin, other).actions
    assert isinstance(first, RetireTwin) and (first.spot.path, first.spot.number) == ("/dev/old", 2)
    assert "vg0" in first.what and not any(isinstance(each, RetireTwin) for each in rest)
    used = Use(kind=UseKind.HOLDER, device="/dev/old2", where="/dev/dm-0", start_bytes=MIB, writable=True)
    (refusal,) = plan(replace(old, uses=(used,)), twin).refusals
    assert refusal.subject == "/dev/old" and "in use" in refusal.message
    assert not plan(replace(old, uses=(replace(used, start_bytes=200 * MIB),)), twin).refusals
    again = plan(old, other)  # the same command once more, after the twins are gone
    assert not again.refusals and any("nothing is retired" in text for text in again.warnings)
    unread = Remnant(path="/dev/dead", kind=RemnantKind.UNREAD, mark="input/output error")
    (refusal,) = plan(old, twin, unread).refusals
    assert refusal.subject == "/dev/dead" and "cannot be read" in refusal.message
    copies = {"vda": replace(target, path="/dev/loop7", kind=DeviceKind.LOOP)}
    told = make_plan(layout, copies, PlanOptions(remnants=(unread,)))
    assert not told.refusals and any("/dev/dead" in text and "cannot be read" in text for text in told.warnings)


def _mirror(*members: str, level: str = "raid1") -> Array:
    content = Content(type="ext4", uuid="fs", size_bytes=GIB, min_bytes=100 * MIB)
    return Array(
        name="md0", uuid="md", label="", level=level, metadata="1.2", chunk_bytes=0, data_offset_bytes=MIB,
        size_bytes=GIB, slots=2, members=members, content=content,
    )  # fmt: skip


def test_a_mirror_of_two_containers_keeps_its_size_or_follows_the_smaller() -> None:
    disks = tuple(disk(name, Content(type="crypto_LUKS", uuid=name), GIB + 18 * MIB) for name in ("sda", "sdb"))
    crypts = tuple(
        Crypt(
            name=f"c-{each.name}", node=carrier(each), uuid=each.name, version=2, header_bytes=16 * MIB,
            sector_bytes=512, size_bytes=GIB + 2 * MIB, content=Content(type="linux_raid_member", uuid="md"),
        )
        for each in disks
    )  # fmt: skip
    layout = Layout(disks=disks, crypts=crypts, arrays=(_mirror("c-sda", "c-sdb"),))
    same = make_plan(layout, {each.name: device(each.size_bytes, path=f"/dev/{each.name}") for each in disks})
    assert [each.size_bytes for each in same.actions if isinstance(each, MakeArray)] == [GIB]
    sizes = {"sda": disks[0].size_bytes, "sdb": disks[1].size_bytes - 64 * MIB}
    less = make_plan(layout, {name: device(size, path=f"/dev/{name}") for name, size in sizes.items()})
    assert [each.size_bytes for each in less.actions if isinstance(each, MakeArray)] == [GIB - 64 * MIB]


def test_what_was_a_mirror_and_is_one_disk_now_loses_its_superblock_first() -> None:
    made = disk("sda", Content(type="linux_raid_member", uuid="md"), GIB + 2 * MIB)
    layout = Layout(disks=(made,), arrays=(_mirror(carrier(made), "gone"),))
    plan = make_plan(layout, {"sda": device(made.size_bytes)}, PlanOptions(without_md=True))
    kinds = [type(each) for each in plan.actions]
    (written,) = [n for n, each in enumerate(plan.actions) if isinstance(each, WriteVolume) and each.volume == "md0"]
    assert kinds.index(LeaveArray) < written and MakeArray not in kinds


def test_a_group_over_two_disks_is_not_restored_by_halves() -> None:
    first = disk("vda", Content(type="LVM2_member"), 256 * MIB)
    second = disk("vdb", Content(type="LVM2_member"), 256 * MIB)
    pvs = tuple(PhysicalVolume(node=carrier(each), uuid=each.name, size_bytes=252 * MIB) for each in (first, second))
    group = Group(
        name="vg0", uuid="vg", extent_bytes=EXTENT, size_bytes=504 * MIB, free_bytes=0, pvs=pvs,
        volumes=(_volume("root", 126, "ext4", MIB),),
    )  # fmt: skip
    layout = Layout(disks=(first, second), groups=(group,))
    (refusal,) = make_plan(layout, {"vda": device(first.size_bytes)}).refusals
    assert "vdb-part2" in refusal.message and refusal.subject == "vg0"


def test_what_stands_on_a_disk_without_target_is_left_alone_and_said() -> None:
    system, data = _thick(), disk("vdb", Content(type="LVM2_member"), 256 * MIB)
    pv = PhysicalVolume(node=carrier(data), uuid="pvb", size_bytes=252 * MIB)
    archive = Group(
        name="vgb", uuid="vgb", extent_bytes=EXTENT, size_bytes=252 * MIB, free_bytes=0, pvs=(pv,),
        volumes=(replace(_volume("srv", 63, "ext4"), node="vgb-srv"),),
    )  # fmt: skip
    layout = replace(system, disks=(*system.disks, data), groups=(*system.groups, archive))
    plan = make_plan(layout, {"vda": device(system.disks[0].size_bytes)})
    assert [action.name for action in plan.actions if isinstance(action, MakeGroup)] == ["vg0"]
    assert any("vgb" in text and "not restored" in text for text in plan.warnings)
    assert not any(isinstance(action, WriteVolume) and action.volume == "vgb-srv" for action in plan.actions)


def test_a_stack_does_not_go_into_an_image_file() -> None:
    layout = _thick()
    target = replace(device(layout.disks[0].size_bytes), kind=DeviceKind.FILE)
    (refusal,) = make_plan(layout, {"vda": target}).refusals
    assert "image file" in refusal.message and "losetup" in refusal.hint
