"""LVM under initramfs-tools: volume groups are asked for again, while the initrd waits for the root and once it has it.

Since Debian 12 the volumes are activated by one udev event alone (Debian's bugs 1082403 and 1089167), and now and then
that event comes to nothing: a server with two groups on two NVMe disks waited in vain in one of some fifty boots, and
one on multipath came up without its second group. For when the root is there, init-bottom ends udev and with it an
activation under way, while /run/lvm remembers that group as seen, so that the real system does not begin again.
The waiting loop runs every script in scripts/local-block, and scripts/local-bottom is run before udev is ended
(initramfs-tools(7)). Imports `hardware.boot.{initrd,inside}`.
"""

from __future__ import annotations

from hardware.boot.initrd import Held
from hardware.boot.inside import Root

_PLACES = ("scripts/local-block", "scripts/local-bottom")
_NAME = "refloat-lvm"
_HOOK = "/usr/share/initramfs-tools/hooks/lvm2"
_SCRIPT = b"""#!/bin/sh
# Put here by Refloat when it restored this server: the udev event that activates volume groups can get lost.
if [ "$1" = prereqs ]; then
    exit 0
fi
# complete: a group that still lacks a disk is not started without it
lvm vgchange --activate ay --activationmode complete --sysinit >/dev/null 2>&1
exit 0
"""


def asks_for_volumes(held: Held) -> dict[str, bytes]:
    """The files that an initrd lacks, by name; none when it holds no LVM, its own scripts ask, or it is of another
    kind."""
    if "scripts/functions" not in held.members or not held.has_program("lvm"):
        return {}
    files: dict[str, bytes] = {}
    for place in _PLACES:
        if not {f"{place}/lvm2", f"{place}/{_NAME}"} & held.members.keys():
            order = held.members.get(f"{place}/ORDER")
            line = f'/{place}/{_NAME} "$@"\n'.encode()
            files |= {f"{place}/{_NAME}": _SCRIPT, f"{place}/ORDER": (order.data if order else b"") + line}
    return files


def keeps_asking(root: Root) -> bool:
    """Have the next initrd the server makes itself hold the scripts too. True when one was put there."""
    if not root.exists(_HOOK) or not root.exists("/etc/initramfs-tools/scripts"):
        return False
    lacking = [place for place in _PLACES if not root.exists(f"/usr/share/initramfs-tools/{place}/lvm2")]
    written = False
    for place in lacking:
        root.make_folder(f"/etc/initramfs-tools/{place}")
        written |= root.write(f"/etc/initramfs-tools/{place}/{_NAME}", _SCRIPT, mode=0o755)
    return written
