"""An initrd of Debian's kind asks for its volume group again while it waits; others are left alone."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from hardware.boot.cpio import pack, split
from hardware.boot.initrd import examine
from hardware.boot.inside import Root
from hardware.boot.waiting import asks_for_volumes, keeps_asking
from tests.hardware.boot.servers import grow
from tests.hardware.disks import RUNNER

DEBIAN = {
    "scripts/functions": b"# here\n",
    "scripts/local-block/ORDER": b'/scripts/local-block/mdadm "$@"\n',
    "sbin/lvm": b"ELF",
}
#: A server of that kind, with and without what later releases of lvm2 bring.
SERVER = {"etc/initramfs-tools/scripts/": "", "usr/share/initramfs-tools/hooks/lvm2": "#!/bin/sh\n"}


def test_an_initrd_asks_while_it_waits_and_before_udev_ends() -> None:
    files = asks_for_volumes(examine(pack(DEBIAN, frozenset()), RUNNER))
    lines = files["scripts/local-block/ORDER"].decode().splitlines()
    assert lines == ['/scripts/local-block/mdadm "$@"', '/scripts/local-block/refloat-lvm "$@"']
    assert files["scripts/local-bottom/ORDER"].decode().splitlines() == ['/scripts/local-bottom/refloat-lvm "$@"']
    (segment,) = split(pack(files, frozenset()), bytes)
    modes = {member.name: stat.S_IMODE(member.mode) for member in segment.members}
    for place in ("local-block", "local-bottom"):
        assert modes[f"scripts/{place}/refloat-lvm"] == 0o755 and modes[f"scripts/{place}/ORDER"] == 0o644
    assert asks_for_volumes(examine(pack({**DEBIAN, **files}, frozenset()), RUNNER)) == {}


def test_only_what_an_initrd_does_not_ask_by_itself_is_added() -> None:
    theirs = {**DEBIAN, "scripts/local-block/lvm2": b"#!/bin/sh\n"}
    files = asks_for_volumes(examine(pack(theirs, frozenset()), RUNNER))
    assert {name.rpartition("/")[0] for name in files} == {"scripts/local-bottom"}
    without = {name: data for name, data in DEBIAN.items() if name != "sbin/lvm"}
    for other in (without, {"init": b"dracut", "sbin/lvm": b"ELF"}):
        assert asks_for_volumes(examine(pack(other, frozenset()), RUNNER)) == {}


@pytest.mark.block
def test_the_script_asks_lvm_and_never_fails(tmp_path: Path) -> None:
    """Run as initramfs-tools runs it: once for its prerequisites, then with the root's name."""
    tree = grow(tmp_path / "server", SERVER)
    with Root(str(tree)) as root:
        assert keeps_asking(root) and not keeps_asking(root)
    (tmp_path / "lvm").write_text('#!/bin/sh\necho "$@" >>"$0.said"\nexit 5\n')
    (tmp_path / "lvm").chmod(0o755)
    for place in ("local-block", "local-bottom"):
        script = tree / f"etc/initramfs-tools/scripts/{place}/refloat-lvm"
        for argument in ("prereqs", "/dev/mapper/vg0-root"):
            subprocess.run([script, argument], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True)
    said = (tmp_path / "lvm.said").read_text().splitlines()
    assert len(said) == 2
    assert all(line.startswith("vgchange --activate ay --activationmode complete") for line in said)


@pytest.mark.parametrize(
    "files",
    [
        {name: text for name, text in SERVER.items() if "hooks" not in name},
        {
            **SERVER,
            **{f"usr/share/initramfs-tools/scripts/{place}/lvm2": "" for place in ("local-block", "local-bottom")},
        },
    ],
    ids=["no-lvm", "newer"],
)
def test_other_servers_are_left_alone(files: dict[str, str], tmp_path: Path) -> None:
    with Root(str(grow(tmp_path / "server", files))) as root:
        assert not keeps_asking(root)
