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
from hardware.recreate import RECREATABLE
from tests.hardware.planning import FILES, check_accepted, device, disks


def _requests(disk: Disk) -> st.SearchStrategy[frozenset[str]]:
    """Nothing, everything, or some volumes that can be made anew."""
    specs = volumes_of(Layout(disks=(disk,)))
    names = [spec.name for spec in specs if spec.content.type in RECREATABLE]
    some = st.frozensets(st.sampled_from(names)) if names else st.just(frozenset[str]())
    return st.one_of(st.just(frozenset[str]()), st.just(frozenset({"all"})), some)


@settings(max_examples=600)
@given(disks(), st.data())
def test_whatever_is_accepted_fits(disk: Disk, data: st.DataObject) -> None:
    sector = data.draw(st.sampled_from([512, 4096]))
    size = data.draw(st.one_of(st.integers(1, disk.size_bytes), st.integers(disk.size_bytes, 3 * disk.size_bytes)))
    names = [spec.name for spec in volumes_of(Layout(disks=(disk,)))]
    options = PlanOptions(
        grow=data.draw(st.sampled_from(["none", "last", *names])),
        unused=data.draw(st.sampled_from(["keep", "zero", "discard"])),
        recreate=data.draw(_requests(disk)),
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
@given(disks(), st.data())
def test_needed_size_is_neither_too_much_nor_too_little(disk: Disk, data: st.DataObject) -> None:
    layout, options = Layout(disks=(disk,)), PlanOptions(recreate=data.draw(_requests(disk)))
    need = make_plan(layout, {disk.name: device(disk.size_bytes, disk.sector_bytes)}, options).need_bytes[disk.name]
    assume(need)
    enough = make_plan(layout, {disk.name: device(need, disk.sector_bytes)}, options)
    check_accepted(layout, {disk.name: device(need, disk.sector_bytes)}, enough)
    short = make_plan(layout, {disk.name: device(need - disk.sector_bytes, disk.sector_bytes)}, options)
    assert short.refusals and short.need_bytes[disk.name] == need


@settings(max_examples=400)
@given(disks(kinds=FILES, scale=16), st.data())
def test_what_is_made_anew_fits_too(disk: Disk, data: st.DataObject) -> None:
    """Disks of filesystems alone, onto smaller ones and onto larger sectors: here a request is often enough."""
    sector = data.draw(st.sampled_from([512, 4096]))
    layout = Layout(disks=(disk,))
    targets = {disk.name: device(data.draw(st.integers(disk.size_bytes // 2, 2 * disk.size_bytes)), sector)}
    plan = make_plan(layout, targets, PlanOptions(recreate=data.draw(_requests(disk))))
    if not plan.refusals:
        check_accepted(layout, targets, plan)


@settings(max_examples=300)
@given(disks(), st.data())
def test_a_request_only_widens_what_is_accepted(disk: Disk, data: st.DataObject) -> None:
    """Where no request is needed nothing is made anew; a request never needs a larger disk."""
    layout = Layout(disks=(disk,))
    targets = {disk.name: device(data.draw(st.integers(1, 2 * disk.size_bytes)), disk.sector_bytes)}
    without, with_it = make_plan(layout, targets), make_plan(layout, targets, PlanOptions(recreate=frozenset({"all"})))
    assert with_it.need_bytes.get(disk.name, 0) <= without.need_bytes.get(disk.name, 0)
    if not without.refusals:
        assert with_it.actions == without.actions
