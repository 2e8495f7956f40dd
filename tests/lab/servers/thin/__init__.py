"""`thin`: Debian 13, UEFI; ESP and /boot on partitions, root and data on thin LVs. Boots by its NVRAM entry only."""

from tests.lab.machine import Firmware, Nic
from tests.lab.servers.base import Blank, Server

THIN = Server(
    name="thin",
    suite="trixie",
    firmware=Firmware.UEFI,
    packages=("grub-efi-amd64", "efibootmgr", "lvm2", "thin-provisioning-tools", "dosfstools"),
    disks=(Blank("THIN-OS", 4608),),
    nics=(Nic("52:54:00:77:00:11"),),
    address="10.77.0.11",
)
