"""An 802.1Q access port in user space: frames between a trunk tap (tagged) and another tap (untagged).

A program of its own (`vlan.py TRUNK ACCESS ID`), run by `network` inside its namespace until it is ended. The kernel's
own VLAN driver is often missing in small host kernels; guests have theirs. Imports the standard library only.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys

# linux/if_tun.h
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
DOT1Q = b"\x81\x00"


def open_tap(name: str) -> int:
    """A file descriptor that reads and writes whole Ethernet frames."""
    found = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(found, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
    return found


def untagged(frame: bytes, vlan: int) -> bytes | None:
    """The frame without its tag, or None when it is of another VLAN or of none."""
    if frame[12:14] != DOT1Q or int.from_bytes(frame[14:16]) & 0xFFF != vlan:
        return None
    return frame[:12] + frame[16:]


def tagged(frame: bytes, vlan: int) -> bytes:
    """The frame with a tag of this VLAN, priority 0."""
    return frame[:12] + DOT1Q + vlan.to_bytes(2) + frame[12:]


def main(trunk_name: str, access_name: str, vlan: int) -> None:
    trunk, access = open_tap(trunk_name), open_tap(access_name)
    while True:
        for ready in select.select([trunk, access], [], [])[0]:
            frame = os.read(ready, 65536)
            out = untagged(frame, vlan) if ready == trunk else tagged(frame, vlan)
            if out is not None:
                os.write(access if ready == trunk else trunk, out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
