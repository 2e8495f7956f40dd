"""What the doctor says of a storage stack: judgements on values; reading it for real is the lab's."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from appliance.check import Status
from appliance.storage import check_crypt, check_group
from core.layout import Content, Crypt, Group, LogicalVolume, LvKind
from core.sizes import GIB, MIB

CRYPT = Crypt(name="data", node="sda-part3", uuid="u", version=2, header_bytes=16 * MIB, size_bytes=GIB, key_slots=1)


@pytest.mark.parametrize(
    ("slots", "tokens", "status"),
    [
        (1, (), Status.OK),
        (1, ("systemd-tpm2",), Status.WARN),
        (1, ("clevis",), Status.WARN),
        (2, ("systemd-tpm2",), Status.OK),
        (1, ("systemd-recovery",), Status.OK),
    ],
)
def test_a_container_that_only_its_machine_opens_is_warned_of(slots: int, tokens: tuple[str, ...], status: str) -> None:
    assert check_crypt(replace(CRYPT, key_slots=slots, tokens=tokens)).status == status


@pytest.mark.parametrize(("free", "status"), [(0, Status.FAIL), (64 * MIB, Status.WARN), (GIB, Status.OK)])
def test_room_for_snapshots(free: int, status: str) -> None:
    root = LogicalVolume(name="root", node="vg-root", uuid="u", kind=LvKind.LINEAR, size_bytes=4 * GIB)
    swap = replace(root, name="swap", size_bytes=64 * GIB, content=Content(type="swap"))
    group = Group(
        name="vg", uuid="u", extent_bytes=4 * MIB, size_bytes=80 * GIB, free_bytes=free, pvs=(), volumes=(root, swap)
    )  # fmt: skip
    assert check_group(group).status == status
