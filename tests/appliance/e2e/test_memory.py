"""Memory does not grow with the disk: 1 TiB of ext4 with 200 MiB in it, imaged and restored within 300 MiB."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.appliance.e2e.server import MIB, Server, blank, mounted, tool

pytestmark = pytest.mark.block
SIZE = 1 << 40
USED = 200 * MIB
LIMIT_KIB = 300 << 10
#: Less than this, and something else was measured.
FLOOR_KIB = 20 << 10


#: exec(2) hands on the peak of who forked, and pytest's is large: so a small process stands between.
_BETWEEN = """
import os, sys
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
print("peak", usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def _peak(server: Server, *argv: str | Path) -> int:
    """Peak resident set in KiB of a run that must succeed: the largest of the program and the tools it starts."""
    line = [sys.executable, "-c", _BETWEEN, *server.command(*argv)]
    done = subprocess.run(line, capture_output=True, text=True, env=server.environment())
    assert done.returncode == 0, done
    return int(done.stdout.split("peak ")[-1])


def test_a_tebibyte(tmp_path: Path) -> None:
    with mounted(Path("tmpfs"), tmp_path / "mnt", "size=2g", kind="tmpfs") as root:
        disk, target = blank(root / "vda.img", SIZE), blank(root / "target.img", SIZE)
        tool("mkfs.ext4", "-q", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", "-m", "0", disk)
        with mounted(disk, tmp_path / "files", "loop") as files:
            rng = random.Random(1)
            for number in range(USED // (8 * MIB)):
                (files / f"file {number}").write_bytes(rng.randbytes(8 * MIB))
        server = Server.new(root / "server", {"vda": disk})
        assert FLOOR_KIB < _peak(server, "image", "--config", server.config) <= LIMIT_KIB
        assert server.show()["by_name"]["vda"]["method"] == "used"
        words, confirmed = server.onto(target)
        assert FLOOR_KIB < _peak(server, "restore", "latest", *server.unlock, *words, *confirmed) <= LIMIT_KIB
        with mounted(target, tmp_path / "files", "loop", "ro") as files:
            rng = random.Random(1)
            for number in range(USED // (8 * MIB)):
                assert (files / f"file {number}").read_bytes() == rng.randbytes(8 * MIB)
        assert os.stat(target).st_blocks * 512 < 3 * USED
