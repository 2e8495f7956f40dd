"""Doing a plan: each action by the room that knows how, what is built on the targets taken down again at the end.

May import `imager`, `hardware`, `core`. A Hand lives as long as one restore.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from appliance.opened import Opened, write_volumes
from appliance.recreate import Source, recreate
from core.layout import Content, VolumeRole
from core.monitor import Monitor
from core.run import Runner
from hardware.actions import (
    Action,
    ClearSpace,
    ClearTable,
    GrowFilesystem,
    LeaveArray,
    MakeArray,
    MakeEsp,
    MakeGroup,
    MakeSwap,
    OpenCrypt,
    RecreateFilesystem,
    RepairBoot,
    RetireTwin,
    Spot,
    WriteTable,
    WriteVolume,
)
from hardware.apply import clear_space, clear_table, grow_filesystem, is_claimed_for_partitions, make_swap, write_table
from hardware.attach import settle
from hardware.boot.make import make_bootable
from hardware.boot.values import BootReport, BootRequest, Restored
from hardware.machine import Inventory
from hardware.retire import retire
from hardware.stack import build
from imager.placing import VolumeReport, VolumeTarget
from imager.scratch import Scratch
from imager.target import Target

#: Asked for the passphrase of a LUKS container: (its name, its UUID) → the passphrase.
AskPassphrase = Callable[[str, str], bytes]
#: What is done before the image's bytes are written, in the plan's order; and what after.
PREPARING = (RetireTwin, ClearTable, WriteTable, ClearSpace, LeaveArray, MakeEsp, MakeArray, OpenCrypt, MakeGroup)
FINISHING = (RecreateFilesystem, MakeSwap, GrowFilesystem, RepairBoot)


@dataclass(frozen=True)
class Repair:
    """What the operator chose about how the restored server boots. `nic_map`: old address → new, None for the default;
    `without_md`: mirrors are dissolved onto a single disk."""

    nic_map: Mapping[str, str] | None = None
    hold_network: bool = False
    clone_as: str | None = None
    without_md: bool = False

    @property
    def parts_from_the_old(self) -> bool:
        """Whether the restored server keeps off the old one's addresses by itself."""
        return self.hold_network or self.clone_as is not None


