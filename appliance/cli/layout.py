"""`refloat layout`: the storage stack of this machine, as an image would record it.

May import `appliance`, `hardware`, `core`.
"""

from __future__ import annotations

import click
import msgspec

from appliance.cli.common import Context, command, plain
from core.layout import Content, Layout, LvKind, Role, partition_node, volumes_of
from core.run import SystemRunner
from core.sizes import format_size
from hardware.inventory import firmware_mode, probe_inventory
from hardware.machine import DeviceKind
from hardware.read import DiskSource, read_layout


@click.command()
@command()
@click.argument("disks", nargs=-1, metavar="[DISK]...")
def layout(context: Context, disks: tuple[str, ...]) -> None:
    """Print what DISKs hold and what stands on it: tables, md, LUKS, LVM, filesystems. Reads only.

    Without DISK: every fixed disk of this machine. A volume marked * is in an image.

    \b
    refloat layout
    refloat layout /dev/sda /dev/sdb --json
    """
    runner = SystemRunner()
    if not disks:
        devices = probe_inventory(runner).devices
        disks = tuple(each.path for each in devices if each.kind is DeviceKind.DISK and not each.removable)
    read = read_layout([DiskSource(path) for path in disks], runner, firmware_mode())
    context.emit(msgspec.to_builtins(read), lambda: _page(context, read))


def _page(context: Context, read: Layout) -> None:
    imaged = {spec.name for spec in volumes_of(read)}

    def line(depth: int, name: str, size_bytes: int, what: str) -> None:
        mark = "*" if name in imaged else " "
        context.print(
            f"{mark} {'  ' * depth}{plain(name):{30 - 2 * depth}} {format_size(size_bytes):>10}  {plain(what)}"
        )

    for disk in read.disks:
        table = f"{disk.table.kind} table" if disk.table else _held(disk.content)
        line(0, disk.name, disk.size_bytes, f"{table}  {disk.model} {disk.serial}".strip())
        for part in disk.table.partitions if disk.table else ():
            what = "extended" if part.role is Role.EXTENDED else _held(part.content)
            line(1, partition_node(disk.name, part.number), part.size_bytes, what)
    for array in read.arrays:
        state = ", degraded" if array.degraded else ""
        line(
            0,
            array.name,
            array.size_bytes,
            f"{array.level} on {', '.join(array.members)}{state}: {_held(array.content)}",
        )
    for crypt in read.crypts:
        line(0, crypt.name, crypt.size_bytes, f"LUKS{crypt.version} on {crypt.node}: {_held(crypt.content)}")
    for group in read.groups:
        on = ", ".join(pv.node for pv in group.pvs)
        line(0, group.name, group.size_bytes, f"volume group on {on}, {format_size(group.free_bytes)} free")
        for volume in group.volumes:
            what = "thin pool" if volume.kind is LvKind.POOL else _held(volume.content)
            line(1, volume.node, volume.size_bytes, f"{what} in {volume.pool}" if volume.pool else what)


def _held(content: Content) -> str:
    return f"{content.type} {content.label}".strip() if content.type else "nothing recognised"
