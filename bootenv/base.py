"""The base system: Debian, packed. Made from nothing in minutes, kept in the cache under the digest of its recipe.

A `Base` is a finished folder in the cache: `base.squashfs`, `vmlinuz`, `initrd.img`, `loaders/`, `packages.txt`. Holds
nothing of Refloat's own code and no secret. Needs root. May import `core` and `bootenv.{bundle,recipe}`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from bootenv import bundle, recipe
from core.errors import ConfigError, ToolError
from core.monitor import Monitor
from core.run import Runner

_INITRD_HOOK, _INITRD_CONF = "initrd-hook", "initramfs.conf"
#: Modules of GRUB's own image for BIOS from a CD: enough to find its modules folder and read the menu.
_GRUB_BIOS = (
    "biosdisk iso9660 part_msdos part_gpt normal configfile linux search search_label test echo serial terminal"
)
#: 128 KiB blocks: larger ones save 3 % of space, and cost a slow machine a megabyte of unpacking for each small file.
_SQUASH = ("-comp", "zstd", "-b", "128K", "-noappend", "-no-progress", "-quiet", "-xattrs", "-mkfs-time", "0")


@dataclass(frozen=True)
class Base:
    """A finished base system in its folder."""

    folder: Path

    @property
    def squashfs(self) -> Path:
        return self.folder / "base.squashfs"

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """Kernel modules, udev, busybox; without the script that finds the root, which is code."""
        return self.folder / "initrd.img"

    @property
    def loaders(self) -> Path:
        return self.folder / "loaders"


def cache_folder() -> Path:
    """Where base systems are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "refloat" / "rescue"


def get_base(runner: Runner, monitor: Monitor, *, cache: Path, force: bool = False) -> Base:
    """The base system of today's recipe: from the cache, or made now (`force`: made anew, for Debian's updates).

    Older ones in the cache are removed. Raises ConfigError without root, ToolError when a step fails.
    """
    made_by = [*_scripts(), Path(__file__).read_text()]  # this module decides too, by what it tells the tools
    folder = cache / f"base-{recipe.digest(bundle.requirements_for(recipe.PYTHON), made_by)}"
    cache.mkdir(parents=True, exist_ok=True)
    with _alone(cache):
        if force or not (folder / "packages.txt").is_file():
            if os.geteuid() != 0:
                raise ConfigError("only root can build the base system", hint="run it as root")
            _make(folder, runner, monitor)
        for old in cache.glob("base-*"):
            if old != folder:
                shutil.rmtree(old)
    return Base(folder)


def _scripts() -> list[str]:
    return [(files("bootenv") / "files" / name).read_text() for name in (_INITRD_HOOK, _INITRD_CONF)]


@contextlib.contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """One builder at a time; the kernel lets go when the process dies."""
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(folder: Path, runner: Runner, monitor: Monitor) -> None:
    """Build beside its place and rename: a killed build leaves nothing that looks finished."""
    for left in folder.parent.glob("making-*"):
        shutil.rmtree(left)
    made = Path(tempfile.mkdtemp(prefix="making-", dir=folder.parent))
    try:
        root, out = made / "root", made / "out"
        (out / "loaders").mkdir(parents=True)
        _bootstrap(root, runner, monitor)
        monitor.step("putting Refloat's packages in")
        bundle.install_packages(root, recipe.PYTHON, runner)
        _chroot(
            root, ["python3", "-m", "compileall", "-q", f"/{bundle.LIB}"], runner, "compile the packages", ok=(0, 1)
        )
        version = _kernel_version(root)
        _trim_drivers(root, version, runner)
        _make_initrd(root, version, runner, monitor)
        shutil.copyfile(root / f"boot/vmlinuz-{version}", out / "vmlinuz")
        shutil.move(root / "refloat.initrd", out / "initrd.img")
        _take_loaders(root, out / "loaders", runner)
        listed = _chroot(root, ["dpkg-query", "-W"], runner, "list the packages")
        _drop(root, recipe.DROPPED_PATHS)
        squash(root, out / "base.squashfs", runner, monitor)
        (out / "packages.txt").write_bytes(listed)
        if folder.exists():
            shutil.rmtree(folder)
        out.rename(folder)
    finally:
        shutil.rmtree(made)


