"""What other disks of the machine hold that must not be there twice: volume groups by name, arrays, filesystems and
partition tables by their ids. A snapshot, read only. Imports `core` and `hardware.{facts,machine,stack,tables}`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from core.errors import RefloatError
from core.layout import Role, Table
from core.run import Runner
from hardware.facts import Facts, Numbers, facts_of, partition_nodes
from hardware.machine import DeviceKind, Inventory, Remnant, RemnantKind
from hardware.stack.lvm import read_report
from hardware.tables import Signatures, read_table, signatures


def read_remnants(inventory: Inventory, targets: Collection[str], runner: Runner) -> tuple[Remnant, ...]:
    """Of every disk that is no target (paths). Files and loop devices do not count: no machine boots from them."""
    found: list[Remnant] = []
    carriers: dict[Numbers, _Place] = {}
    for device in inventory.devices:
        # a drive without a medium (a BMC's virtual floppy) has no size, and nothing on it
        if device.kind is not DeviceKind.DISK or device.path in targets or not device.size_bytes:
            continue
        try:
            facts = dataclasses.replace(facts_of(device.path), path=device.path)  # the name that a plan knows it by
            table, bare = read_table(facts, runner)
            whole = _Place(facts.path, facts.rdev, 0, 0, facts.size_bytes)
            if table is not None:
                found.append(whole.remnant(RemnantKind.TABLE, table.id))
            for place, seen in [(whole, bare)] if table is None else _partitions(table, facts, runner):
                if seen.type == "LVM2_member" and place.rdev is not None:
                    carriers[place.rdev] = place
                elif seen.uuid:
                    kind = RemnantKind.ARRAY if seen.type == "linux_raid_member" else RemnantKind.FILESYSTEM
                    found.append(place.remnant(kind, seen.uuid))
        except RefloatError as error:
            found.append(Remnant(path=device.path, kind=RemnantKind.UNREAD, mark=error.message))
    return (*found, *_groups(carriers, runner))


@dataclass(frozen=True)
class _Place:
    """A bare disk or one of its partitions."""

    path: str
    rdev: Numbers | None
    number: int
    start_bytes: int
    size_bytes: int

    def remnant(self, kind: RemnantKind, mark: str) -> Remnant:
        return Remnant(
            path=self.path,
            kind=kind,
            mark=mark,
            number=self.number,
            start_bytes=self.start_bytes,
            size_bytes=self.size_bytes,
        )


def _partitions(table: Table, facts: Facts, runner: Runner) -> Iterator[tuple[_Place, Signatures]]:
    nodes = {} if facts.rdev is None else partition_nodes(facts.rdev)
    for part in table.partitions:
        if part.role is not Role.EXTENDED:
            rdev = nodes[part.number][0] if part.number in nodes else None
            place = _Place(facts.path, rdev, part.number, part.start_bytes, part.size_bytes)
            yield place, signatures(facts.path, part.start_bytes, part.size_bytes, runner)


def _groups(carriers: dict[Numbers, _Place], runner: Runner) -> Iterator[Remnant]:
    if not carriers:
        return
    for row in read_report(runner, one_of_a_name=False).pvs:
        place = carriers.get(facts_of(row["pv_name"]).rdev or (-1, -1)) if row["pv_name"].startswith("/") else None
        if place and row["vg_name"]:
            yield place.remnant(RemnantKind.GROUP, row["vg_name"])
