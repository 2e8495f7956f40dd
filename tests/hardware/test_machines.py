"""Machines of the field (`tests/machines/*.json`): how their disks are called, and what the planner says.

Each file holds a layout, the inventory of the machine to restore onto, and cases: `targets` (disk → what a person
types), options, and what must be refused or warned of. A bug met in the field adds a file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from core.layout import Layout
from hardware.actions import WriteTable
from hardware.machine import Inventory, find_device, tokens
from hardware.plan import PlanOptions, describe, make_plan
from tests.hardware.planning import check_accepted
from tests.hardware.stacks import check_stack

FOLDER = Path(__file__).parent.parent / "machines"
MACHINES = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.json"))}
CASES = [
    pytest.param(machine, case, id=f"{name}-{number}")
    for name, machine in MACHINES.items()
    for number, case in enumerate(machine["cases"])
]


def test_there_are_enough_machines() -> None:
    assert len(MACHINES) >= 12


@pytest.mark.parametrize("name", MACHINES)
def test_every_device_has_a_name_of_its_own(name: str) -> None:
    inventory = msgspec.convert(MACHINES[name]["inventory"], Inventory)
    named = tokens(inventory)
    assert len(set(named.values())) == len(inventory.devices) == len(named)
    for device in inventory.devices:
        assert find_device(inventory, named[device.path]) == device
        assert find_device(inventory, device.path) == device


@pytest.mark.parametrize("name", MACHINES)
def test_layout_survives_json(name: str) -> None:
    layout = msgspec.convert(MACHINES[name]["layout"], Layout)
    assert msgspec.json.decode(msgspec.json.encode(layout), type=Layout) == layout


@pytest.mark.parametrize(("machine", "case"), CASES)
def test_plan(machine: dict[str, Any], case: dict[str, Any]) -> None:
    layout = msgspec.convert(machine["layout"], Layout)
    inventory = msgspec.convert(machine["inventory"], Inventory)
    targets = {name: find_device(inventory, text) for name, text in case["targets"].items()}
    options = PlanOptions(
        only=frozenset(case.get("only", ())),
        grow=case.get("grow", "none"),
        overwrite_unseen=case.get("overwrite_unseen", False),
        firmware=case.get("firmware", ""),
        repair=case.get("repair", False),
        without_md=case.get("without_md", False),
        recreate=frozenset(case.get("recreate", ())),
    )
    plan = make_plan(layout, targets, options)
    text = "\n".join(describe(plan))
    for word in case.get("refused", ()):
        assert any(word in refusal.message for refusal in plan.refusals), text
    assert bool(plan.refusals) == ("refused" in case), text
    for word in case.get("warns", ()):
        assert any(word in warning for warning in plan.warnings), text
    assert bool(plan.warnings) == ("warns" in case), text
    if not plan.refusals and (layout.groups or case.get("firmware")):
        check_stack(layout, targets, plan, options.recreate)
    elif not plan.refusals:
        check_accepted(layout, targets, plan)


def test_smaller_disk_for_a_dos_table_keeps_the_extended_partition_around_its_logicals() -> None:
    machine = MACHINES["dos-logical"]
    layout = msgspec.convert(machine["layout"], Layout)
    target = find_device(msgspec.convert(machine["inventory"], Inventory), "SSD240")
    plan = make_plan(layout, {"sda": target})
    (table,) = [action.table for action in plan.actions if isinstance(action, WriteTable)]
    parts = {part.number: part for part in table.partitions}
    assert sorted(parts) == [1, 2, 5, 6]
    assert layout.disks[0].table is not None and parts[1] == layout.disks[0].table.partitions[0]
    assert parts[2].end_bytes >= parts[6].end_bytes and parts[2].start_bytes < parts[5].start_bytes
    assert parts[6].size_bytes >= 105 << 30
