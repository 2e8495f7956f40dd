"""The two ISOs: the whole rescue environment, and iPXE alone. Both start from CD and stick, on BIOS and UEFI.

The large one starts under Secure Boot: Debian's signed shim, GRUB and kernel. Written with xorriso and mtools.
May import `core` and `bootenv.{base,script}`.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from bootenv.base import Base
from bootenv.script import APP, BASE, INITRD, KERNEL, Digests, chain_menu, chain_script, grub_menu
from core.monitor import Monitor
from core.run import Runner

LINUX16 = "usr/lib/grub/i386-pc/linux16.mod"
_EPOCH = "1980010100000000"
#: So that equal content gives an equal file: these tools take the time of day from here.
_TIMELESS = ("env", "SOURCE_DATE_EPOCH=315532800", "TZ=UTC")


def label_of(digests: Digests) -> str:
    """The volume's name: of this build, so that the initrd does not take another stick's files."""
    return f"REFLOAT-{digests.base[:6]}{digests.app[:6]}".upper()


def write_iso(base: Base, folder: Path, digests: Digests, runner: Runner, monitor: Monitor) -> None:
    """`folder/refloat.iso` from the finished files in `folder`."""
    monitor.step("writing refloat.iso")
    with tempfile.TemporaryDirectory(prefix=".iso-", dir=folder) as temporary:
        tree = Path(temporary, "tree")
        (tree / "live").mkdir(parents=True)
        for name in (KERNEL, INITRD):
            shutil.copyfile(folder / name, tree / "live" / name)
        for name in (BASE, APP):
            (tree / name).hardlink_to(folder / name)
        loaders = {"BOOTX64.EFI": "shimx64.efi", "grubx64.efi": "grubx64.efi", "mmx64.efi": "mmx64.efi"}
        _boot_files(base, tree, grub_menu(digests, label_of(digests)))
        esp = _esp(
            Path(temporary, "efi.img"), {name: base.loaders / source for name, source in loaders.items()}, runner
        )
        _write(tree, esp, base, folder / "refloat.iso", label_of(digests), runner)


def write_small_iso(base: Base, folder: Path, url: str, runner: Runner, monitor: Monitor) -> None:
    """`folder/refloat-ipxe.iso`: iPXE and the script that looks for the boot server (at `url`, if one is given).

    iPXE is not signed, so it does not start under Secure Boot."""
    monitor.step("writing refloat-ipxe.iso")
    with tempfile.TemporaryDirectory(prefix=".iso-", dir=folder) as temporary:
        tree = Path(temporary, "tree")
        tree.mkdir()
        shutil.copyfile(base.loaders / "ipxe.lkrn", tree / "ipxe.lkrn")
        script = tree / "autoexec.ipxe"
        script.write_text(chain_script(url))
        _boot_files(base, tree, chain_menu())
        _take_module(base, tree, Path(temporary, "taken"), runner)
        esp = _esp(Path(temporary, "efi.img"), {"BOOTX64.EFI": base.loaders / "ipxe.efi"}, runner, script)
        _write(tree, esp, base, folder / "refloat-ipxe.iso", "REFLOAT-IPXE", runner)


def _boot_files(base: Base, tree: Path, menu: str) -> None:
    (tree / ".disk").mkdir()
    (tree / ".disk/info").write_text("Refloat\n")  # what Debian's signed GRUB looks for to find its medium
    grub = tree / "boot/grub"
    grub.mkdir(parents=True)
    (grub / "grub.cfg").write_text(menu)
    shutil.copyfile(base.loaders / "eltorito.img", grub / "eltorito.img")


def _take_module(base: Base, tree: Path, place: Path, runner: Runner) -> None:
    """GRUB's way to start iPXE, which no other menu needs, out of the base system."""
    argv = ["unsquashfs", "-quiet", "-no-progress", "-d", str(place), str(base.squashfs), LINUX16]
    runner.run(argv, purpose="take a module of GRUB out of the base system")
    shutil.copyfile(place / LINUX16, tree / "boot/grub/linux16.mod")


def _esp(image: Path, loaders: dict[str, Path], runner: Runner, script: Path | None = None) -> Path:
    """A FAT image with EFI/BOOT/…, as large as it must be."""
    content = sum(path.stat().st_size for path in loaders.values())
    kibibytes = (content + 4095) // 1024 + len(loaders) * 4 + 200
    argv = [
        *_TIMELESS,
        "mkfs.vfat",
        "-C",
        "-n",
        "REFLOATEFI",
        "-i",
        "4ef10a7d",
        "--invariant",
        str(image),
        str(kibibytes),
    ]
    runner.run(argv, purpose="make the ISO's EFI partition")
    purpose = "fill the ISO's EFI partition"
    runner.run([*_TIMELESS, "mmd", "-i", str(image), "::/EFI", "::/EFI/BOOT"], purpose=purpose)
    for name, path in loaders.items():
        runner.run([*_TIMELESS, "mcopy", "-i", str(image), str(path), f"::/EFI/BOOT/{name}"], purpose=purpose)
    if script is not None:
        runner.run([*_TIMELESS, "mcopy", "-i", str(image), str(script), "::/autoexec.ipxe"], purpose=purpose)
    return image


def _write(tree: Path, esp: Path, base: Base, target: Path, label: str, runner: Runner) -> None:
    """A hybrid: El Torito for CDs, an MBR and a GPT that show the EFI partition for sticks."""
    beside = target.with_suffix(".new")
    beside.unlink(missing_ok=True)
    argv = [
        *_TIMELESS, "xorriso", "-as", "mkisofs", "-quiet", "-iso-level", "3", "-r", "-J", "-V", label,
        f"--modification-date={_EPOCH}", "--set_all_file_dates", _EPOCH, "-o", str(beside),
        "--grub2-mbr", str(base.loaders / "boot_hybrid.img"), "--mbr-force-bootable", "-partition_offset", "16",
        "-append_partition", "2", "0xef", str(esp), "-appended_part_as_gpt",
        "-c", "boot/boot.cat", "-b", "boot/grub/eltorito.img", "-no-emul-boot", "-boot-load-size", "4",
        "-boot-info-table", "--grub2-boot-info",
        "-eltorito-alt-boot", "-e", "--interval:appended_partition_2:all::", "-no-emul-boot", str(tree),
    ]  # fmt: skip
    runner.run(argv, purpose=f"write {target.name}", timeout=1800)
    beside.replace(target)
