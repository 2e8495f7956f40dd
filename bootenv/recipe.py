"""What the rescue environment is made of: Debian packages with reasons, what is cut away, what must keep still.

Constant data and pure functions; imports nothing of the other rooms. A change here makes `build` start from nothing; a
change of Refloat's own code does not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

#: Debian 13 and the Python it has: the wheels are chosen for it.
SUITE = "trixie"
PYTHON = "3.13"
COMPONENTS = "main,non-free-firmware"

PACKAGES: dict[str, tuple[str, ...]] = {
    # Debian's standard kernel, which is signed for Secure Boot; the cloud kernel lacks ahci, e1000 and most HBAs
    "kernel and its start": ("linux-image-amd64", "initramfs-tools", "busybox", "kmod", "udev", "zstd"),
    "system": ("systemd-sysv", "systemd-resolved", "dbus", "ca-certificates", "util-linux-extra", "kbd"),
    "storage stacks": ("lvm2", "thin-provisioning-tools", "mdadm", "cryptsetup-bin", "multipath-tools", "dmsetup"),
    "filesystems": ("e2fsprogs", "xfsprogs", "btrfs-progs", "dosfstools", "ntfs-3g", "partclone", "fuse3"),
    # for looking into a restored server's initrd, and adding to it
    "archives": ("lz4", "xz-utils"),
    "tables": ("fdisk", "gdisk", "parted"),
    # loaders for both firmwares, also of servers that had only one; the signed ones for Secure Boot
    "loaders": (
        "grub2-common", "grub-pc-bin", "grub-efi-amd64-bin", "grub-efi-amd64-signed", "shim-signed", "efibootmgr",
        "mokutil", "ipxe",
    ),
    # arping and ndisc6 ask whether the old server still holds its addresses
    "network": (
        "iproute2", "iputils-ping", "iputils-arping", "ndisc6", "ethtool", "openssh-client", "openssh-server", "curl",
        "tcpdump", "rsync",
    ),
    "what Refloat imports from Debian": (
        "python3", "python3-gi", "python3-parted", "python3-pyudev", "python3-bytesize", "gir1.2-blockdev-3.0",
        "libblockdev-lvm3", "libblockdev-mdraid3", "libblockdev-crypto3", "libblockdev-fs3", "libblockdev-part3",
        "libblockdev-swap3", "libblockdev-mpath3", "libblockdev-dm3", "libblockdev-btrfs3", "libblockdev-nvme3",
        "libblockdev-loop3",
    ),
    "for a person who looks": (
        "smartmontools", "nvme-cli", "sg3-utils", "pciutils", "usbutils", "dmidecode", "less", "nano", "vim-tiny",
        "tmux", "strace", "pv", "age",
    ),
    # wired cards of servers only: Broadcom, QLogic/Marvell, Intel (ice), NetXen, Netronome, Myricom, Realtek; and what
    # misc-nonfree holds for HBAs. Left out: wireless, graphics, sound, Bluetooth, switches
    "firmware": (
        "firmware-bnx2", "firmware-bnx2x", "firmware-qlogic", "firmware-intel-misc", "firmware-netxen",
        "firmware-netronome", "firmware-myricom", "firmware-realtek", "firmware-cavium", "firmware-misc-nonfree",
        "firmware-linux-free",
    ),
}  # fmt: skip

#: Folders of /usr/lib/modules/VERSION/kernel that no restore needs.
DROPPED_MODULES = (
    "sound", "net/bluetooth", "net/mac80211", "net/wireless", "net/can", "net/nfc", "net/batman-adv",
    "net/mac802154", "drivers/media", "drivers/bluetooth", "drivers/net/wireless", "drivers/net/can",
    "drivers/staging", "drivers/iio", "drivers/infiniband/hw/hfi1", "drivers/isdn", "drivers/gpu",
    "drivers/comedi", "drivers/accel", "drivers/nfc", "drivers/video", "drivers/input/joystick",
    "drivers/input/touchscreen", "drivers/net/wwan", "drivers/firewire", "drivers/soundwire", "drivers/leds",
    "drivers/hwmon", "drivers/greybus", "drivers/w1", "drivers/pcmcia",
)  # fmt: skip

#: Firmware of devices that no restore needs, within /usr/lib/firmware.
DROPPED_FIRMWARE = (
    "amdgpu", "radeon", "i915", "xe", "nvidia", "matrox", "r128", "av7110", "dvb*", "go7007", "s5p-*", "v4l-*",
    "vpu*", "rtl_bt", "rtlwifi", "rtw88", "rtw89", "mrvl", "libertas", "mwl8k", "mwlwifi", "ath*", "brcm",
    "cypress", "ti-connectivity", "rsi", "mediatek", "mt7*", "intel/ipu", "intel/sof*", "intel/avs",
    "intel/catpt", "intel/ibt*", "intel/vsc", "intel/fw_sst*", "intel/irci*", "cirrus", "qcom", "amd-ucode",
    "amdnpu", "cnm", "dabusb", "ess", "korg", "sb16", "yamaha", "emi26", "emi62", "keyspan*", "meson", "imx",
    "wfx", "airoha", "arm", "powervr", "nxp", "ueagle-atm", "dpaa2", "ti", "inside-secure", "cadence",
    "netronome/flower*", "netronome/bpf", "ositech", "amphion", "iwlwifi*", "nvidia*", "rp2*", "whiteheat*", "lgs8*",
)  # fmt: skip

#: What else is cut from the root before it is packed.
DROPPED_PATHS = (
    "boot/*", "initrd.img*", "vmlinuz*", "usr/share/doc/*", "usr/share/man/*", "usr/share/info/*",
    "usr/share/locale/*", "var/cache/apt/*", "var/lib/apt/lists/*", "var/cache/debconf/*-old", "var/log/*",
    "usr/share/bash-completion", "usr/share/zsh", "usr/share/lintian", "usr/share/bug", "usr/lib/ipxe",
    "usr/share/ipxe", "etc/ssh/ssh_host_*", "etc/machine-id", "var/lib/dbus/machine-id", "etc/resolv.conf",
    "etc/hostname", "etc/systemd/system/*", "usr/share/grub/*.pf2",
    # perl-base stays; nothing here needs the rest
    "usr/share/perl", "usr/lib/x86_64-linux-gnu/perl", "usr/lib/x86_64-linux-gnu/libperl.so*",
    "usr/lib/grub/i386-pc/*.module", "usr/lib/x86_64-linux-gnu/perl*/*/auto/Encode/[CJKT]*",
)  # fmt: skip

#: Hooks of packages that would put tools and udev rules into the initrd which assemble what must not be touched.
DROPPED_INITRD_HOOKS = (
    "lvm2", "mdadm", "btrfs", "cryptroot", "cryptgnupg", "cryptkeyctl", "cryptopensc", "cryptpasswd",
    "multipath", "thin-provisioning-tools", "dmsetup", "ntfs_3g", "fuse", "fsck", "resume",
    "zz-busybox-initramfs",
)  # fmt: skip

#: udev rules switched off, and why: booting must write to no disk.
QUIET_RULES: dict[str, str] = {
    "64-md-raid-assembly.rules": "assembles arrays, which writes their superblocks",
    "69-lvm.rules": "activates volume groups",
    "69-bcache.rules": "registers bcache devices, which writes",
    "90-bcache.rules": "as above, older name",
    "63-md-raid-arrays.rules": "starts mdmonitor for arrays",
}

#: Units switched off, and why.
QUIET_UNITS: dict[str, str] = {
    "e2scrub_reap.service": "removes LVM snapshots at boot",
    "e2scrub_all.timer": "makes LVM snapshots",
    "lvm2-monitor.service": "activates and monitors volume groups",
    "lvm2-lvmpolld.socket": "resumes pvmove",
    "dm-event.socket": "repairs and extends volumes",
    "blk-availability.service": "deactivates what the restore made, too early at shutdown",
    "mdmonitor.service": "watches arrays, starts spares",
    "mdcheck_start.timer": "scrubs arrays, which writes",
    "mdcheck_continue.timer": "as above",
    "mdmonitor-oneshot.timer": "as above",
    "multipathd.socket": "the daemon is started by name, see layer.py",
    "fstrim.timer": "discards blocks",
    "xfs_scrub_all.timer": "repairs filesystems",
    "smartmontools.service": "may start self-tests",
    "systemd-pstore.service": "empties the firmware's crash store, which may tell why a server died",
    "systemd-boot-random-seed.service": "writes to the EFI system partition",
    "apt-daily.timer": "nothing is installed here",
    "apt-daily-upgrade.timer": "as above",
    "dpkg-db-backup.timer": "as above",
    "ssh.socket": "the console starts ssh when a key was given, else never",
    "systemd-binfmt.service": "nothing foreign runs here; it costs time",
    "dev-hugepages.mount": "as above",
    "sys-kernel-tracing.mount": "as above",
    "getty@tty1.service": "Refloat's own console is there",
    "serial-getty@ttyS0.service": "as above",
}


def packages() -> list[str]:
    """All packages, sorted."""
    return sorted({name for group in PACKAGES.values() for name in group})


def digest(requirements: Sequence[str], scripts: Sequence[str]) -> str:
    """What the base system is made from, as a short hex digest; the name of its folder in the cache."""
    parts = [SUITE, PYTHON, COMPONENTS, packages(), DROPPED_MODULES, DROPPED_FIRMWARE, DROPPED_PATHS]
    parts += [DROPPED_INITRD_HOOKS, list(requirements), list(scripts)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
