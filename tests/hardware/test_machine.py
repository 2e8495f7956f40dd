"""How a device is named: tokens that no two devices share, and what junk is not a name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import TargetError
from hardware.machine import Device, DeviceKind, Inventory, Use, UseKind, find_device, is_junk, tokens


def disk(letter: str, serial: str = "", wwn: str = "", id_path: str = "", size: int = 1000) -> Device:
    return Device(path=f"/dev/sd{letter}", name=f"sd{letter}", size_bytes=size, serial=serial, wwn=wwn, id_path=id_path)


def named(*devices: Device) -> list[str]:
    return list(tokens(Inventory(firmware="bios", devices=devices)).values())


def test_serial_then_wwn_then_path_and_size() -> None:
    assert named(disk("a", "S1", "W1", "P1"), disk("b", "S2", "W2", "P2")) == ["S1", "S2"]
    assert named(disk("a", "S1", "W1", "P1"), disk("b", "S1", "W2", "P2")) == ["W1", "W2"]
    assert named(disk("a", "S1", "W1", "P1"), disk("b", "S1", "W1", "P2")) == ["P1:1000", "P2:1000"]
    assert named(disk("a", "S1", "W1", "P1"), disk("b", "S1", "W1", "P1")) == ["/dev/sda:1000", "/dev/sdb:1000"]
    assert named(disk("a", "", "W1"), disk("b")) == ["W1", "/dev/sdb:1000"]


def test_one_disks_serial_is_anothers_wwn() -> None:
    assert len(set(named(disk("a", "X"), disk("b", "", "X")))) == 2


def test_files_and_loops_go_by_their_path() -> None:
    file = Device(path="/srv/a.img", name="a.img", size_bytes=5, kind=DeviceKind.FILE)
    loop = Device(path="/dev/loop1", name="loop1", size_bytes=7, kind=DeviceKind.LOOP)
    assert named(file, loop) == ["/srv/a.img:5", "/dev/loop1:7"]


@pytest.mark.parametrize(
    "text",
    ["", " ", "0", "0000", "none", "NULL", "N/A", "unknown", "To be filled by O.E.M.", "Default string", "FFFFFFFF",
     "xxxx", "Not Specified", "Serial Number", "0123456789ABCDEF", "No Serial Number", "System Serial Number"],
)  # fmt: skip
def test_fillers_are_not_identifiers(text: str) -> None:
    assert is_junk(text)
    assert named(disk("a", text, text, "P1")) == ["P1:1000"]


@pytest.mark.parametrize("text", ["S45PNA0M512345", "QQ17", "WD-WCC1234567", "9C2F", "0x5000c500a1234567", "disk-b"])
def test_identifiers_are(text: str) -> None:
    assert not is_junk(text)


marks = st.sampled_from(["", "0", "none", "S1", "S2", "/dev/sda:1000", "P1", "W1"])


@given(st.lists(st.tuples(marks, marks, marks), max_size=6))
def test_no_two_tokens_are_equal(rows: list[tuple[str, str, str]]) -> None:
    devices = [disk(chr(97 + index), *row) for index, row in enumerate(rows)]
    inventory = Inventory(firmware="bios", devices=tuple(devices))
    found = tokens(inventory)
    assert len(set(found.values())) == len(devices)
    assert all(find_device(inventory, found[device.path]) == device for device in devices)


def test_finding_by_serial_wwn_or_path() -> None:
    inventory = Inventory(
        firmware="bios", devices=(disk("a", "S1", "W1"), disk("b", "S1", "W2"), disk("c", "S3", "W3"))
    )
    assert [find_device(inventory, text).name for text in ("W2", "S3", "W3", "/dev/sda")] == [
        "sdb",
        "sdc",
        "sdc",
        "sda",
    ]
    with pytest.raises(TargetError, match="more than one") as caught:
        find_device(inventory, "S1")
    assert (
        "W1" in (caught.value.hint or "")
        and "W2" in (caught.value.hint or "")
        and "S3" not in (caught.value.hint or "")
    )
    for text in ("", "S", "sda", "/dev/sd"):
        with pytest.raises(TargetError, match="no device"):
            find_device(inventory, text)


def test_what_a_use_says() -> None:
    use = Use(kind=UseKind.MOUNTED, device="/dev/sda1", where="/boot", start_bytes=0)
    assert use.describe() == "/dev/sda1 is mounted at /boot" and use.boots
    assert not Use(kind=UseKind.MOUNTED, device="/dev/sda1", where="/srv").boots
