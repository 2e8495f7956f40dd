"""`raid`: Debian 12, BIOS, two disks: md RAID1 with a group on it, one LV of it a LUKS2 container; boots from either
disk alone. Its network is ifupdown's, on a card named by its MAC."""

from tests.lab.machine import Firmware, Nic
from tests.lab.servers.base import Blank, Server

RAID = Server(
    name="raid",
    suite="bookworm",
    firmware=Firmware.BIOS,
    packages=("grub-pc", "lvm2", "mdadm", "cryptsetup", "ifupdown"),
    disks=(Blank("RAID-A", 3584), Blank("RAID-B", 3584)),
    nics=(Nic("52:54:00:77:00:12"),),
    address="10.77.0.12",
    luks_key="/etc/keys/vault.key",
)
