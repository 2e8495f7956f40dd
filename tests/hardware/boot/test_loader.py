"""The steps on a server's tree, without devices: its files corrected, its menu judged, one written where GRUB has
none; what an initrd must say otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.monitor import Monitor
from core.run import SystemRunner
from hardware.boot.config import correct_files, replaced_in_initrd
from hardware.boot.cpio import Member
from hardware.boot.families import family_of
from hardware.boot.grubcfg import entries_of, searched
from hardware.boot.initrd import Held
from hardware.boot.inside import Root
from hardware.boot.job import Job
from hardware.boot.kernels import find_kernels
from hardware.boot.loader import check_fstab, check_menu, need_menu
from hardware.boot.values import BootReport, Mounted
from tests.hardware.boot.servers import BOOT, MD_OLD, ROOT, grow, names, request

PLACES = (
    Mounted("/", "/dev/mapper/vg0-root", "ext4", ROOT),
    Mounted("/boot", "/dev/nvme0n1p2", "ext4", BOOT),
    Mounted("/srv", "/dev/x", "btrfs", "cc", "@data"),
)
FEDORA = {
    "etc/os-release": "ID=rocky\nID_LIKE='rhel fedora'\n",
    "etc/fstab": "/dev/mapper/vg0-root / ext4 defaults 0 0\n/dev/sda2 /boot ext4 defaults 0 0\n",
    "boot/grub2/grub.cfg": f"search --no-floppy --fs-uuid --set=root {BOOT}\nblscfg\n",
    "boot/loader/entries/x.conf": "linux /vmlinuz-5.14\noptions root=/dev/sda3 ro resume=UUID=swap-old $tuned\n",
    "boot/vmlinuz-5.14": "",
    "boot/initramfs-5.14.img": "",
    "lib/modules/5.14/modules.dep": "",
    "etc/lvm/devices/system.devices": "IDTYPE=sys_wwid",
}
GRUB = (
    f"search --no-floppy --fs-uuid --set=root {BOOT}\nlinux /vmlinuz-6.1 root=/dev/mapper/vg0-root\n"
    "initrd /initrd.img-6.1\n"
)


def job(root: Root, **changes: object) -> Job:
    return Job(
        request(**changes), root, PLACES, names(), family_of(root), BootReport(kernels=find_kernels(root)), {},
        SystemRunner(), Monitor(),
    )  # fmt: skip


def test_where_grub_sees_files(tmp_path: Path) -> None:
    with Root(str(grow(tmp_path, {"boot/vmlinuz-1": "", "srv/x/y": ""}))) as root:
        work = job(root)
        assert work.seen_by_grub("/boot/grub") == (BOOT, "/grub")
        assert work.seen_by_grub("/srv/x/y") == ("cc", "/@data/x/y") and work.seen_by_grub("/etc")[0] == ROOT
        assert (
            work.from_grub("/vmlinuz-1") == "/boot/vmlinuz-1" and work.from_grub("/boot/vmlinuz-1") == "/boot/vmlinuz-1"
        )
        assert work.from_grub("/@data/x/y") == "/srv/x/y" and work.from_grub("/nothing") is None


def test_fedora_gets_a_menu_that_any_grub_reads(tmp_path: Path) -> None:
    with Root(str(grow(tmp_path, FEDORA))) as root:
        work = job(root)
        correct_files(work)
        need_menu(work)
        text = root.text("/boot/grub/grub.cfg") or ""
        # sda3 was the PV, which no filesystem is found on any more: root= stays as it was, and the check says it
        assert entries_of(text)[0].kernel == "/vmlinuz-5.14" and entries_of(text)[0].initrds == ("/initramfs-5.14.img",)
        assert entries_of(text)[0].options == "root=/dev/sda3 ro noresume" and searched(text) == {BOOT}
        assert "resume=" not in (root.text("/boot/loader/entries/x.conf") or "").replace("noresume", "")
        assert not root.exists("/etc/lvm/devices/system.devices")
        check_menu(work, "/boot/grub/grub.cfg")
        assert [check.ok for check in work.report.checks] == [False]
        check_menu(work, "/boot/grub2/grub.cfg")
        assert work.report.checks[-1].ok
        check_fstab(work)
        assert work.report.checks[-1].ok and f"UUID={BOOT} /boot" in (root.text("/etc/fstab") or "")
        before = list(root.changed)
        correct_files(job(root))
        need_menu(job(root))
        assert root.changed == before


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("", "", ""),
        ("root=/dev/mapper/vg0-root", "root=/dev/mapper/vg0-gone", "is not the restored root"),
        ("root=/dev/mapper/vg0-root", f"root=UUID={BOOT}", "is not the restored root"),
        ("root=/dev/mapper/vg0-root", f"root=UUID={ROOT}", ""),
        ("/vmlinuz-6.1", "/vmlinuz-6.9", "/vmlinuz-6.9 is not there"),
        ("/initrd.img-6.1", "/initrd.img-6.9", "/initrd.img-6.9 is not there"),
        (BOOT, "0-gone", "0-gone, which is not here"),
        ("linux /", "# ", "no Linux entry"),
    ],
)
def test_menu(old: str, new: str, said: str, tmp_path: Path) -> None:
    files = {"boot/vmlinuz-6.1": "", "boot/initrd.img-6.1": "", "etc/os-release": "ID=debian"}
    with Root(str(grow(tmp_path, {**files, "boot/grub/grub.cfg": GRUB.replace(old, new) if old else GRUB}))) as root:
        work = job(root)
        check_menu(work, "/boot/grub/grub.cfg")
        check = work.report.checks[0]
        assert check.ok == (said == "") and said in check.detail
        check_menu(work, "/boot/grub/none.cfg")
        assert not work.report.checks[1].ok


def test_kernels_on_the_esp_count_too(tmp_path: Path) -> None:
    files = {"boot/vmlinuz-6.1": "", "boot/initrd.img-6.1": "", "lib/modules/6.1/modules.dep": ""}
    files |= {"boot/efi/0a/6.1/linux": "", "boot/efi/0a/6.1/initrd.img-6.1": "", "boot/efi/0a/6.0/linux": ""}
    with Root(str(grow(tmp_path, files))) as root:
        assert [kernel.initrd for kernel in find_kernels(root)] == [
            "/boot/initrd.img-6.1",
            "/boot/efi/0a/6.1/initrd.img-6.1",
        ]


def test_files_of_an_initrd_that_say_something_else_now(tmp_path: Path) -> None:
    said = {
        "etc/mdadm/mdadm.conf": f"ARRAY /dev/md/1 metadata=1.2 UUID={MD_OLD}\n",
        "cryptroot/crypttab": "safe /dev/md1 none luks\n",
        "conf/conf.d/resume": "RESUME=UUID=swap-old\n",
        "conf/conf.d/other": "X=1\n",
        "etc/lvm/devices/system.devices": "",
        "etc/systemd/network/10-refloat-a.link": "same",
    }
    members = {name: Member(name, 0o100644, text.encode()) for name, text in said.items()}
    held = Held((), members, {"e1000": "lib/modules/6.1/kernel/drivers/net/e1000.ko"}, "lib/modules")
    links = {"10-refloat-a.link": b"same", "10-refloat-b.link": b"new"}
    with Root(str(grow(tmp_path, {"etc/os-release": "ID=debian"}))) as root:
        found = replaced_in_initrd(job(root), held, links)
        assert set(found) == {
            "etc/mdadm/mdadm.conf", "cryptroot/crypttab", "conf/conf.d/resume", "etc/lvm/lvmlocal.conf",
            "etc/systemd/network/10-refloat-b.link",
        }  # fmt: skip
        assert found["conf/conf.d/resume"] == b"RESUME=none\n"
        quiet = Held((), {}, {}, "lib/modules")
        assert replaced_in_initrd(job(root), quiet, links) == {}
