"""fstab, crypttab, mdadm.conf and GRUB's menu after the disks changed under them."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from core.layout import Array, Content
from hardware.boot import grubcfg
from hardware.boot.devices import Names, Now
from hardware.boot.tables import correct_crypttab, correct_fstab, correct_mdadm
from hardware.boot.values import Restored
from tests.hardware.boot.servers import BOOT, BOOT_GUID, CRYPT, DATA, MD_NEW, MD_OLD, NOW, ROOT, layout, names, request

FSTAB = f"""# comment stays
/dev/mapper/vg0-root /               ext4    errors=remount-ro 0       1
/dev/sda2            /boot           ext4    defaults          0       2
UUID=AAAA-0001       /boot/efi       vfat    umask=0077        0       1
UUID={DATA} /srv xfs defaults 0 0
LABEL=usb /mnt/usb auto noauto 0 0
/dev/sdb2 none swap sw 0 0
server:/export /net nfs defaults 0 0
tmpfs /tmp tmpfs size=10% 0 0
/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0
/swapfile none swap sw 0 0"""


def test_fstab_line_by_line() -> None:
    text, notes = correct_fstab(FSTAB, names(), esp="/dev/nvme0n1p1", firmware="uefi")
    old, new = FSTAB.splitlines(), text.splitlines()
    changed = {before: after for before, after in zip(old, new, strict=True) if before != after}
    assert changed == {
        old[2]: old[2].replace("/dev/sda2", f"UUID={BOOT}"),
        old[3]: old[3].replace("AAAA-0001", "EEEE-0001"),
        old[4]: f"# refloat, not here any more: {old[4]}",
        old[6]: f"# refloat, not here any more: {old[6]}",
    }
    assert len(notes) == 4
    assert correct_fstab(text, names(), esp="/dev/nvme0n1p1", firmware="uefi") == (text, [])


def test_esp_is_added_for_uefi_and_goes_for_bios() -> None:
    one = "/dev/mapper/vg0-root / ext4 defaults 0 1\n"
    text, _notes = correct_fstab(one, names(), esp="/dev/nvme0n1p1", firmware="uefi")
    assert text == one + "UUID=EEEE-0001 /boot/efi vfat umask=0077,nofail 0 1\n"
    gone, _notes = correct_fstab("UUID=AAAA-0001 /boot/efi vfat defaults 0 1\n", names(), esp=None, firmware="bios")
    assert gone.startswith("# refloat")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("/dev/vg0/root", "/dev/vg0/root"),
        ("/dev/disk/by-id/ata-DISK_OLDA-part2", f"UUID={BOOT}"),
        ("/dev/disk/by-id/ata-DISK_OLDB-part1", None),
        (f"PARTUUID={BOOT_GUID}", f"UUID={BOOT}"),
        (f'UUID="{BOOT}"', f'UUID="{BOOT}"'),
        (f"/dev/disk/by-uuid/{BOOT}", f"/dev/disk/by-uuid/{BOOT}"),
        (f"UUID={ROOT.upper()}", f"UUID={ROOT.upper()}"),
        ("/dev/sda1", None),
        ("/dev/nvme0n1p1", None),
        ("/dev/md/1", f"UUID={CRYPT}"),
    ],
)
def test_one_spec(old: str, new: str | None) -> None:
    assert names().correct(old) == new


def test_an_array_under_another_name_is_found_by_what_was_restored() -> None:
    now = (*(each for each in NOW if each.path != "/dev/md1"), Now("/dev/md127", uuid="boot-on-md", type="ext4"))
    restored = (Restored("md1", "/dev/md127", Content(type="ext4", uuid="boot-on-md")),)
    found = Names(request(filesystems=restored, arrays=layout().arrays), now)
    assert found.current("/dev/md1") == "/dev/md127" and found.correct("/dev/md/1") == "UUID=boot-on-md"


@pytest.mark.parametrize("now", ["/dev/mapper/mpathb-part2", "/dev/nvme0n1p2"])
@pytest.mark.parametrize("old", ["/dev/mapper/mpatha-part2", "/dev/mapper/mpatha2", f"UUID={BOOT}"])
def test_a_maps_name_goes_with_its_disk_and_its_partitions_by_uuid(old: str, now: str) -> None:
    before = layout()
    joined = replace(before, disks=(replace(before.disks[0], name="mpatha", multipath=True), *before.disks[1:]))
    restored = (Restored("mpatha-part2", now, Content(type="ext4", uuid=BOOT)),)
    # another disk took the old name
    seen = (Now(now, uuid=BOOT, type="ext4"), Now("/dev/mapper/mpatha-part2", uuid="other", type="ext4"))
    found = Names(request(filesystems=restored, layout=joined), seen)
    assert found.current(old) == now and found.correct(old) == f"UUID={BOOT}"


def test_crypttab() -> None:
    text = (
        f"safe /dev/md1 none luks\nold UUID={DATA} /etc/key luks,discard\n# x /dev/sda1\nsame UUID={CRYPT} none luks\n"
    )
    new, notes = correct_crypttab(text, names())
    assert new.splitlines() == [
        f"safe UUID={CRYPT} none luks",
        f"# refloat, not here any more: old UUID={DATA} /etc/key luks,discard",
        "# x /dev/sda1",
        f"same UUID={CRYPT} none luks",
    ]
    assert len(notes) == 2


def test_mdadm_conf_made_again_gone_and_new() -> None:
    md1 = layout().arrays[0]
    text = f"HOMEHOST <system>\nARRAY /dev/md/1 metadata=1.2 UUID={MD_OLD} name=host:1\nARRAY /dev/md9 UUID=1:2:3:4\n"
    assert correct_mdadm(text, (md1,), (md1,)) == (text, [])
    renamed, _notes = correct_mdadm(text, (md1,), (replace_uuid(MD_NEW),))
    assert renamed == text.replace(MD_OLD, MD_NEW)
    gone, _notes = correct_mdadm(text, (md1,), ())
    assert gone.splitlines()[1].startswith("# refloat") and gone.splitlines()[2].startswith("ARRAY /dev/md9")
    new, _notes = correct_mdadm("", (), (md1,))
    assert new == f"ARRAY /dev/md1 metadata=1.2 UUID={MD_OLD}\n"


def replace_uuid(uuid: str) -> Array:
    """md1 made again."""
    return replace(layout().arrays[0], uuid=uuid)


MENU = f"""menuentry 'Debian' {{
	search --no-floppy --fs-uuid --set=root --hint-bios=hd0,gpt2 --hint='hd0,gpt2'  {BOOT}
	linux	/vmlinuz-6.1 root=/dev/sda2 ro resume=UUID=swap-old quiet
	initrd	/initrd.img-6.1
}}
menuentry 'Other' {{
	search --no-floppy --fs-uuid --set=root gone-uuid
	linux	/vmlinuz-6.0 root=/dev/mapper/vg0-root ro
}}
# root=/dev/sda2 in a comment stays"""


def test_menu_is_understood_and_corrected() -> None:
    assert grubcfg.searched(MENU) == {BOOT, "gone-uuid"}
    assert [(entry.kernel, entry.root, entry.initrds) for entry in grubcfg.entries_of(MENU)] == [
        ("/vmlinuz-6.1", "/dev/sda2", ("/initrd.img-6.1",)),
        ("/vmlinuz-6.0", "/dev/mapper/vg0-root", ()),
    ]
    text, notes = grubcfg.correct(MENU, names())
    assert text == MENU.replace("root=/dev/sda2 ro resume=UUID=swap-old", f"root=UUID={BOOT} ro noresume")
    assert len(notes) == 2 and grubcfg.correct(text, names()) == (text, [])
