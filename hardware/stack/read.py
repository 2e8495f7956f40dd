"""Joins md, LUKS and LVM into what a layout holds beside its disks; follows stacks of any order and depth.

Imports `core`, `hardware.{contents,facts,uses}` and its neighbours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from core.errors import SourceError
from core.layout import Array, Content, Crypt, Disk, Group, LvKind, Role, partition_node
from core.run import Runner
from hardware.contents import read_content
from hardware.facts import Facts, Numbers, facts_of, partition_nodes
from hardware.stack import luks, lvm, md
from hardware.stack.nodes import Node, facts_at
from hardware.uses import uses_of


@dataclass
class Stack:
    """What was found. `devices` gives the device numbers of every node that the kernel shows as a device."""

    arrays: list[Array] = field(default_factory=list)
    crypts: list[Crypt] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    devices: dict[str, Numbers] = field(default_factory=dict)


def read_stack(disks: Sequence[tuple[Facts, Disk]], runner: Runner) -> Stack:
    """All that runs on these disks. Raises SourceError for what spans a disk that is not among them, or is only partly
    active."""
    return _Reading(runner).read(node for facts, disk in disks for node in _nodes(facts, disk))


def _nodes(facts: Facts, disk: Disk) -> Iterable[Node]:
    if disk.table is None:
        yield Node(disk.name, facts.rdev, disk.content)
        return
    shown = {} if facts.rdev is None else partition_nodes(facts.rdev)
    at = {(start, size): rdev for rdev, start, size in shown.values()}
    for part in disk.table.partitions:
        if part.role is not Role.EXTENDED:
            node = partition_node(disk.name, part.number)
            yield Node(node, at.get((part.start_bytes, part.size_bytes)), part.content)


class _Reading:
    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._found = Stack()
        self._known: dict[Numbers, str] = {}
        self._todo: deque[Node] = deque()
        self._pvs: list[Node] = []
        self._members: dict[Numbers, None] = {}

    def read(self, nodes: Iterable[Node]) -> Stack:
        for node in nodes:
            self._add(node)
        # arrays and groups take several nodes, which must all be known first: they come when nothing else is left
        while self._todo or self._members or self._pvs:
            while self._todo:
                self._look(self._todo.popleft())
            self._arrays()
            if not self._todo:
                self._groups()
        return self._found

    def _add(self, node: Node) -> None:
        if node.name in self._found.devices or (node.rdev in self._known and node.rdev is not None):
            raise SourceError(
                f"two devices are called {node.name}, or one is named twice", hint='give disks another name: name = "…"'
            )
        if node.rdev is not None:
            self._known[node.rdev] = node.name
            self._found.devices[node.name] = node.rdev
        self._todo.append(node)

    def _look(self, node: Node) -> None:
        kind = node.content.type
        if kind == "linux_raid_member" and (array := md.array_on(node)):
            self._members[array] = None
        elif kind == "crypto_LUKS" and (mapping := luks.opened_on(node)):
            crypt = luks.read_crypt(node, mapping, self._runner)
            content = self._content(mapping)
            self._found.crypts.append(replace(crypt, content=content))
            self._add(Node(crypt.name, mapping, content))
        elif kind == "LVM2_member" and node.rdev is not None:
            self._pvs.append(node)

    def _arrays(self) -> None:
        for rdev in self._members:
            content = self._content(rdev)
            array = replace(md.read_array(rdev, self._known, self._runner), content=content)
            self._found.arrays.append(array)
            self._add(Node(array.name, rdev, content))
        self._members.clear()

    def _groups(self) -> None:
        if not self._pvs:
            return
        report = lvm.read_report(self._runner)
        names = dict.fromkeys(name for pv in self._pvs if pv.rdev and (name := lvm.group_of(report, pv.rdev)))
        self._pvs.clear()
        for name in names:
            if not lvm.is_active(report, name):
                continue
            group = lvm.read_group(report, name, self._known)
            volumes = []
            for volume in group.volumes:
                if volume.kind is LvKind.POOL:
                    volumes.append(volume)
                    continue
                rdev = _mapped(volume.node)
                content = self._content(rdev)
                volumes.append(replace(volume, content=content))
                self._add(Node(volume.node, rdev, content))
            self._found.groups.append(replace(group, volumes=tuple(volumes)))

    def _content(self, rdev: Numbers) -> Content:
        facts = facts_at(rdev)
        busy = bool(uses_of(facts.path))
        return read_content(facts, 0, facts.size_bytes, busy=busy, runner=self._runner)


def _mapped(node: str) -> Numbers:
    rdev = facts_of(f"/dev/mapper/{node}").rdev
    if rdev is None:
        raise SourceError(f"/dev/mapper/{node} is no device", hint="is udev running?")
    return rdev
