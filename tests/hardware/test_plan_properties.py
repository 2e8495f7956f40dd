"""The planner on generated disks: whatever it accepts fits, covers every volume once, and hurts nothing else."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from core.errors import TargetError
from core.layout import Disk, Layout, volumes_of
from hardware.actions import AnyAction, GrowFilesystem, ShrinkFilesystem, WriteTable
from hardware.plan import PlanOptions, describe, make_plan, plan_as_dict
from tests.hardware.planning import check_accepted, device, disks


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
