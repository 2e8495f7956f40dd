"""Contents that were read where volumes hold still, put into the layout."""

from __future__ import annotations

from appliance.contents import with_contents
from core.layout import (
    Array,
    Content,
    Crypt,
    Disk,
    Group,
    Layout,
    LogicalVolume,
    LvKind,
    Partition,
    PhysicalVolume,
    Table,
    TableKind,
    volumes_of,
)  # fmt: skip

GIB = 1 << 30


def test_every_node_gets_its_own_and_nothing_else_changes() -> None:
    parts = (
        Partition(number=1, start_bytes=1 << 20, size_bytes=GIB, type="83", content=Content(type="ext4", uuid="a")),
        Partition(number=2, start_bytes=2 * GIB, size_bytes=GIB, type="8e", content=Content(type="LVM2_member")),
    )
    table = Table(kind=TableKind.DOS, id="1", partitions=parts)
    volume = LogicalVolume(
        name="root",
        node="vg0-root",
        uuid="u",
        kind=LvKind.LINEAR,
        size_bytes=GIB,
        content=Content(type="xfs", uuid="b"),
    )
    layout = Layout(
        disks=(
            Disk(name="vda", size_bytes=4 * GIB, sector_bytes=512, table=table),
            Disk(name="vdb", size_bytes=GIB, sector_bytes=512, content=Content(type="ext4", uuid="c")),
        ),
        arrays=(Array(name="md0", uuid="m", level="raid1", metadata="1.2", slots=2, size_bytes=GIB, members=()),),
        crypts=(Crypt(name="safe", node="md0", uuid="l", version=2, header_bytes=1 << 24, size_bytes=GIB - (1 << 24)),),
        groups=(
            Group(
                name="vg0", uuid="g", extent_bytes=1 << 22, size_bytes=GIB, free_bytes=0,
                pvs=(PhysicalVolume(node="vda-part2", uuid="p", size_bytes=GIB),), volumes=(volume,),
            ),
        ),
    )  # fmt: skip
    specs = {spec.name: spec.content for spec in volumes_of(layout)}
    fresh = {
        name: Content(type=specs[name].type, uuid=specs[name].uuid, used_bytes=number)
        for number, name in enumerate(("vda-part1", "vdb", "safe", "vg0-root"), 1)
    }
    found = with_contents(layout, fresh)
    assert {spec.name: spec.content for spec in volumes_of(found)} == {**specs, **fresh}
    assert with_contents(found, {name: specs[name] for name in fresh}) == layout
