"""The inventory of the machine that runs the tests, with devices made for them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from core.errors import SourceError, TargetError
from hardware.attach import attach
from hardware.inventory import find_device, firmware_mode, inspect_target, probe_inventory, tokens
from hardware.machine import DeviceKind
from hardware.sitefind import MARKER
from tests.hardware.disks import MIB, RUNNER, blank, tool
from tests.hardware.test_uses import mounted

pytestmark = pytest.mark.block


def test_loops_and_files_are_listed(tmp_path: Path) -> None:
    path, other = blank(tmp_path / "disk", 8 * MIB), blank(tmp_path / "other", 9 * MIB)
    with attach(other, sector_bytes=4096, runner=RUNNER) as node:
        inventory = probe_inventory(RUNNER, [path, path, node])
        assert inventory.firmware == firmware_mode()
        by_path = {device.path: device for device in inventory.devices}
        assert len(by_path) == len(inventory.devices)
        file, loop = by_path[path], by_path[node]
        assert (file.kind, file.size_bytes, file.sector_bytes) == (DeviceKind.FILE, 8 * MIB, 512)
        assert (loop.kind, loop.size_bytes, loop.sector_bytes) == (DeviceKind.LOOP, 9 * MIB, 4096)
        assert loop.read_only and not file.read_only and file.spots is None
        named = tokens(inventory)
        assert named[path] == f"{path}:{8 * MIB}" and len(set(named.values())) == len(named)
        assert find_device(inventory, os.path.relpath(path) if path.startswith(os.getcwd()) else path) == file
    assert node not in {device.path for device in probe_inventory(RUNNER).devices}


def test_real_disks_and_cards_are_listed() -> None:
    inventory = probe_inventory(RUNNER)
    disks = {name for name in os.listdir("/sys/block") if name.startswith(("sd", "vd", "nvme"))}
    assert {device.name for device in inventory.devices if device.kind is DeviceKind.DISK} >= disks
    cards = {name for name in os.listdir("/sys/class/net") if Path("/sys/class/net", name, "device").exists()}
    assert {nic.name for nic in inventory.nics} == cards
    assert all(nic.mac.count(":") >= 5 for nic in inventory.nics)


def test_disk_this_machine_runs_from_is_never_free() -> None:
    """Whatever holds / is mounted, or cannot be examined at all; in both cases it is refused."""
    rdev = os.stat("/").st_dev
    link = Path(f"/sys/dev/block/{os.major(rdev)}:{os.minor(rdev)}")
    if not link.exists():  # / of a container is no block device of its own
        assert os.major(rdev) == 0
        return
    folder = link.resolve()
    name = folder.parent.name if (folder / "partition").exists() else folder.name
    found = {device.name: device for device in probe_inventory(RUNNER).devices}
    assert name not in found or found[name].uses


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        probe_inventory(RUNNER, [str(tmp_path / "absent")])


def test_target_is_examined(tmp_path: Path) -> None:
    path = blank(tmp_path / "disk", 64 * MIB)
    tool("mkfs.ext4", "-q", path)
    device = find_device(probe_inventory(RUNNER, [path]), path)
    assert inspect_target(device, RUNNER).spots == ()
    with attach(path, read_only=False, runner=RUNNER) as node, mounted(node, tmp_path / "mnt") as where:
        (where / MARKER).touch()
        os.sync()
        examined = inspect_target(device, RUNNER)
        assert len(examined.uses) == 2 and examined.spots and examined.spots[0].certain
    with pytest.raises(TargetError, match="another device"):
        inspect_target(replace(device, size_bytes=MIB), RUNNER)
    os.unlink(path)
    with pytest.raises(TargetError, match="cannot examine"):
        inspect_target(device, RUNNER)