@dataclass
class Hand:
    """What a restore works with. `passphrases` are by the names of LUKS containers, `built` takes down what was built,
    and `boot` is the report of making it bootable."""

    image: Opened
    actions: Sequence[Action]
    inventory: Inventory
    overlays: Mapping[str, Scratch]
    built: contextlib.ExitStack
    runner: Runner
    monitor: Monitor
    passphrases: Mapping[str, bytes]
    repair: Repair
    read_back: bool = True
    sources: Mapping[str, Source] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)
    reports: list[VolumeReport] = field(default_factory=list)
    boot: BootReport | None = None

    def do(self, action: Action) -> None:
        """One action that is not the writing of a volume."""
        self.steps.append(action.describe())
        tools = (self.runner, self.monitor)
        match action:
            case RetireTwin():
                self.steps += retire(action, *tools)
            case ClearTable():
                clear_table(action, *tools)
            case WriteTable():
                write_table(action, *tools)
            case ClearSpace():
                clear_space(action, *tools)
            case LeaveArray():
                build.leave_array(action, *tools)
            case MakeEsp():
                build.make_esp(action, *tools)
            case MakeArray():
                self.built.enter_context(build.array(action, *tools))
            case OpenCrypt():
                # the key slots are in the header, so that has to be there first
                self.reports += self._write([each for each in self._headers if each.volume == f"{action.name}-header"])
                self.built.enter_context(build.opened(action, self.passphrases[action.name], *tools))
            case MakeGroup():
                self.built.enter_context(build.group(action, *tools))
            case RecreateFilesystem():
                self.reports.append(recreate(self.sources[action.volume], *tools))
            case MakeSwap():
                make_swap(action, *tools)
            case GrowFilesystem():
                grow_filesystem(action, *tools)
            case RepairBoot():
                self.boot = self._make_bootable(action)
            case _:
                raise AssertionError(f"no hand for {action}")

    def write(self) -> None:
        """Every volume, in one pass over the packs; headers were written when their containers were opened."""
        headers = self._headers
        self.reports += self._write(
            [each for each in self.actions if isinstance(each, WriteVolume) and each not in headers]
        )

    def _write(self, writes: Sequence[WriteVolume]) -> list[VolumeReport]:
        held = {spot.path for action in self.actions for spot in _carriers(action)}
        settle(self.runner)  # a new table is looked at, and a map's partitions are mapped once more
        targets = [
            VolumeTarget(
                each.volume, each.path, each.offset_bytes, each.size_bytes, each.keep,
                self.overlays.get(each.volume), each.unused,
            )
            for each in writes
        ]  # fmt: skip
        with contextlib.ExitStack() as stack:
            disks: dict[str, Target] = {}
            for each in writes:
                if each.path not in disks:
                    shared = each.path in held or is_claimed_for_partitions(each.path)
                    disks[each.path] = Target(each.path, shared=shared)
                    stack.callback(disks[each.path].close)
            reports = write_volumes(self.image, targets, disks, self.monitor, read_back=self.read_back)
        # udev reads the table of a disk again when one who wrote to it lets go; its partitions are gone for a moment
        settle(self.runner)
        return reports

    @property
    def _headers(self) -> list[WriteVolume]:
        roles = {each.spec.name: each.spec.role for each in self.image.manifest.volumes}
        return [
            each for each in self.actions if isinstance(each, WriteVolume) and roles[each.volume] is VolumeRole.HEADER
        ]

    # -- boot -------------------------------------------------------------------------------------------------------

    def _make_bootable(self, action: RepairBoot) -> BootReport:
        # swap, growing and copying wrote through the disk too: its partitions are gone while udev reads the table again
        settle(self.runner)
        layout = self.image.manifest.layout
        esps = [each.spot for each in self.actions if isinstance(each, MakeEsp) and each.spot.path in action.disks]
        request = BootRequest(
            filesystems=tuple(self._restored()),
            disks=action.disks,
            firmware=action.firmware,
            layout=layout,
            esp=build.spot_path(esps[0]) if esps else None,
            interfaces_before=layout.interfaces,
            nics_now=self.inventory.nics,
            nic_map=self.repair.nic_map,
            arrays=() if self.repair.without_md else layout.arrays,
            crypts=layout.crypts,
            hold_network=self.repair.hold_network,
            clone_as=self.repair.clone_as,
        )
        return make_bootable(request, self.runner, self.monitor)

    def _restored(self) -> list[Restored]:
        """Every volume with a filesystem, by the device it is on now; swap counts, since fstab names it."""
        specs = {each.spec.name: each.spec for each in self.image.manifest.volumes}
        found = []
        for action in self.actions:
            if isinstance(action, WriteVolume | RecreateFilesystem) and specs[action.volume].content.type:
                spec = specs[action.volume]
                found.append(Restored(spec.name, self._device(action.path, action.offset_bytes), spec.content))
            elif isinstance(action, MakeSwap):
                content = Content(type="swap", uuid=action.uuid, label=action.label)
                found.append(Restored(action.disk, self._device(action.path, action.offset_bytes), content))
        return found

    def _device(self, path: str, offset_bytes: int) -> str:
        tables = [each for each in self.actions if isinstance(each, WriteTable) and each.path == path]
        for part in tables[0].table.partitions if tables else ():
            if part.start_bytes == offset_bytes:
                return build.spot_path(Spot(path=path, number=part.number, size_bytes=part.size_bytes))
        return path


def _carriers(action: Action) -> Sequence[Spot]:
    """What this action builds upon: it holds the disks under it from then on."""
    if isinstance(action, MakeArray):
        return [each for each in action.members if each is not None]
    if isinstance(action, MakeGroup):
        return action.pvs
    return [action.spot] if isinstance(action, OpenCrypt) else []
