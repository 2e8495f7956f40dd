"""The doctor: every judgement on tools, clock, state and keys, and the whole on this machine."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from appliance.check import Finding, Status
from appliance.config import Config, DiskConfig, KitConfig
from appliance.doctor import (
    CLOCK_MIN,
    check_clock,
    check_disks,
    check_keys,
    check_receipt,
    check_state,
    describe_device,
    examine_machine,
    examine_server,
)
from appliance.tools import TOOLS, Tool, judge, look, parse_version
from core.run import SystemRunner
from hardware.machine import Device, Use, UseKind
from imager.keys import ServerKeys

TOOL = Tool("frob", "frobs", "nothing frobs", (1, 46), ("-V",))


@pytest.mark.parametrize(
    ("printed", "version"),
    [
        ("Partclone : v0.3.23 (cff71700a8c9) \n", (0, 3, 23)),
        ("sfdisk from util-linux 2.38.1\n", (2, 38, 1)),
        ("e2fsck 1.47.0 (5-Feb-2023)\n\tUsing EXT2FS Library version 1.47.0", (1, 47, 0)),
        ("xfs_db version 6.1.0\n", (6, 1, 0)),
        ("btrfs-progs v6.2\n", (6, 2)),
        ("fusermount3 version: 3.14.0\n", (3, 14, 0)),
        ("blkid from util-linux 2.38.1  (libblkid 2.38.1, 04-Aug-2022)", (2, 38, 1)),
        ("unknown option", None),
        ("", None),
    ],
)
def test_versions_as_tools_print_them(printed: str, version: tuple[int, ...] | None) -> None:
    assert parse_version(printed) == version


@given(st.text(max_size=200))
def test_any_output_gives_a_version_or_none(printed: str) -> None:
    version = parse_version(printed)
    assert version is None or 2 <= len(version) <= 3


@pytest.mark.parametrize(
    ("path", "printed", "status", "message"),
    [
        (None, None, Status.FAIL, "missing: nothing frobs"),
        ("/bin/frob", "frob 1.45.7", Status.FAIL, "1.45.7 is too old (1.46 is needed)"),
        ("/bin/frob", "", Status.FAIL, "does not say which version"),
        ("/bin/frob", "frob 1.46", Status.OK, "1.46"),
        ("/bin/frob", "frob 2.0.1", Status.OK, "2.0.1"),
    ],
)
def test_judging_a_tool(path: str | None, printed: str | None, status: Status, message: str) -> None:
    found = judge(TOOL, path, printed)
    assert found.status is status and message in found.message
    assert (found.hint == "apt install frobs") == (status is Status.FAIL)


def test_a_tool_that_stops_nothing_only_warns() -> None:
    assert judge(Tool("x", "y", "z", stops=False), None, None).status is Status.WARN


def test_clock() -> None:
    assert check_clock(CLOCK_MIN - 1, True).status is Status.FAIL
    assert check_clock(0, None).message == "it says 1970-01-01"
    assert check_clock(CLOCK_MIN, False).status is Status.WARN
    assert check_clock(CLOCK_MIN, None).status is check_clock(CLOCK_MIN, True).status is Status.OK
    assert time.gmtime(CLOCK_MIN)[:3] == (2025, 1, 1)


def test_state_folder(tmp_path: Path) -> None:
    assert "keys new" in check_state(tmp_path / "none").hint
    (tmp_path / "file").touch()
    assert check_state(tmp_path / "file").status is Status.FAIL
    tmp_path.chmod(0o755)
    assert check_state(tmp_path).status is Status.WARN
    tmp_path.chmod(0o700)
    assert check_state(tmp_path).status is Status.OK


def test_keys(tmp_path: Path) -> None:
    config = Config(server="web1", state=str(tmp_path / "s"))
    finding, server = check_keys(config)
    assert finding.status is Status.FAIL and server is None and "keys new" in finding.hint
    keys = ServerKeys.create(tmp_path / "s", "web1")
    finding, server = check_keys(config)
    assert finding.status is Status.OK and server is not None and server.fingerprint == keys.fingerprint
    assert (
        check_keys(Config(server="web2", state=config.state))[0].message
        == "they are of server web1, the configuration says web2"
    )
    ServerKeys.path(tmp_path / "s").chmod(0o640)
    assert "others may read them (mode 640)" in check_keys(config)[0].message
    ServerKeys.path(tmp_path / "s").write_bytes(b"{}")
    assert check_keys(config)[0].status is Status.FAIL


def test_an_unreadable_receipt_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(b"{}")
    for path, status in (("", Status.WARN), (str(tmp_path / "none"), Status.FAIL), (str(tmp_path / "r"), Status.FAIL)):
        config = Config(server="web1", state="/s", kit=KitConfig(receipt=path))
        found = check_receipt(config, None, None)
        assert [each.status for each in found] == [status] and found[0].hint


def test_a_disk_in_a_line() -> None:
    disk = Device(path="/dev/sda", name="sda", size_bytes=500 << 30, sector_bytes=4096, serial="S1", model="ACME X")
    assert describe_device(disk, "S1") == Finding(
        Status.OK, "/dev/sda", "500.0 GiB ACME X, 4096-byte sectors, called S1; not in use"
    )
    mounted = Use(kind=UseKind.MOUNTED, device="/dev/sda1", where="/boot")
    assert describe_device(replace(disk, uses=(mounted,)), "S1").message.endswith("; /dev/sda1 is mounted at /boot")
    unknown = Use(kind=UseKind.UNKNOWN, device="/dev/sda", where="I/O error")
    found = describe_device(replace(disk, uses=(unknown,)), "S1")
    assert found.status is Status.WARN and "I/O error" in found.message
    lone = Use(kind=UseKind.PATH, device="/dev/sda", where="/dev/sdb")
    found = describe_device(replace(disk, uses=(lone,)), "S1")
    assert found.status is Status.WARN and "multipath-tools" in found.hint
    assert (
        ", by /dev/sda and /dev/sdb, called S1"
        in describe_device(replace(disk, paths=("/dev/sda", "/dev/sdb")), "S1").message
    )


def test_configured_disks_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "disk.img").touch()
    disks = (DiskConfig(path=str(tmp_path / "disk.img")), DiskConfig(path=str(tmp_path / "gone"), name="data"))
    found = check_disks(Config(server="web1", state="/s", disks=disks))
    assert [(each.subject, each.status) for each in found] == [
        (f"disk {tmp_path}/disk.img", Status.OK),
        ("disk data", Status.FAIL),
    ]


@pytest.mark.block
def test_this_machine_is_fit() -> None:
    """The packages of this project's own list satisfy its own table."""
    found = {each.subject: each for each in examine_machine(SystemRunner())}
    assert not [each for each in found.values() if each.status is Status.FAIL]
    assert {tool.name for tool in TOOLS} < found.keys()
    assert "16 TiB" in found["partclone.xfs"].message


@pytest.mark.block
def test_a_tool_that_lies_about_itself(tmp_path: Path) -> None:
    old = tmp_path / "blkid"
    old.write_text("#!/bin/sh\necho 'blkid from util-linux 2.20.1'\n")
    old.chmod(0o755)
    tool = Tool(str(old), "util-linux", "nothing is recognised", (2, 36), ("--version",))
    assert look(SystemRunner(), [tool])[0].message.startswith("2.20.1 is too old")
    old.write_text("#!/bin/sh\nexit 1\n")
    assert "does not say" in look(SystemRunner(), [tool])[0].message


def test_a_server_without_anything(tmp_path: Path) -> None:
    found = examine_server(Config(server="web1", state=str(tmp_path / "none")), None, SystemRunner(), offline=True)
    assert [(each.subject, each.status) for each in found] == [
        ("state", Status.FAIL),
        ("keys", Status.FAIL),
        ("recovery kit", Status.WARN),
    ]
