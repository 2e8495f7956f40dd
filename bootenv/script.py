"""What loaders read: iPXE's scripts, GRUB's menu, the kernel's words. Pure functions over values; imports nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

KERNEL, INITRD, BASE, APP = "vmlinuz", "initrd.img", "base.squashfs", "app.squashfs"

#: Words of every start, with the reason beside each.
_WORDS = (
    "boot=refloat",  # the initrd's script of that name makes the root
    "systemd.gpt_auto=0",  # no swap, no /home because of a partition's type
    "raid=noautodetect",  # no md array of the old format
    "noresume",  # no hibernated system is woken, which would write
    "fsck.mode=skip",
    "systemd.condition_needs_update=no",  # caches were made when it was built
    "loglevel=4",  # a serial line is slow, and the banner stands on it
    "console=tty0",
    "console=ttyS0,115200",
)


@dataclass(frozen=True)
class Digests:
    """BLAKE2b-256 of the two squashfs files, in hex."""

    base: str
    app: str

    def __str__(self) -> str:
        return f"{self.base},{self.app}"


def kernel_words(digests: Digests, where: str, extra: Sequence[str] = ()) -> str:
    """The kernel line without the kernel; `where` is `refloat.url=…` or `refloat.medium=…`."""
    return " ".join([*_WORDS, where, f"refloat.digest={digests}", *extra])


def ipxe_script(digests: Digests, url: str, extra: Sequence[str] = ()) -> str:
    """The script that starts it over the network. `url` is the folder the files are served from, ending in `/`.

    `initrd=` on the kernel line is what UEFI kernels find their initrd by; BOOTIF tells the initrd which card it was.
    """
    words = kernel_words(digests, f"refloat.url={url}", ("BOOTIF=01-${netX/mac:hexhyp}", *extra))
    return (
        "#!ipxe\n"
        "echo Refloat rescue environment\n"
        # iPXE before 2020 does not know where its script came from: then it was the boot server's top folder
        "isset ${cwduri} || set cwduri http://${next-server}/\n"
        f"kernel {url}{KERNEL} initrd={INITRD} {words} || goto failed\n"
        f"initrd --name {INITRD} {url}{INITRD} || goto failed\n"
        "boot || goto failed\n"
        ":failed\n"
        "echo Refloat could not be started. Is the boot server still there?\n"
        "shell\n"
    )


def chain_script(url: str) -> str:
    """What the small ISO's iPXE does: DHCP, then the script at `url` or of DHCP's boot server; else it asks."""
    first = f"chain {url}boot.ipxe || goto ask" if url else "chain http://${next-server}/boot.ipxe || goto ask"
    return (
        "#!ipxe\n"
        "echo Refloat rescue environment, over the network\n"
        ":again\n"
        "dhcp || goto manual\n"
        f"{first}\n"
        ":manual\n"
        "echo No DHCP server answered. Set the network up by hand: address, netmask, gateway, DNS.\n"
        "ifopen net0 && config net0\n"
        ":ask\n"
        "echo Where is the boot server? For example http://192.0.2.10:8080/\n"
        "echo -n URL: && read base || goto again\n"
        "chain ${base}boot.ipxe || goto ask\n"
    )


def grub_menu(digests: Digests, label: str) -> str:
    """GRUB's menu on the ISO; on a serial line as well."""
    words = kernel_words(digests, f"refloat.medium={label}")
    return (
        "serial --unit=0 --speed=115200\n"
        "terminal_input console serial\n"
        "terminal_output console serial\n"
        "set default=0\n"
        "set timeout=5\n"
        f'menuentry "Refloat rescue environment" {{\n'
        f"  linux /live/{KERNEL} {words}\n"
        f"  initrd /live/{INITRD}\n"
        "}\n"
    )


def chain_menu() -> str:
    """GRUB's menu on the small ISO: iPXE for BIOS gets its script as an initrd; for UEFI it finds autoexec.ipxe."""
    return (
        "set timeout=0\n"
        'if [ "$grub_platform" = "efi" ]; then\n'
        '  menuentry "Refloat over the network" { chainloader /ipxe.efi }\n'
        "else\n"
        "  insmod /boot/grub/linux16.mod\n"
        '  menuentry "Refloat over the network" {\n'
        "    linux16 /ipxe.lkrn\n"
        "    initrd16 /autoexec.ipxe\n"
        "  }\n"
        "fi\n"
    )
