"""The server wrote these files: whatever stands in them, nothing breaks, and doing it again changes nothing more."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hardware.boot import grubcfg
from hardware.boot.clone import rename_hosts
from hardware.boot.network import rewrite
from hardware.boot.tables import correct_crypttab, correct_fstab, correct_mdadm
from tests.hardware.boot.servers import BOOT, MD_OLD, layout, names

WORDS = st.sampled_from(
    [
        "/dev/sda2", "/dev/sda1", "/dev/mapper/vg0-root", f"UUID={BOOT}", 'UUID="x', "UUID=", "=", "LABEL=a\\040b",
        "/dev/disk/by-id/a-part99999999999", "/dev/disk/by-uuid/", "none", "swap", "/", "/boot", "/boot/efi", "vfat",
        "ext4", "defaults,nofail", "#", "ARRAY", f"UUID={MD_OLD}", "uuid=::", "\\777", "linux", "initrd",
        "root=/dev/sda2",
        "resume=", 'root="', "search --fs-uuid --set=root", "[Match]", "match:", "MACAddress=52:54:00:aa:00:01",
        "\t", "é",        "52-54-00-AA-00-01", "hwaddress ether", "\udcff",
    ]
)  # fmt: skip
TEXT = st.lists(st.lists(WORDS | st.text(max_size=6), max_size=6).map(" ".join), max_size=8).map("\n".join)


@given(TEXT)
def test_tables(text: str) -> None:
    for esp, firmware in (("/dev/nvme0n1p1", "uefi"), (None, "bios")):
        once, _notes = correct_fstab(text, names(), esp=esp, firmware=firmware)
        assert correct_fstab(once, names(), esp=esp, firmware=firmware) == (once, [])
    once, _notes = correct_crypttab(text, names())
    assert correct_crypttab(once, names()) == (once, [])
    arrays = layout().arrays
    once, _notes = correct_mdadm(text, arrays, ())
    assert correct_mdadm(once, arrays, ()) == (once, [])


@given(TEXT)
def test_menus_and_networks(text: str) -> None:
    once, _notes = grubcfg.correct(text, names())
    assert grubcfg.correct(once, names())[0] == once
    grubcfg.entries_of(text)
    grubcfg.searched(text)
    changed, kept = rewrite(text, {"52:54:00:aa:00:01": "52:54:00:bb:00:01"})
    assert len(changed) == len(text) and all(line in text for line in kept)
    rename_hosts(text, "sda", "sdb")
