"""Memory does not grow with the disk: 1 TiB of ext4 with 200 MiB in it, imaged and restored within 300 MiB."""

from __future__ import annotations

import os
import random
import resource
import subprocess
from pathlib import Path

import pytest

from tests.appliance.e2e.server import MIB, Server, blank, mounted, tool

pytestmark = pytest.mark.block
SIZE = 1 << 40
USED = 200 * MIB
LIMIT_KIB = 300 << 10


def _peak(server: Server, *argv: str | Path) -> int:
    """Peak resident set in KiB of a run that must succeed; that of the tools it starts is not in it."""
    process = subprocess.Popen(
        server.command(*argv), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=server.environment()
    )
    assert process.stderr is not None
    with process.stderr as stream:
        words = stream.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, words
    assert isinstance(usage, resource.struct_rusage)
    return usage.ru_maxrss


def test_a_tebibyte(tmp_path: Path) -> None:
    with mounted(Path("tmpfs"), tmp_path / "mnt", "size=2g", kind="tmpfs") as root:
        disk, target = blank(root / "vda.img", SIZE), blank(root / "target.img", SIZE)
        tool("mkfs.ext4", "-q", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", "-m", "0", disk)
        with mounted(disk, tmp_path / "files", "loop") as files:
            rng = random.Random(1)
            for number in range(USED // (8 * MIB)):
                (files / f"file {number}").write_bytes(rng.randbytes(8 * MIB))
        server = Server.new(root / "server", {"vda": disk})
        assert 0 < _peak(server, "image", "--config", server.config) <= LIMIT_KIB
        assert server.show()["by_name"]["vda"]["method"] == "used"
        words, confirmed = server.onto(target)
        assert 0 < _peak(server, "restore", "latest", *server.unlock, *words, *confirmed) <= LIMIT_KIB
        with mounted(target, tmp_path / "files", "loop", "ro") as files:
            rng = random.Random(1)
            for number in range(USED // (8 * MIB)):
                assert (files / f"file {number}").read_bytes() == rng.randbytes(8 * MIB)
        assert os.stat(target).st_blocks * 512 < 3 * USED