def squash(root: Path, target: Path, runner: Runner, monitor: Monitor, *, level: int = 15) -> None:
    """Pack a folder; names, modes and owners as they are, times at the epoch so that equal content packs equally."""
    monitor.step(f"packing {target.name}")
    argv = ["mksquashfs", str(root), str(target), *_SQUASH, "-all-time", "0", "-Xcompression-level", str(level)]
    runner.run(argv, purpose=f"pack {target.name}", timeout=3600)


def _bootstrap(root: Path, runner: Runner, monitor: Monitor) -> None:
    monitor.step(f"installing Debian {recipe.SUITE} ({len(recipe.packages())} packages and what they need)")
    argv = ["mmdebstrap", "--variant=apt", f"--components={recipe.COMPONENTS}", "--quiet"]
    argv += ['--aptopt=Acquire::Languages "none"', '--aptopt=Apt::Install-Recommends "false"']
    # no initrd while packages go in: it is made once, at the end, with hooks of ours only
    argv += ["--essential-hook=mkdir -p $1/etc/initramfs-tools && echo update_initramfs=no"
             " > $1/etc/initramfs-tools/update-initramfs.conf"]  # fmt: skip
    argv += ["--dpkgopt=force-confold"]  # that file is there before its package
    argv += [f"--include={','.join(recipe.packages())}", recipe.SUITE, str(root)]
    runner.run(argv, purpose="install the rescue environment's Debian", timeout=3600)


def _kernel_version(root: Path) -> str:
    found = sorted(path.name for path in (root / "usr/lib/modules").iterdir())
    if len(found) != 1:
        raise ToolError(f"the rescue environment has {len(found)} kernels ({', '.join(found)}), one is needed")
    return found[0]


def _trim_drivers(root: Path, version: str, runner: Runner) -> None:
    _drop(root / f"usr/lib/modules/{version}/kernel", recipe.DROPPED_MODULES)
    _drop(root / "usr/lib/firmware", recipe.DROPPED_FIRMWARE)
    _chroot(root, ["depmod", version], runner, "index the kernel's modules")


def _make_initrd(root: Path, version: str, runner: Runner, monitor: Monitor) -> None:
    monitor.step("making the initrd")
    _drop(root / "usr/share/initramfs-tools/hooks", recipe.DROPPED_INITRD_HOOKS)
    source, conf = files("bootenv") / "files", root / "etc/initramfs-tools"
    (conf / "initramfs.conf").write_text((source / _INITRD_CONF).read_text())
    hook = conf / "hooks/refloat"
    hook.parent.mkdir(parents=True, exist_ok=True)
    hook.write_text((source / _INITRD_HOOK).read_text())
    hook.chmod(0o755)
    _chroot(root, ["mkinitramfs", "-o", "/refloat.initrd", version], runner, "make the initrd")


def _take_loaders(root: Path, target: Path, runner: Runner) -> None:
    """GRUB for both firmwares (signed for UEFI), and iPXE's programs, from the same Debian."""
    argv = ["grub-mkimage", "-O", "i386-pc-eltorito", "-o", "/eltorito.img", "-p", "/boot/grub", *_GRUB_BIOS.split()]
    _chroot(root, argv, runner, "make GRUB's CD image")
    shutil.move(root / "eltorito.img", target / "eltorito.img")
    wanted = {
        "usr/lib/grub/i386-pc/boot_hybrid.img": "boot_hybrid.img",
        "usr/lib/shim/shimx64.efi.signed": "shimx64.efi",
        "usr/lib/shim/mmx64.efi.signed": "mmx64.efi",
        # the CD's variant looks for /.disk/info and reads the menu beside it
        "usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed": "grubx64.efi",
        **{f"usr/lib/ipxe/{name}": name for name in ("undionly.kpxe", "snponly.efi", "ipxe.efi", "ipxe.lkrn")},
    }
    for source, name in wanted.items():
        if not (root / source).is_file():
            raise ToolError(f"Debian's packages hold no {source} any more", hint="correct bootenv/base.py")
        shutil.copyfile(root / source, target / name)


def _chroot(
    root: Path, argv: Sequence[str], runner: Runner, purpose: str, *, ok: Sequence[int] = (0,), timeout: float = 900
) -> bytes:
    return runner.run(["chroot", str(root), *argv], purpose=purpose, ok=ok, timeout=timeout).stdout


def _drop(root: Path, patterns: Sequence[str]) -> None:
    for pattern in patterns:
        for path in root.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
