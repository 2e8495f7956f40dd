"""Which filesystem holds a path, and which must never be frozen from user space."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.errors import SourceError
from imager.hold.mounts import filesystem_of, freezing_is_safe, parse

TEXT = """\
28 1 0:25 / / rw,relatime shared:1 - btrfs /dev/mapper/vg0-root rw,subvolid=256,subvol=/@
30 28 0:26 /home /home rw,relatime shared:2 - btrfs /dev/mapper/vg0-root rw,subvolid=257,subvol=/@home
31 28 0:5 / /dev rw,nosuid - devtmpfs udev rw
40 28 252:3 / /srv rw,relatime shared:3 - xfs /dev/mapper/vg0-srv rw
41 40 252:4 / /srv/with\\040blank rw,relatime - ext4 /dev/mapper/vg0-blank rw
42 28 252:3 /sub /bind rw,relatime shared:3 - xfs /dev/mapper/vg0-srv rw
"""


def test_a_path_is_on_the_deepest_mount_above_it() -> None:
    mounts = parse(TEXT)
    which = {path: filesystem_of(path, mounts) for path in ("/", "/home/x", "/dev/null", "/srv/a", "/srv/with blank/b")}
    assert (
        which["/"] == which["/home/x"] == os.path.realpath("/dev/mapper/vg0-root")
    )  # two subvolumes are one filesystem
    assert which["/dev/null"] == "0:5"
    assert which["/srv/a"] != which["/srv/with blank/b"] == os.path.realpath("/dev/mapper/vg0-blank")
    assert filesystem_of("/bind", mounts) == which["/srv/a"]  # freezing a bind mount freezes what it is of


def test_what_cannot_be_told_is_an_error() -> None:
    with pytest.raises(SourceError):
        parse("28 1 0:25 / /\n")
    with pytest.raises(SourceError):
        filesystem_of("/srv", [])


def test_the_system_and_our_own_folders_are_never_frozen(tmp_path: Path) -> None:
    safe = freezing_is_safe([str(tmp_path)])
    for path in ("/", "/etc", "/usr", str(tmp_path), os.getcwd(), os.path.dirname(__file__)):
        assert not safe(path)
    assert safe("/proc")
