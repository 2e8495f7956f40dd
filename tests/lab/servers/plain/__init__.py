"""`plain`: Debian 13, UEFI, no LVM: root ext4, data btrfs on partitions. Boots by its NVRAM only; imaged offline."""

from tests.lab.machine import Firmware, Nic
from tests.lab.servers.base import Blank, Server

PLAIN = Server(
    name="plain",
    suite="trixie",
    firmware=Firmware.UEFI,
    packages=("grub-efi-amd64", "efibootmgr", "btrfs-progs", "dosfstools"),
    disks=(Blank("PLAIN-OS", 4096),),
    nics=(Nic("52:54:00:77:00:13"),),
    address="10.77.0.13",
)
