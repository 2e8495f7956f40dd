"""Real disks for the block tests: sparse files partitioned with the stock tools. Sizes in bytes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from core.run import SystemRunner

MIB = 1 << 20
RUNNER = SystemRunner()

LINUX = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
ESP = "C12A7328-F81F-11D2-BA4B-00C04FC93EC3"
SWAP_GUID = "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F"
ESP_NAME = 'name="EFI \\x22sys\\x22 \\x5c é $x"'


def tool(*argv: str, stdin: str = "") -> str:
    """Run a stock tool, whatever Refloat's own runner does."""
    path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    return subprocess.run(argv, input=stdin, check=True, capture_output=True, text=True, env=path).stdout


def blank(path: Path, size_bytes: int) -> str:
    """A sparse file."""
    path.touch()
    os.truncate(path, size_bytes)
    return str(path)


def partition(path: str, script: str) -> str:
    """A table from an sfdisk script (sectors of 512 for files, the device's own for devices)."""
    tool("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "--wipe", "always", path, stdin=script)
    return path


def gpt_script(sector_bytes: int = 512) -> str:
    """A server's disk of 100 MiB with odd numbers, attributes and a name that needs quoting."""
    unit = MIB // sector_bytes
    guid = "4c1e1d3a-0000-4000-8000-0000000000"
    return f"""label: gpt
label-id: {guid}00
first-lba: {max(6, 40)}

14 : start={1 * unit}, size={1 * unit}, type={BIOS_BOOT}, uuid={guid}14, name="bios", attrs="LegacyBIOSBootable"
15 : start={2 * unit}, size={36 * unit}, type={ESP}, uuid={guid}15, {ESP_NAME}, attrs="RequiredPartition 48,63"
1 : start={40 * unit}, size={48 * unit}, type={LINUX}, uuid={guid}01
3 : start={90 * unit}, size={4 * unit}, type={SWAP_GUID}, uuid={guid}03, name="swap"
"""


DOS_SCRIPT = """label: dos
label-id: 0x1234abcd

1 : start=2048, size=20480, type=83, bootable
2 : start=40960, size=100000, type=5
4 : start=22528, size=2048, type=c
5 : start=43008, size=20480, type=82
6 : start=80000, size=20480, type=83
"""
