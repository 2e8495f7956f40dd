"""Makes arrays, opens containers and makes volume groups on a target, and takes them down again when a restore ends.

Each step may be repeated: what is there just as planned is started instead of made. Imports `core` and
`hardware.{actions,facts,stack}`. The tools are LVM's, mdadm and cryptsetup themselves: blivet was tried, and stops
whatever else is active on the machine before it starts (`docs/design.md`, What building changed).
"""

from __future__ import annotations

import contextlib
import os.path
import time
from collections.abc import Iterator
from pathlib import Path

from core.errors import KeyMissingError, TargetError, WriteError
from core.layout import LvKind
from core.monitor import Monitor
from core.run import Runner
from hardware.actions import LeaveArray, MakeArray, MakeEsp, MakeGroup, OpenCrypt, Spot
from hardware.attach import settle
from hardware.facts import facts_of, kernel_path, partition_nodes, sys_folder
from hardware.stack.lvm import Report, read_report

_AGAIN = "the restore can be started again and goes on where it was"
_WAIT_SECONDS = 10.0


def spot_path(spot: Spot) -> str:
    """The device of a spot, as the kernel names it now. Raises TargetError when it is not there or of another size."""
    path = spot.path
    if spot.number:
        rdev = facts_of(spot.path).rdev
        nodes = {} if rdev is None else partition_nodes(rdev)
        if spot.number not in nodes:
            raise TargetError(f"the kernel shows no partition {spot.number} on {spot.path}", hint="see `lsblk`")
        path = kernel_path(nodes[spot.number][0])
    _wait_for(path)
    if facts_of(path).size_bytes < spot.size_bytes:
        raise TargetError(f"{path} is smaller than it was planned", hint="make the plan again")
    return path


def _wait_for(path: str) -> None:
    """udev makes nodes a moment after the kernel made the device."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while not os.path.exists(path):
        if time.monotonic() > deadline:
            raise TargetError(f"{path} does not appear", hint="is udev running? see `udevadm settle`, `lsblk`")
        time.sleep(0.05)


def make_esp(action: MakeEsp, runner: Runner, monitor: Monitor) -> bool:
    """Make an empty EFI system partition. False when it is there already."""
    path = spot_path(action.spot)
    probe = ["blkid", "--probe", "--output", "udev", path]
    seen = runner.run(probe, purpose=f"see what {path} holds", ok=(0, 2, 8)).text.splitlines()
    if f"ID_FS_UUID={action.uuid}" in seen and "ID_FS_TYPE=vfat" in seen:
        return False
    monitor.step(action.describe())
    argv = ["mkfs.vfat", "-F", "32", "-n", "EFI", "-i", action.uuid.replace("-", ""), path]
    runner.run(argv, purpose=f"make an EFI system partition on {path}")
    return True


def leave_array(action: LeaveArray, runner: Runner, monitor: Monitor) -> bool:
    """Take md's superblock off. False when none is there."""
    path = spot_path(action.spot)
    told = runner.run(["mdadm", "--examine", "--export", path], purpose=f"examine {path}", ok=(0, 1, 2)).text
    if "MD_UUID=" not in told:
        return False
    monitor.step(action.describe())
    runner.run(["mdadm", "--zero-superblock", path], purpose=f"take md's superblock off {path}")
    return True


@contextlib.contextmanager
def array(action: MakeArray, runner: Runner, monitor: Monitor) -> Iterator[None]:
    """An array for the length of a restore. It is resynchronised only afterwards, so that the disk is the restore's."""
    members = [spot_path(member) if member else "missing" for member in action.members]
    present = [path for path in members if path != "missing"]
    monitor.step(action.describe())
    if os.path.exists(action.path):
        raise TargetError(f"{action.path} is there already", hint=f"stop it: mdadm --stop {action.path}")
    if all(_belongs(path, action.uuid, runner) for path in present):
        argv = ["mdadm", "--assemble", action.path, "--run", "--uuid", action.uuid, *present]
        runner.run(argv, purpose=f"start the array {action.path}")
    else:
        for path in present:
            runner.run(["wipefs", "--all", "--force", path], purpose=f"clear {path}")
        runner.run(_create(action, members), purpose=f"make the array {action.path}")
    settle(runner)
    try:
        _wait_for(action.path)
        folder = sys_folder(facts_of(action.path).rdev or (0, 0)) / "md"
        _hold_resync(folder)
        if facts_of(action.path).size_bytes < action.size_bytes:
            raise WriteError(
                f"{action.path} became smaller than planned", hint="use larger disks, or dissolve the array"
            )
        yield
    finally:
        runner.run(["mdadm", "--stop", action.path], purpose=f"stop the array {action.path}", ok=(0, 1, 2))


def _create(action: MakeArray, members: list[str]) -> list[str]:
    argv = ["mdadm", "--create", action.path, "--run", "--level", action.level, "--metadata", action.metadata]
    argv += ["--raid-devices", str(len(members)), "--uuid", action.uuid]
    host, _, name = action.label.rpartition(":")  # mdadm(8), --homehost: the two are kept as one word
    argv += ["--name", name, "--homehost", host or "none"] if name and action.metadata.startswith("1") else []
    argv += ["--chunk", f"{action.chunk_bytes >> 10}K"] if action.chunk_bytes else []
    if action.metadata.startswith("1") and action.data_offset_bytes:
        argv += ["--data-offset", f"{action.data_offset_bytes >> 10}K"]
    if action.level == "raid1":
        argv += ["--size", f"{action.size_bytes >> 10}K", "--bitmap", "internal"]
    return [*argv, *members]


