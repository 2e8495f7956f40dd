"""A passphrase is tried on a header that lies in a file, before any target is touched."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from core.errors import KeyMissingError
from core.sizes import MIB
from hardware.stack.build import require_passphrase
from tests.hardware.disks import RUNNER, blank

pytestmark = pytest.mark.block


def test_only_the_right_one_opens(tmp_path: Path) -> None:
    path = blank(tmp_path / "disk", 40 * MIB)
    argv = ["cryptsetup", "luksFormat", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]
    subprocess.run([*argv, "--batch-mode", path, "-"], input=b"right", check=True)
    header = tmp_path / "header"
    header.write_bytes(Path(path).read_bytes()[: 16 * MIB] + bytes(MIB))
    require_passphrase(str(header), "vault", b"right", RUNNER)
    with pytest.raises(KeyMissingError, match="vault"):
        require_passphrase(str(header), "vault", b"wrong", RUNNER)
