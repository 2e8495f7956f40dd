"""For planner tests: generated stacks of md, LUKS and LVM, and what must hold of every accepted plan for one."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import strategies as st
from msgspec.structs import replace

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
)
from core.sizes import MIB
from hardware.actions import (
    MakeArray,
    MakeEsp,
    MakeGroup,
    MakeSwap,
    OpenCrypt,
    RecreateFilesystem,
    Spot,
    WriteTable,
    WriteVolume,
)
from hardware.firmware import BIOS_BOOT, ESP
from hardware.machine import Device
from hardware.needs import Stackings, pv_room
from hardware.plan import Plan
from hardware.recreate import Recreating, least_recreated

EXTENT = 4 * MIB


def disk(name: str, inner: Content, size: int, boot: str = "") -> Disk:
    """GPT with a small ext4 and one large partition of `size` bytes that holds `inner`; `boot` a partition type."""
    ext4 = Content(type="ext4", uuid=f"boot-{name}", size_bytes=64 * MIB, min_bytes=20 * MIB)
    rows = [("8300", 64 * MIB, ext4), ("8E00", size, inner)]
    if boot:
        rows.insert(0, (boot, 8 * MIB, Content(type="vfat" if boot == ESP else "")))
    parts, at = [], MIB
    for number, (kind, length, content) in enumerate(rows, 1):
        uuid = f"guid-{name}-{number}"
        parts.append(Partition(number=number, start_bytes=at, size_bytes=length, type=kind, uuid=uuid, content=content))
        at += length
    table = Table(kind=TableKind.GPT, id=f"id-{name}", first_bytes=34 * 512, partitions=tuple(parts))
    return Disk(name=name, size_bytes=at + MIB, sector_bytes=512, table=table)


def carrier(made: Disk) -> str:
    """The node of the large partition."""
    assert made.table is not None
    return f"{made.name}-part{made.table.partitions[-1].number}"


@st.composite
def volumes(draw: st.DrawFn, group: str, extents: int) -> tuple[LogicalVolume, ...]:
    """Some volumes that fit into so many extents; perhaps a pool with thin ones."""
    found: list[LogicalVolume] = []
    left = extents
    for number in range(draw(st.integers(0, 4))):
        if left < 4:
            break
        count = draw(st.integers(1, left // 2))
        size = count * EXTENT
        kind = draw(st.sampled_from(["ext4", "xfs", "swap", "btrfs", ""]))
        least = draw(st.integers(0, size)) if kind == "ext4" else None
        used = draw(st.integers(0, size)) if kind in ("xfs", "btrfs") else None
        content = Content(
            type=kind, uuid=f"{group}-{number}", size_bytes=size if kind else 0, min_bytes=least, used_bytes=used
        )  # fmt: skip
        name = f"lv{number}"
        found.append(
            LogicalVolume(
                name=name, node=f"{group}-{name}", uuid=f"u{number}", kind=LvKind.LINEAR, size_bytes=size,
                content=content,
            )
        )  # fmt: skip
        left -= count
    if left >= 6 and draw(st.booleans()):
        count = draw(st.integers(1, left - 4))
        pool = LogicalVolume(
            name="pool", node=f"{group}-pool", uuid="p", kind=LvKind.POOL, size_bytes=count * EXTENT,
            chunk_bytes=65536, metadata_bytes=EXTENT,
        )  # fmt: skip
        thin = LogicalVolume(
            name="thin", node=f"{group}-thin", uuid="t", kind=LvKind.THIN, pool="pool",
            size_bytes=draw(st.integers(1, 300)) * EXTENT, content=Content(type="ext4", uuid=f"{group}-thin"),
        )  # fmt: skip
        found += [pool, thin]
    return tuple(found)


@st.composite
def stacks(draw: st.DrawFn) -> Layout:
    """One or two disks; on them a group, a mirror with a group, a container with a group, or a group over both."""
    shape = draw(st.sampled_from(["lvm", "md", "luks", "md-luks", "two-pvs", "luks-on-lv"]))
    boot = draw(st.sampled_from(["", ESP, BIOS_BOOT]))
    extents = draw(st.integers(2, 60))
    room = extents * EXTENT
    size = MIB + room + draw(st.integers(0, 3)) * MIB
    uuid = draw(st.sampled_from(["g1", "g2"]))
    arrays: list[Array] = []
    crypts: list[Crypt] = []
    node, inner = "", "LVM2_member"
    if shape.startswith("md"):
        inner, size = "linux_raid_member", size + 2 * MIB
    elif shape == "luks":
        inner, size = "crypto_LUKS", size + 16 * MIB
    if shape == "md-luks":
        size += 16 * MIB
    names = ["vda", "vdb"] if shape in ("md", "md-luks", "two-pvs") else ["vda"]
    disks = [disk(name, Content(type=inner, uuid=uuid), size, boot) for name in names]
    node = carrier(disks[0])
    if shape.startswith("md"):
        above = "crypto_LUKS" if shape == "md-luks" else "LVM2_member"
        size -= 2 * MIB
        members = tuple(carrier(each) for each in disks)
        arrays.append(
            Array(
                name="md0", uuid=uuid, level="raid1", metadata="1.2", slots=2, size_bytes=size, members=members,
                data_offset_bytes=2 * MIB, content=Content(type=above, uuid="in-md"),
            )
        )  # fmt: skip
        node = "md0"
    if shape in ("luks", "md-luks"):
        size -= 16 * MIB
        crypts.append(
            Crypt(
                name="secret", node=node, uuid="c", version=2, header_bytes=16 * MIB, size_bytes=size,
                content=Content(type="LVM2_member", uuid="in-luks"),
            )
        )  # fmt: skip
        node = "secret"
    nodes = [carrier(each) for each in disks] if shape == "two-pvs" else [node]
    inside = draw(volumes("vg0", extents * len(nodes)))
    if shape == "luks-on-lv" and inside and inside[0].kind is LvKind.LINEAR and inside[0].size_bytes > 20 * MIB:
        first = replace(inside[0], content=Content(type="crypto_LUKS", uuid="on-lv"))
        inside = (first, *inside[1:])
        crypts.append(
            Crypt(
                name="secret", node=first.node, uuid="c", version=2, header_bytes=16 * MIB,
                size_bytes=first.size_bytes - 16 * MIB, content=Content(type="xfs", uuid="in-lv-luks"),
            )
        )  # fmt: skip
    taken = sum(each.size_bytes + 2 * each.metadata_bytes for each in inside if each.kind is not LvKind.THIN)
    pvs = tuple(PhysicalVolume(node=each, uuid=f"pv-{each}", size_bytes=room) for each in nodes)
    group = Group(
        name="vg0", uuid="vg", extent_bytes=EXTENT, size_bytes=room * len(nodes),
        free_bytes=room * len(nodes) - taken, pvs=pvs, volumes=inside,
    )  # fmt: skip
    return Layout(disks=tuple(disks), arrays=tuple(arrays), crypts=tuple(crypts), groups=(group,))


def check_stack(layout: Layout, targets: dict[str, Device], plan: Plan, recreate: frozenset[str] = frozenset()) -> None:
    """What must hold of an accepted plan: every device is there before it is used, nothing overlaps, everything fits,
    and each volume of what is restored is written, or made anew, once; only confirmed disks are touched."""
    sizes = {device.path: device.size_bytes for device in targets.values()}
    paths = set(sizes)
    there: dict[str, int] = {}
    parts: dict[tuple[str, int], Partition] = {}
    taken: set[tuple[str, int]] = set()

    def take(spot: Spot) -> None:
        if spot.number:
            part = parts[spot.path, spot.number]
            assert (spot.offset_bytes, spot.size_bytes) == (part.start_bytes, part.size_bytes)
        elif spot.path in sizes:
            assert spot.size_bytes <= sizes[spot.path]
        else:
            assert there[spot.path] == spot.size_bytes
        assert (spot.path, spot.number) not in taken
        taken.add((spot.path, spot.number))

    for action in plan.actions:
        if isinstance(action, WriteTable):
            assert action.path in paths
            parts.update({(action.path, part.number): part for part in action.table.partitions})
        elif isinstance(action, MakeEsp):
            take(action.spot)
        elif isinstance(action, MakeArray):
            members = [member for member in action.members if member]
            assert members and all(member.size_bytes >= action.size_bytes + 2 * MIB for member in members)
            for member in members:
                take(member)
            there[action.path] = action.size_bytes
        elif isinstance(action, OpenCrypt):
            take(action.spot)
            header = next(each.header_bytes for each in layout.crypts if each.name == action.name)
            there[f"/dev/mapper/{action.name}"] = action.spot.size_bytes - header
        elif isinstance(action, MakeGroup):
            for pv in action.pvs:
                take(pv)
            there.update(_fits(layout, action, Recreating.of(layout, {}, recreate)))
    written = [action for action in plan.actions if isinstance(action, WriteVolume | RecreateFilesystem)]
    names = [action.volume for action in written]
    assert len(set(names)) == len(names)
    specs = {spec.name: spec for spec in volumes_of(layout)}
    for action in written:
        if action.path in there:
            assert action.offset_bytes == 0 and action.size_bytes <= there[action.path]
        else:
            assert action.path in paths
        assert action.size_bytes <= specs[action.volume].size_bytes
        if isinstance(action, RecreateFilesystem):
            least = least_recreated(specs[action.volume].content)
            assert recreate
            assert action.sector_bytes > 512 or least is not None and least <= action.size_bytes < action.from_bytes
    if set(targets) == {each.name for each in layout.disks}:
        assert sorted(names) == sorted(specs)
    else:
        assert {name for name, spec in specs.items() if spec.disk in targets} <= set(names)
    for action in plan.actions:
        if isinstance(action, MakeSwap) and action.path not in paths:
            assert action.size_bytes == there[action.path]


def _fits(layout: Layout, action: MakeGroup, recreating: Recreating) -> Iterator[tuple[str, int]]:
    group = next(each for each in layout.groups if each.name == action.name)
    needs = Stackings.of(layout, recreating=recreating)
    before = {volume.name: volume for volume in group.volumes}
    assert [volume.name for volume in action.volumes if volume.kind is LvKind.POOL] <= ["pool"]
    extents = [volume for volume in action.volumes if volume.kind is not LvKind.THIN]
    metadata = [volume.metadata_bytes for volume in extents if volume.kind is LvKind.POOL]
    room = sum(pv_room(pv.size_bytes, group) for pv in action.pvs)
    assert sum(volume.size_bytes for volume in extents) + sum(metadata) + max(metadata, default=0) <= room
    assert {volume.name for volume in action.volumes} == set(before)
    for volume in action.volumes:
        assert volume.size_bytes % group.extent_bytes == 0 and volume.size_bytes >= needs.least_volume(
            before[volume.name]
        )
        if volume.kind is not LvKind.POOL:
            yield f"/dev/mapper/{before[volume.name].node}", volume.size_bytes
