"""Planning what stands on disks and partitions: arrays, containers, groups, and the volumes in them. Pure.

Imports `core` and `hardware.{actions,draft,machine,needs}`. Every disk has been planned before; `draft.spots` tells
where its nodes will be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from core.layout import Array, Content, Crypt, Group, Layout, LvKind, VolumeRole, VolumeSpec, volumes_of
from core.sizes import KIB, align_down, format_size
from hardware.actions import LeaveArray, MakeArray, MakeGroup, OpenCrypt, PlannedVolume, Spot
from hardware.draft import Draft
from hardware.machine import Device
from hardware.needs import PV_START_BYTES, md_overhead, pv_room

#: How many members of a whole array may be missing, by level; other levels need all of them.
_SPARE = {"raid1": -1, "raid5": 1, "raid6": 2}
_DISSOLVED = "raid1"


def plan_stack(layout: Layout, draft: Draft) -> None:
    """Everything above the disks that have a target, bottom up. What has no carrier is left out with a warning; what
    has only some of its carriers is refused, unless it is an array that lives without them."""
    _Stacking(layout, draft).plan()


class _Stacking:
    def __init__(self, layout: Layout, draft: Draft) -> None:
        self._draft = draft
        self._needs = draft.needs
        self._specs = {spec.name: spec for spec in volumes_of(layout)}
        self._lost: set[str] = set()
        self._todo: list[tuple[str, Sequence[str], Callable[[], None]]] = [
            *((f"array {each.name}", each.members, partial(self._array, each)) for each in layout.arrays),
            *((f"LUKS container {each.name}", (each.node,), partial(self._crypt, each)) for each in layout.crypts),
            *(
                (f"volume group {each.name}", tuple(pv.node for pv in each.pvs), partial(self._group, each))
                for each in layout.groups
            ),
        ]

    def plan(self) -> None:
        """Whatever has all its carriers, until nothing more has; then what lives with some; the rest is left out."""
        for enough in (all, any):
            while ready := [job for job in self._todo if enough(node in self._draft.spots for node in job[1])]:
                for job in ready:
                    self._todo.remove(job)
                    job[2]()
                    if enough is any:
                        break  # it may be what others were waiting for
        for what, nodes, _ in self._todo:
            self._draft.warnings.append(f"{what} is not restored: what it stands on ({', '.join(nodes)}) is not")

    # -- one of each ------------------------------------------------------------------------------------------------

    def _array(self, array: Array) -> None:
        draft, spots = self._draft, self._draft.spots
        there = [spots.get(node) for node in array.members]
        present = [spot for spot in there if spot is not None]
        if draft.options.without_md:
            self._dissolve(array, present)
            return
        slots: list[Spot | None] = [*there, *[None] * (array.slots - len(there))]
        missing = len(slots) - len(present)
        spare = _SPARE.get(array.level, 0)
        if missing > (spare if spare >= 0 else array.slots - 1):
            draft.refuse(array.name, f"{missing} of {array.slots} devices of this {array.level} are missing", _WHOLE)
            return
        if missing:
            draft.warnings.append(
                f"{array.name} ({array.level}) lacks {missing} of {array.slots} devices: add them with mdadm --add"
            )
        before = self._draft.sizes_before
        size = _array_size(array, [(before[node], spots[node]) for node in array.members if node in spots])
        if size is None:
            draft.refuse(array.name, f"a device of this {array.level} would be smaller than it was", _SMALLER)
            return
        path = f"/dev/{array.name}"
        draft.actions.append(
            MakeArray(
                name=array.name,
                path=path,
                uuid=array.uuid,
                label=array.label,
                level=array.level,
                metadata=array.metadata,
                chunk_bytes=array.chunk_bytes,
                data_offset_bytes=array.data_offset_bytes,
                size_bytes=size,
                members=tuple(slots),
            )
        )
        self._filled(array.name, array.content, Spot(path=path, size_bytes=size), array.size_bytes)

    def _dissolve(self, array: Array, present: Sequence[Spot]) -> None:
        """A mirror's content straight onto the first of its carriers that is there."""
        if array.level != _DISSOLVED:
            self._draft.refuse(array.name, f"a {array.level} cannot be dissolved, only a mirror can", "keep md")
            return
        if len(present) > 1:
            message = f"{len(present)} of the devices of {array.name} have a target, and without md only one is needed"
            self._draft.refuse(array.name, message, "give one target, or keep md")
            return
        self._draft.warnings.append(f"{array.name} is dissolved: its content goes onto {present[0].describe()}")
        # md's superblock may lie where the content writes nothing: at the end, or in a gap
        self._draft.actions.append(LeaveArray(spot=present[0]))
        self._filled(array.name, array.content, present[0], array.size_bytes)

    def _crypt(self, crypt: Crypt) -> None:
        spot = self._draft.spots[crypt.node]
        size = align_down(spot.size_bytes - crypt.header_bytes, max(crypt.sector_bytes, 512))
        header = self._specs.get(f"{crypt.name}-header")
        if header is None or size < crypt.sector_bytes:
            self._draft.refuse(crypt.name, "there is no room for this LUKS container, or its header is lacking", _WHOLE)
            return
        self._draft.write(header, _device(crypt.node, spot), spot.offset_bytes, header.size_bytes)
        self._draft.actions.append(OpenCrypt(name=crypt.name, uuid=crypt.uuid, spot=spot))
        inside = Spot(path=f"/dev/mapper/{crypt.name}", size_bytes=size)
        self._filled(crypt.name, crypt.content, inside, crypt.size_bytes)

    def _group(self, group: Group) -> None:
        draft = self._draft
        missing = [pv.node for pv in group.pvs if pv.node not in draft.spots]
        if missing:
            message = f"it also lies on {', '.join(missing)}, which is not restored"
            draft.refuse(group.name, message, "give every disk of the volume group a target")
            return
        pvs = tuple(draft.spots[pv.node] for pv in group.pvs)
        room = sum(pv_room(spot.size_bytes, group) for spot in pvs)
        sizes = self._needs.share(group, room, draft.options.grow)
        if sizes is None:
            need = PV_START_BYTES + self._needs.least_extents(group) * group.extent_bytes
            message = f"its volumes need {format_size(need)} at least, and there are {format_size(room)}"
            draft.refuse(group.name, message, "use larger disks")
            return
        self._say(group, sizes)
        draft.actions.append(
            MakeGroup(
                name=group.name,
                extent_bytes=group.extent_bytes,
                pvs=pvs,
                volumes=tuple(
                    PlannedVolume(
                        name=each.name,
                        kind=LvKind.LINEAR if each.kind is LvKind.OTHER else each.kind,
                        size_bytes=sizes[each.name],
                        pool=each.pool,
                        chunk_bytes=each.chunk_bytes,
                        metadata_bytes=each.metadata_bytes,
                    )
                    for each in sorted(group.volumes, key=lambda each: each.kind is LvKind.THIN)
                ),
            )
        )
        for each in group.volumes:
            if each.kind is not LvKind.POOL:
                spot = Spot(path=f"/dev/mapper/{each.node}", size_bytes=sizes[each.name])
                self._filled(each.node, each.content, spot, each.size_bytes)

    def _say(self, group: Group, sizes: dict[str, int]) -> None:
        for each in group.volumes:
            name, size = f"{group.name}/{each.name}", sizes[each.name]
            if each.kind is LvKind.OTHER:
                self._draft.warnings.append(f"{name} was not a plain volume (striped, raid, cache); it is made linear")
            if size < each.size_bytes:
                self._draft.warnings.append(f"{name} shrinks to {format_size(size)}")

    # -- what they hold ---------------------------------------------------------------------------------------------

    def _filled(self, node: str, content: Content, spot: Spot, was_bytes: int) -> None:
        """A stacked device will be at `spot`: something stands on it, or its volume is written, or swap is made."""
        self._draft.spots[node] = spot
        self._draft.sizes_before[node] = was_bytes
        spec = self._specs.get(node)
        if spec is not None and spec.role is VolumeRole.DEVICE:
            room = spot.size_bytes if spot.size_bytes < spec.size_bytes or self._grows(node, spec) else spec.size_bytes
            self._draft.write_into(spec, _device(node, spot), spot.offset_bytes, room)
        elif content.type == "swap":
            place = (spot.offset_bytes, spot.size_bytes)
            self._draft.make_swap(node, _device(node, spot), spot.number, content, place)

    def _grows(self, node: str, spec: VolumeSpec) -> bool:
        return self._draft.options.grow in (node, spec.name)


_WHOLE = "give every disk of the image a target"
_SMALLER = "use disks that are at least as large"


def _array_size(array: Array, pairs: Sequence[tuple[int, Spot]]) -> int | None:
    """The array's new size: as it was where nothing changed; a mirror follows its smallest member; None when another
    level's members got smaller. `pairs`: what each member that is there had, and where it will be."""
    if all(spot.size_bytes >= was for was, spot in pairs) and not all(spot.size_bytes > was for was, spot in pairs):
        return array.size_bytes
    if array.level != _DISSOLVED:
        return array.size_bytes if all(spot.size_bytes >= was for was, spot in pairs) else None
    return min(align_down(spot.size_bytes - md_overhead(array, was), 64 * KIB) for was, spot in pairs)


def _device(node: str, spot: Spot) -> Device:
    """A stacked device, or a partition by its disk, as the steps of a plan name it."""
    return Device(path=spot.path, name=node, size_bytes=spot.size_bytes, sector_bytes=spot.sector_bytes)
