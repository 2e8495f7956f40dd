"""The lab's pure parts: 802.1Q tags, QEMU's command line, scenario names."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.lab.machine import Bus, Drive, Firmware, Machine, Nic, command_line
from tests.lab.scenarios import SCENARIOS
from tests.lab.vlan import tagged, untagged


@given(st.binary(min_size=14, max_size=200), st.integers(1, 4094))
def test_a_tag_put_on_comes_off(frame: bytes, vlan: int) -> None:
    assert untagged(tagged(frame, vlan), vlan) == frame
    assert untagged(tagged(frame, vlan), vlan % 4094 + 1) is None


def test_an_untagged_frame_is_of_no_vlan() -> None:
    assert untagged(bytes(12) + b"\x08\x00" + bytes(50), 42) is None


def test_only_a_network_boot_has_boot_roms() -> None:
    machine = Machine("m", nics=(Nic("52:54:00:00:00:01"),))
    plain = " ".join(command_line(machine, Path("/f"), Path("/s"), ("tap0",), "tcg"))
    network = " ".join(command_line(machine.having(boot=("network",)), Path("/f"), Path("/s"), ("tap0",), "tcg"))
    assert "romfile=," in f"{plain},".replace(" ", ",")
    assert "bootindex=10" in network and "romfile" not in network


def test_a_disk_has_its_serial_bus_and_sector_size() -> None:
    drives = (Drive(Path("/a"), "A", Bus.NVME, 4096), Drive(Path("/b"), "B", Bus.SATA))
    machine = Machine("m", Firmware.UEFI, drives)
    argv = command_line(machine, Path("/f"), Path("/s"), (), "tcg")
    assert any(each.startswith("nvme,") and "serial=A" in each and "logical_block_size=4096" in each for each in argv)
    assert any(each.startswith("ide-hd,") and "bus=ide.1" in each and "bootindex=11" in each for each in argv)
    assert any("vars.fd" in each for each in argv)


def test_a_disk_of_two_paths_is_one_file_behind_two_controllers() -> None:
    drives = (Drive(Path("/a"), "A", Bus.SCSI, wwn="0x5000c50000000a01", paths=2), Drive(Path("/b"), "B", Bus.SCSI))
    argv = command_line(Machine("m", drives=drives), Path("/f"), Path("/s"), (), "tcg")
    disks = [each for each in argv if each.startswith("scsi-hd,")]
    assert sum(each.startswith("virtio-scsi-pci") for each in argv) == 2
    assert [each.split("bus=")[1][:5] for each in disks] == ["scsi0", "scsi1", "scsi0"]
    assert all("serial=A" in each and "drive=node0,share-rw=on" in each for each in disks[:2])
    assert sum("file=/a" in each for each in argv) == 1 and "drive=disk1" in disks[2]


def test_every_row_has_a_name_of_its_own_and_three_are_essential() -> None:
    assert all(name == each.name for name, each in SCENARIOS.items())
    assert sum(each.essential for each in SCENARIOS.values()) == 3
