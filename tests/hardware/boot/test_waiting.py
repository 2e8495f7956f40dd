"""An initrd of Debian's kind asks for its volume group again while it waits; others are left alone."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from hardware.boot.cpio import pack, split
from hardware.boot.initrd import examine
from hardware.boot.inside import Root
from hardware.boot.waiting import keeps_waiting, waits_for_volumes
from tests.hardware.boot.servers import grow
from tests.hardware.disks import RUNNER

DEBIAN = {"scripts/functions": b"# here\n", "scripts/local-block/ORDER": b'/scripts/local-block/mdadm "$@"\n'}


def test_only_an_initrd_that_does_not_ask_by_itself_is_completed() -> None:
    files = waits_for_volumes(examine(pack(DEBIAN, frozenset()), RUNNER))
    lines = files["scripts/local-block/ORDER"].decode().splitlines()
    assert lines == ['/scripts/local-block/mdadm "$@"', '/scripts/local-block/refloat-lvm "$@"']
    (segment,) = split(pack(files, frozenset()), bytes)
    modes = {member.name: stat.S_IMODE(member.mode) for member in segment.members}
    assert modes["scripts/local-block/refloat-lvm"] == 0o755 and modes["scripts/local-block/ORDER"] == 0o644
    theirs = {**DEBIAN, "scripts/local-block/lvm2": b"#!/bin/sh\n"}
    assert waits_for_volumes(examine(pack(theirs, frozenset()), RUNNER)) == {}
    assert waits_for_volumes(examine(pack({"init": b"dracut"}, frozenset()), RUNNER)) == {}


@pytest.mark.block
def test_the_script_asks_lvm_and_never_fails(tmp_path: Path) -> None:
    """Run as initramfs-tools runs it: once for its prerequisites, then with the root's name."""
    tree = grow(tmp_path / "server", {"etc/initramfs-tools/scripts/": ""})
    with Root(str(tree)) as root:
        assert keeps_waiting(root) and not keeps_waiting(root)
    script = tree / "etc/initramfs-tools/scripts/local-block/refloat-lvm"
    (tmp_path / "lvm").write_text('#!/bin/sh\necho "$@" >>"$0.said"\nexit 5\n')
    (tmp_path / "lvm").chmod(0o755)
    for argument in ("prereqs", "/dev/mapper/vg0-root"):
        subprocess.run([script, argument], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True)
    (said,) = (tmp_path / "lvm.said").read_text().splitlines()
    assert said.startswith("vgchange --activate ay --activationmode complete")
    grow(
        tmp_path / "newer",
        {"etc/initramfs-tools/scripts/": "", "usr/share/initramfs-tools/scripts/local-block/lvm2": ""},
    )
    with Root(str(tmp_path / "newer")) as root:
        assert not keeps_waiting(root)
