"""LVM under initramfs-tools: while the initrd waits for the root filesystem, its volume group is asked for again.

Since Debian 12 the volumes are activated by one udev event alone (Debian's bugs 1082403 and 1089167), and now and then
that event comes to nothing: a server with two groups on two NVMe disks waited in vain in one of some fifty boots. The
waiting loop runs every script in scripts/local-block (initramfs-tools(7)). Imports `hardware.boot.{initrd,inside}`.
"""

from __future__ import annotations

from hardware.boot.initrd import Held
from hardware.boot.inside import Root

_PLACE = "scripts/local-block"
_NAME = "refloat-lvm"
_THEIRS = f"{_PLACE}/lvm2"
_SCRIPT = b"""#!/bin/sh
# Put here by Refloat when it restored this server: the udev event that activates volume groups can get lost.
if [ "$1" = prereqs ]; then
    exit 0
fi
# complete: a group that still lacks a disk is not started without it
lvm vgchange --activate ay --activationmode complete --sysinit >/dev/null 2>&1
exit 0
"""


def waits_for_volumes(held: Held) -> dict[str, bytes]:
    """The files that an initrd lacks, by name; none when its own scripts ask, or when it is of another kind."""
    if "scripts/functions" not in held.members or _THEIRS in held.members:
        return {}
    order = held.members.get(f"{_PLACE}/ORDER")
    line = f'/{_PLACE}/{_NAME} "$@"\n'.encode()
    return {f"{_PLACE}/{_NAME}": _SCRIPT, f"{_PLACE}/ORDER": (order.data if order else b"") + line}


def keeps_waiting(root: Root) -> bool:
    """Have the next initrd the server makes itself hold the script too. True when it was put there."""
    there = root.exists(f"/usr/share/initramfs-tools/{_THEIRS}") or not root.exists("/etc/initramfs-tools/scripts")
    if there:
        return False
    root.make_folder(f"/etc/initramfs-tools/{_PLACE}")
    return root.write(f"/etc/initramfs-tools/{_PLACE}/{_NAME}", _SCRIPT, mode=0o755)
