"""`thick`: Debian 12, BIOS, GPT; /boot ext4, root ext4 and PostgreSQL's xfs on thick LVs; a second disk with a group of
its own; reachable only in a VLAN on a bond of two cards."""

from tests.lab.machine import Firmware, Nic
from tests.lab.servers.base import Blank, Server

THICK = Server(
    name="thick",
    suite="bookworm",
    firmware=Firmware.BIOS,
    packages=("grub-pc", "lvm2", "thin-provisioning-tools", "xfsprogs", "postgresql-15"),
    disks=(Blank("THICK-OS", 5120), Blank("THICK-ARCHIVE", 768)),
    nics=(Nic("52:54:00:42:00:01"), Nic("52:54:00:42:00:02")),
    address="10.42.0.10",
    fingerprinted=("/etc", "/usr", "/boot", "/root", "/srv/archive"),
)
