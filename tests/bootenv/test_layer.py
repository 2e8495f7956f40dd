"""The upper layer holds what keeps the rescue environment still, and no secret."""

from __future__ import annotations

import os
from pathlib import Path

from bootenv import recipe
from bootenv.layer import fill


def test_what_would_touch_a_disk_is_switched_off(tmp_path: Path) -> None:
    fill(tmp_path)
    for folder, names in (("etc/udev/rules.d", recipe.QUIET_RULES), ("etc/systemd/system", recipe.QUIET_UNITS)):
        for name in names:
            assert os.readlink(tmp_path / folder / name) == "/dev/null", name
    assert {"64-md-raid-assembly.rules", "69-lvm.rules"} <= set(recipe.QUIET_RULES)
    assert {"e2scrub_reap.service", "lvm2-monitor.service"} <= set(recipe.QUIET_UNITS)
    assert "event_activation = 0" in (tmp_path / "etc/lvm/lvmlocal.conf").read_text()
    assert "AUTO -all" in (tmp_path / "etc/mdadm/mdadm.conf").read_text()


def test_every_unit_that_is_pulled_in_is_there_and_sshd_is_not(tmp_path: Path) -> None:
    fill(tmp_path)
    wants = tmp_path / "etc/systemd/system/multi-user.target.wants"
    pulled = {path.name: os.readlink(path) for path in wants.iterdir()}
    assert {"refloat-station.service", "refloat-console@tty1.service", "refloat-console@ttyS0.service"} <= set(pulled)
    for target in pulled.values():
        if target.startswith("/etc/"):
            assert (tmp_path / target.lstrip("/")).is_file(), target
    assert not [name for name in pulled if "ssh" in name]


def test_paths_to_one_disk_are_joined_and_a_disk_with_one_path_is_left_alone(tmp_path: Path) -> None:
    fill(tmp_path)
    link = tmp_path / "etc/systemd/system/sysinit.target.wants/multipathd.service"
    assert os.readlink(link) == "/usr/lib/systemd/system/multipathd.service"
    assert "multipathd.service" not in recipe.QUIET_UNITS
    assert "find_multipaths yes" in (tmp_path / "etc/multipath.conf").read_text()


def test_no_key_and_no_machine_id_is_in_it(tmp_path: Path) -> None:
    fill(tmp_path)
    assert (tmp_path / "etc/machine-id").read_text() == ""
    held = [path for path in tmp_path.rglob("*") if path.is_file() and b"PRIVATE KEY-----\n" in path.read_bytes()]
    assert held == []
    assert not list(tmp_path.glob("etc/ssh/*key*"))


def test_modes_do_not_depend_on_who_builds(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        fill(tmp_path)
    finally:
        os.umask(old)
    modes = {path.stat().st_mode & 0o7777 for path in tmp_path.rglob("*") if not path.is_symlink()}
    assert modes == {0o755, 0o644}


def test_a_change_of_the_recipe_is_another_base() -> None:
    first = recipe.digest(["a==1"], ["script"])
    assert first == recipe.digest(["a==1"], ["script"])
    assert len({first, recipe.digest(["a==2"], ["script"]), recipe.digest(["a==1"], ["other"])}) == 3