def _belongs(path: str, uuid: str, runner: Runner) -> bool:
    """Whether a device is a member of the array already; what has no superblock is none."""
    told = runner.run(["mdadm", "--examine", "--export", path], purpose=f"examine {path}", ok=(0, 1, 2)).text
    return f"MD_UUID={uuid}" in told.splitlines()


def _hold_resync(folder: Path) -> None:
    with contextlib.suppress(OSError):  # an array without redundancy has nothing to synchronise
        (folder / "sync_action").write_text("frozen")


def require_passphrase(path: str, name: str, passphrase: bytes, runner: Runner) -> None:
    """Try a passphrase on a LUKS header. Raises KeyMissingError for a wrong one, ToolError."""
    argv = ["cryptsetup", "open", "--test-passphrase", "--type", "luks", "--key-file", "-", path]
    done = runner.run(argv, purpose=f"try the passphrase of {name}", ok=(0, 2), stdin=passphrase, timeout=600)
    _require_opened(done.code, name)


def _require_opened(code: int, name: str) -> None:
    if code == 2:  # cryptsetup(8), "RETURN CODES": no permission (bad passphrase)
        raise KeyMissingError(f"the passphrase does not open {name}", hint="it is that of the old server's disk")


@contextlib.contextmanager
def opened(action: OpenCrypt, passphrase: bytes, runner: Runner, monitor: Monitor) -> Iterator[None]:
    """A LUKS container, open for the length of a restore. Raises KeyMissingError for a wrong passphrase."""
    path = spot_path(action.spot)
    monitor.step(action.describe())
    argv = ["cryptsetup", "open", "--type", "luks", "--key-file", "-", path, action.name]
    done = runner.run(argv, purpose=f"open the LUKS container on {path}", ok=(0, 2), stdin=passphrase, timeout=600)
    _require_opened(done.code, action.name)
    try:
        settle(runner)
        _wait_for(f"/dev/mapper/{action.name}")
        yield
    finally:
        runner.run(["cryptsetup", "close", action.name], purpose=f"close {action.name}", ok=(0, 1, 4, 5))


@contextlib.contextmanager
def group(action: MakeGroup, runner: Runner, monitor: Monitor) -> Iterator[None]:
    """A volume group with its volumes, active for the length of a restore."""
    paths = [spot_path(pv) for pv in action.pvs]
    monitor.step(action.describe())
    report = read_report(runner)
    if not _is_there(report, action, paths):
        _refuse_namesake(report, action, paths)
        _make(action, paths, runner)
    runner.run(["vgchange", "--activate", "y", action.name], purpose=f"activate {action.name}")
    settle(runner)
    try:
        if not _is_there(read_report(runner), action, paths):
            raise WriteError(f"volume group {action.name} is not as it was planned", hint=_AGAIN)
        yield
    finally:
        runner.run(["vgchange", "--activate", "n", action.name], purpose=f"stop {action.name}", ok=(0, 5))


def _is_there(report: Report, action: MakeGroup, paths: list[str]) -> bool:
    wanted = {facts_of(path).rdev for path in paths}
    pvs = {facts_of(row["pv_name"]).rdev for row in report.pvs if row["vg_name"] == action.name}
    lvs = {row["lv_name"]: row for row in report.lvs if row["vg_name"] == action.name}
    if pvs != wanted or set(lvs) != {volume.name for volume in action.volumes}:
        return False
    return all(
        int(lvs[volume.name]["lv_size"]) == volume.size_bytes and (lvs[volume.name]["pool_lv"] or "") == volume.pool
        for volume in action.volumes
    )


def _refuse_namesake(report: Report, action: MakeGroup, paths: list[str]) -> None:
    """Another group of that name on other disks: nobody could tell the two apart."""
    wanted = {facts_of(path).rdev for path in paths}
    others = [row["pv_name"] for row in report.pvs if row["vg_name"] == action.name]
    if others and not {facts_of(path).rdev for path in others} <= wanted:
        raise TargetError(
            f"a volume group {action.name} is on {', '.join(others)} too",
            hint=f"unplug that disk, or rename its group first: vgrename {action.name} {action.name}_old",
        )


def _make(action: MakeGroup, paths: list[str], runner: Runner) -> None:
    """PVs, group, then volumes; pools come before what is in them."""
    purpose = f"make the volume group {action.name}"
    for path in paths:
        runner.run(["wipefs", "--all", "--force", path], purpose=f"clear {path}")
    settle(runner)
    runner.run(["pvcreate", "--yes", "--force", "--force", "--dataalignment", "1m", *paths], purpose=purpose)
    argv = ["vgcreate", "--yes", "--physicalextentsize", f"{action.extent_bytes}b", action.name, *paths]
    runner.run(argv, purpose=purpose)
    for volume in action.volumes:
        argv = ["lvcreate", "--yes", "--name", volume.name]
        if volume.kind is LvKind.THIN:
            argv += ["--virtualsize", f"{volume.size_bytes}b", "--thinpool", volume.pool]
        elif volume.kind is LvKind.POOL:
            argv += ["--type", "thin-pool", "--extents", str(volume.size_bytes // action.extent_bytes)]
            argv += ["--chunksize", f"{volume.chunk_bytes}b", "--poolmetadatasize", f"{volume.metadata_bytes}b"]
        else:
            # the tables of the disk were new, what lies on it is not
            argv += ["--wipesignatures", "y", "--extents", str(volume.size_bytes // action.extent_bytes)]
        runner.run([*argv, action.name], purpose=f"make the volume {action.name}/{volume.name}", timeout=600)
