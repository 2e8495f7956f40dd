"""What held volumes hold: read where they hold still, and put into the layout that the image records.

May import `hardware`, `core`. Nothing is kept.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from core.layout import Content, Disk, Layout, partition_node
from core.run import Runner
from hardware.contents import read_content
from hardware.facts import facts_of


def content_in(path: str, known: Content, runner: Runner) -> Content:
    """The content of a snapshot or copy; what was known before where it shows another one (it never should)."""
    facts = facts_of(path)
    found = read_content(facts, 0, facts.size_bytes, busy=False, runner=runner)
    return found if (found.type, found.uuid) == (known.type, known.uuid) else known


def with_contents(layout: Layout, contents: Mapping[str, Content]) -> Layout:
    """The layout with these contents (by node name) instead of its own."""
    return replace(
        layout,
        disks=tuple(_disk(each, contents) for each in layout.disks),
        arrays=tuple(replace(each, content=contents.get(each.name, each.content)) for each in layout.arrays),
        crypts=tuple(replace(each, content=contents.get(each.name, each.content)) for each in layout.crypts),
        groups=tuple(
            replace(
                group,
                volumes=tuple(replace(each, content=contents.get(each.node, each.content)) for each in group.volumes),
            )
            for group in layout.groups
        ),
    )


def _disk(disk: Disk, contents: Mapping[str, Content]) -> Disk:
    if disk.table is None:
        return replace(disk, content=contents.get(disk.name, disk.content))
    parts = tuple(
        replace(part, content=contents.get(partition_node(disk.name, part.number), part.content))
        for part in disk.table.partitions
    )
    return replace(disk, table=replace(disk.table, partitions=parts))
