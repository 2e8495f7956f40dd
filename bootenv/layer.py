"""The upper layer: Refloat's own code, units and settings, packed as `app.squashfs`, and the initrd's root script.

Made in seconds from the clone or installation; a change of code touches this layer only. May import `core` and
`bootenv.{base,bundle,cpio,recipe}`.
"""

from __future__ import annotations

import shutil
import tempfile
from importlib.resources import as_file, files
from pathlib import Path

from bootenv import bundle, recipe
from bootenv.base import Base, squash
from bootenv.cpio import Entry, archive
from core.monitor import Monitor
from core.run import Runner

HOSTNAME = "refloat-rescue"
#: Unit → what pulls it in.
_ENABLED = {
    "/etc/systemd/system/refloat-station.service": "multi-user.target.wants/refloat-station.service",
    "/etc/systemd/system/refloat-console@.service": "multi-user.target.wants/refloat-console@tty1.service",
    # the same unit on the serial line
    "/etc/systemd/system/./refloat-console@.service": "multi-user.target.wants/refloat-console@ttyS0.service",
    # several paths to one disk become one disk; that writes nothing
    "/usr/lib/systemd/system/multipathd.service": "sysinit.target.wants/multipathd.service",
    "/usr/lib/systemd/system/systemd-networkd.service": "multi-user.target.wants/systemd-networkd.service",
    "/usr/lib/systemd/system/systemd-resolved.service": "multi-user.target.wants/systemd-resolved.service",
}


def pack_layer(base: Base, target: Path, runner: Runner, monitor: Monitor) -> None:
    """Write `app.squashfs` to `target`, for this base. Needs root."""
    with tempfile.TemporaryDirectory(prefix="refloat-layer-") as temporary:
        root = Path(temporary, "root")
        root.mkdir(mode=0o755)
        fill(root)
        _compile(base, root, Path(temporary, "base"), runner)
        squash(root, target, runner, monitor, level=9)


def fill(root: Path) -> None:
    """Everything of the layer but compiled code, into an empty folder."""
    bundle.install_code(root)
    with as_file(files("bootenv") / "files" / "root") as settings:
        shutil.copytree(settings, root, dirs_exist_ok=True)
    units, rules = root / "etc/systemd/system", root / "etc/udev/rules.d"
    rules.mkdir(parents=True, exist_ok=True)
    for folder, names in ((rules, recipe.QUIET_RULES), (units, recipe.QUIET_UNITS)):
        for name in names:
            (folder / name).symlink_to("/dev/null")
    for unit, wanted in _ENABLED.items():
        link = units / wanted
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(unit)
    (units / "default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")
    (root / "etc/hostname").write_text(f"{HOSTNAME}\n")
    (root / "etc/hosts").write_text(f"127.0.0.1 localhost {HOSTNAME}\n::1 localhost ip6-localhost\n")
    # empty, not missing: systemd then makes a new one in memory without taking it for a first boot
    (root / "etc/machine-id").write_text("")
    (root / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def _compile(base: Base, root: Path, mount: Path, runner: Runner) -> None:
    """Compile the code with the rescue environment's own Python: on a slow machine that is seconds of its start."""
    mount.mkdir()
    argv = ["mount", "-t", "squashfs", "-o", "ro,loop", str(base.squashfs), str(mount)]
    runner.run(argv, purpose="look into the base system")
    try:
        runner.run(["mount", "--bind", str(root), str(mount / "mnt")], purpose="show it the code")
        try:
            argv = ["chroot", str(mount), "python3", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
            runner.run([*argv, "-s", "/mnt", f"/mnt/{bundle.APP}"], purpose="compile Refloat's code", timeout=300)
        finally:
            runner.run(["umount", str(mount / "mnt")], purpose="take the code away")
    finally:
        runner.run(["umount", str(mount)], purpose="close the base system")


def complete_initrd(base: Base, target: Path) -> None:
    """The base's initrd and, appended as a second archive that the kernel unpacks over it, the script of the root."""
    script = (files("bootenv") / "files" / "initrd-root").read_bytes()
    extra = archive([Entry("scripts", 0o40755), Entry("scripts/refloat", 0o100644, script)])
    data = base.initrd.read_bytes()
    # archives begin at multiples of four bytes
    target.write_bytes(data + bytes(-len(data) % 4) + extra)
