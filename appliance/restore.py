"""Restoring: inventory → plan → confirmation → apply → write → read back → report. Nothing is written before all is
known.

May import `imager`, `hardware`, `core`. A Restoration lives as long as the command or the page that drives it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from appliance.opened import Opened, need_any_place, read_small, require_parts
from appliance.recreate import sources
from appliance.retention.lease import leased
from appliance.shrink import shrunk
from appliance.steps import FINISHING, PREPARING, AskPassphrase, Hand, Repair
from core.errors import (
    ConfigError,
    ConfirmError,
    CorruptError,
    KeyMissingError,
    ObjectMissingError,
    ToolError,
    UnbootableError,
)
from core.layout import Layout
from core.monitor import Monitor
from core.run import Runner, find_tool
from core.sizes import MIB
from hardware.actions import (
    PACKAGES,
    Action,
    OpenCrypt,
    RecreateFilesystem,
    RepairBoot,
    ShrinkFilesystem,
    WriteVolume,
    tools_of,
)
from hardware.alive import who_answers
from hardware.boot.clone import check_name
from hardware.boot.nics import checked_map
from hardware.boot.values import BootReport
from hardware.holdings import holdings
from hardware.inventory import inspect_target, probe_inventory
from hardware.machine import Device, DeviceKind, Inventory, find_device, tokens
from hardware.plan import Plan, PlanOptions, make_plan, unknown_names
from hardware.read import DiskSource, read_layout
from hardware.remnants import read_remnants
from hardware.stack import build
from hardware.targets import Refusal
from imager.archive.reader import OpenArchive
from imager.placing import VolumeReport
from imager.repository.reader import OpenImage


@dataclass(frozen=True)
class RestoreOptions:
    """What the operator chose. `to` are tokens, serials or paths, in disk order or as DISK=…; `only` volume or disk
    names; `retire` other disks (tokens) whose twins of what is restored lose their signatures; `recreate` names of
    volumes that may be made anew, or `all`. `boot`: make it boot, on a machine with `firmware` (`bios`, `uefi`; empty:
    on this one, when the targets are its disks), as `repair` says."""

    to: tuple[str, ...]
    only: tuple[str, ...] = ()
    grow: str = "none"
    unused: str = "keep"
    read_back: bool = True
    scratch: Path | None = None
    overwrite_unseen: bool = False
    boot: bool = True
    firmware: str = ""
    repair: Repair = Repair()
    retire: tuple[str, ...] = ()
    recreate: tuple[str, ...] = ()


@dataclass
class RestoreReport:
    """What was done; `boot` tells how it was made bootable, None when that was not wanted or nothing boots from it."""

    server: str
    image: str
    targets: dict[str, str]
    seconds: float
    volumes: list[VolumeReport]
    steps: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    boot: BootReport | None = None

    def require_boot(self) -> None:
        """Raise UnbootableError with every check of the repair that is not ok."""
        wrong = [f"{check.name}: {check.detail}" for check in (self.boot.checks if self.boot else ()) if not check.ok]
        if wrong:
            raise UnbootableError(
                f"every byte is restored, but: {'; '.join(wrong)}",
                hint="mend that from the rescue environment, or restore again; the report says what was done",
            )


@dataclass(frozen=True)
class Restoration:
    """A plan with all it was made from; `required` maps target path → what must be typed to confirm it, `holds`
    target path → what is on it now, in lines."""

    image: Opened
    inventory: Inventory
    plan: Plan
    options: RestoreOptions
    required: dict[str, str]
    holds: dict[str, list[str]] = field(default_factory=dict)


def plan_restore(image: Opened, options: RestoreOptions, runner: Runner) -> Restoration:
    """Look at the machine and plan. Writes nothing; refusals are in the plan (`plan.require()` raises them)."""
    layout = image.manifest.layout
    _check_scratch(options.scratch)
    check_names(layout, options)
    files = [device for _, device in map(_split, options.to) if os.path.isfile(device)]
    inventory = probe_inventory(runner, files)
    devices = targets_of([disk.name for disk in layout.disks], options, inventory)
    targets = {name: inspect_target(device, runner) for name, device in devices.items()}
    present = {}
    if options.only:
        for name, device in targets.items():
            (present[name],) = read_layout([DiskSource(device.path, name)], runner).disks
    # an image file, or a loop device, is not what this machine boots from: it is repaired for a machine that is named
    ours = all(device.kind is DeviceKind.DISK for device in targets.values())
    parts = set(options.only) - {disk.name for disk in layout.disks}
    boots = options.boot and not parts and (ours or bool(options.firmware))
    retired = [inspect_target(find_device(inventory, each), runner) for each in options.retire]
    if options.repair.clone_as is not None:
        check_name(options.repair.clone_as)
    if options.repair.nic_map is not None:
        checked_map(options.repair.nic_map, layout.interfaces, inventory.nics)
    plan = make_plan(
        layout,
        targets,
        PlanOptions(
            only=frozenset(options.only),
            grow=options.grow,
            unused=options.unused,
            present=present,
            overwrite_unseen=options.overwrite_unseen,
            firmware=(options.firmware or inventory.firmware) if boots else "",
            repair=boots,
            without_md=options.repair.without_md,
            remnants=() if parts else read_remnants(inventory, {each.path for each in targets.values()}, runner),
            retired={each.path: each for each in retired},
            recreate=frozenset(options.recreate),
        ),
    )
    if options.repair.parts_from_the_old and plan.actions and not _repairs(plan):
        plan = _refused(plan, Refusal(subject="the restore", message=_NO_REPAIR, hint=_WHOLE_DISKS))
    if boots:
        plan = _with_the_living(plan, layout, targets.values(), options, inventory, runner)
    _require_whole(image, plan)
    named = tokens(inventory)
    touched = [*targets.values(), *retired]
    return Restoration(
        image,
        inventory,
        plan,
        options,
        required={device.path: named[device.path] for device in touched},
        holds={device.path: holdings(device.path, runner, sector_bytes=device.sector_bytes) for device in touched},
    )


def _with_the_living(
    plan: Plan, layout: Layout, targets: Iterable[Device], options: RestoreOptions, inventory: Inventory, runner: Runner
) -> Plan:
    """The plan, refused when the old server still answers at its addresses and both would then have them.

    A disk image in a file boots elsewhere, so nobody is asked for its sake.
    """
    if not _repairs(plan) or options.repair.parts_from_the_old:
        return plan
    if not all(target.kind is DeviceKind.DISK for target in targets):
        return plan
    survey = who_answers(layout.interfaces, inventory.nics, runner)
    refusals = tuple(
        Refusal(
            subject=layout.hostname or "the old server",
            message=f"{each.describe()}; the restored server would come up with the same address",
            hint="switch the old one off; or --hold-network, or --as-clone NAME",
        )
        for each in survey.answers
    )
    warnings = plan.warnings
    if survey.unasked:
        unasked = ", ".join(survey.unasked)
        warnings = (*warnings, f"whether the old server still answers at {unasked} could not be asked: see to it")
    plan = replace(plan, warnings=warnings)
    return _refused(plan, *refusals) if refusals else plan


_NO_REPAIR = "the network is held, and a clone made, by the repair, and nothing is repaired here"
_WHOLE_DISKS = "restore the disk that boots, whole, without --no-repair; name --firmware for a disk of another machine"


def _repairs(plan: Plan) -> bool:
    return any(isinstance(action, RepairBoot) for action in plan.actions)


def _refused(plan: Plan, *refusals: Refusal) -> Plan:
    return replace(plan, actions=(), refusals=(*plan.refusals, *refusals))


def check_names(layout: Layout, options: RestoreOptions) -> None:
    """ConfigError for names that the image does not have, before any disk is looked at."""
    disks = [name for name, _ in map(_split, options.to) if name]
    strange = unknown_names(layout, disks=disks, only=options.only, grow=options.grow, recreate=options.recreate)
    if strange:
        told = "; ".join(f"{each.subject}: {each.message}" for each in strange)
        raise ConfigError(told, hint=strange[0].hint)


def _check_scratch(folder: Path | None) -> None:
    if folder is not None and not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise ConfigError(f"{folder} is no folder that can be written to", hint="--scratch names one with room")


def _split(text: str) -> tuple[str, str]:
    """(disk of the image or nothing, device) of `[DISK=]DEVICE`; a device that is there as a path is given in full."""
    name, equals, rest = text.partition("=")
    disk, device = (name, rest) if equals and "/" not in name and not os.path.exists(text) else ("", text)
    return disk, os.path.realpath(device) if os.path.exists(device) else device


def targets_of(disks: Sequence[str], options: RestoreOptions, inventory: Inventory) -> dict[str, Device]:
    """Which device each disk of the image goes to. ConfigError when that is not said for all that are needed."""
    found: dict[str, Device] = {}
    loose: list[str] = []
    for name, device in map(_split, options.to):
        if not name:
            loose.append(device)
        elif name in found:
            raise ConfigError(f"disk {name!r} is given two targets", hint=f"the image has: {', '.join(disks)}")
        else:
            found[name] = find_device(inventory, device)
    wanted = [name for name in disks if not options.only or any(_belongs(each, name) for each in options.only)]
    if not wanted:
        volume = next(iter(options.only))
        raise ConfigError(
            f"{volume} is no part of {', '.join(disks)}: what lies on LVM, md or LUKS is restored with its disks",
            hint=f"its bytes alone: refloat export IMAGE {volume} -o - | dd of=DEVICE bs=1M conv=fsync",
        )
    rest_of = [name for name in wanted if name not in found]
    if len(loose) != len(rest_of) and (loose or not found):
        raise ConfigError(
            f"{len(wanted)} disk(s) to restore ({', '.join(wanted)}), but {len(options.to)} target(s) are given",
            hint="give one --to for each, in this order; or --to DISK=SERIAL for those wanted, and the others stay out",
        )
    # disks that nobody named stay out when all targets are named: the plan says so, and refuses what needs them
    found.update((name, find_device(inventory, text)) for name, text in zip(rest_of, loose, strict=False))
    return found


def _belongs(chosen: str, disk: str) -> bool:
    return chosen == disk or chosen.startswith((f"{disk}-part", f"{disk}-head"))


def confirm(restoration: Restoration, given: Sequence[str], ask: Callable[[str, str], str] | None) -> None:
    """Every target must be confirmed by what stands for it; `ask(path, token)` is asked for those that are not.

    ConfirmError for any that is not confirmed.
    """
    for path, token in restoration.required.items():
        if token in given:
            continue
        if ask is not None and ask(path, token).strip() == token:
            continue
        raise ConfirmError(
            f"{path} would be written to and is not confirmed",
            hint=f"check the plan, then type its serial: --confirm {token}",
            path=path,
            token=token,
        )


def _require_whole(image: Opened, plan: Plan) -> None:
    """ObjectMissingError when packs of what is to be written are at no site: said before anything is overwritten. So
    is what an archive cannot do."""
    if isinstance(image, OpenArchive):
        if any(isinstance(each, ShrinkFilesystem | RecreateFilesystem) for each in plan.actions):
            need_any_place(image, "shrinking a filesystem or making it anew")
        return require_parts(image)
    wanted = [
        image.manifest.volume(each.volume)
        for each in plan.actions
        if isinstance(each, WriteVolume | RecreateFilesystem)
    ]
    lost = image.lost(wanted)
    if lost:
        first = image.sites[0]
        example = first.pack_name(next(iter(lost.values()))[0])
        names = ", ".join(f"{name} ({len(packs)} packs)" for name, packs in lost.items())
        whole = [each.spec.name for each in wanted if each.spec.name not in lost]
        there = any(each.has_object(example) for each in image.sites)
        what = "has another size than its map says" if there else "is missing"
        kind = CorruptError if there else ObjectMissingError
        raise kind(
            f"image {image.manifest.image} is not whole: {example} {what} at "
            f"{', '.join(each.site.name for each in image.sites)}; that concerns {names}",
            hint="take another image (`refloat verify` names the whole ones)"
            + (f", or only what is whole: --only {' --only '.join(whole)}" if whole else ""),
            object=example,
            site=first.site.name,
        )


def require_tools(actions: Sequence[Action], find: Callable[[str], str | None] = find_tool) -> None:
    """ToolError when a tool that an action needs is not here: half a restore later it would be too late."""
    needed = dict.fromkeys(name for action in actions for name in tools_of(action))
    missing = [name for name in needed if find(name) is None]
    if missing:
        packages = sorted({PACKAGES[name] for name in missing})
        raise ToolError(
            f"the restore needs {', '.join(missing)}, and that is not installed; nothing was written",
            hint=f"apt install {' '.join(packages)}",
            missing=missing,
        )


def apply_restore(
    restoration: Restoration, runner: Runner, monitor: Monitor, passphrase: AskPassphrase | None = None
) -> RestoreReport:
    """Do what the plan says; `passphrase` opens LUKS containers. Raises before the first write when the plan is
    refused, a tool is missing, a shrink fails, or what is to be made anew cannot be copied."""
    restoration.plan.require()
    require_tools(restoration.plan.actions)
    ask = passphrase or _nobody_knows
    # asked for before the first write, not in the middle
    known = {each.name: ask(each.name, each.uuid) for each in restoration.plan.actions if isinstance(each, OpenCrypt)}
    started = time.monotonic()
    image, options, actions = restoration.image, restoration.options, restoration.plan.actions
    for name, secret in known.items():
        _try_passphrase(image, name, secret, runner)
    shrinks = {
        each.volume: (each.to_bytes, each.scratch_bytes) for each in actions if isinstance(each, ShrinkFilesystem)
    }
    anew = [each for each in actions if isinstance(each, RecreateFilesystem)]
    with (
        leased(image.sites if isinstance(image, OpenImage) else (), image.manifest.image),
        shrunk(image, shrinks, options.scratch, runner, monitor) as overlays,
        sources(image, anew, options.scratch, runner, monitor) as found,
        contextlib.ExitStack() as built,
    ):
        hand = Hand(
            image=image,
            actions=actions,
            inventory=restoration.inventory,
            overlays=overlays,
            sources=found,
            built=built,
            runner=runner,
            monitor=monitor,
            passphrases=known,
            repair=options.repair,
            read_back=options.read_back,
        )
        for action in actions:
            if isinstance(action, PREPARING):
                hand.do(action)
        hand.write()
        for action in actions:
            if isinstance(action, FINISHING):
                hand.do(action)
    manifest = image.manifest
    return RestoreReport(
        server=manifest.server.name,
        image=manifest.image,
        targets=dict(restoration.required),
        seconds=round(time.monotonic() - started, 3),
        volumes=hand.reports,
        steps=hand.steps,
        warnings=[*monitor.warnings, *image.complaints],
        boot=hand.boot,
    )


def _try_passphrase(image: Opened, name: str, passphrase: bytes, runner: Runner) -> None:
    """Against the header as the image has it. Raises KeyMissingError."""
    volume = image.manifest.volume(f"{name}-header")
    with tempfile.NamedTemporaryFile(prefix="refloat-header-") as file:
        file.write(read_small(image, volume))
        file.truncate(volume.spec.size_bytes + MIB)  # cryptsetup wants room for data, too
        file.flush()
        build.require_passphrase(file.name, name, passphrase, runner)


def _nobody_knows(name: str, _uuid: str) -> bytes:
    raise KeyMissingError(
        f"the LUKS container {name} needs its passphrase, and nobody can be asked",
        hint=f"--luks {name}=FILE, a file with the passphrase the old server's disk was opened with",
    )
