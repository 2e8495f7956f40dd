"""Nodes while a stack is read: a name, the device that shows it, what blkid sees there. Imports `hardware.facts`."""

from __future__ import annotations

from dataclasses import dataclass

from core.layout import Content
from hardware.facts import Facts, Numbers, facts_of, holders_of, kernel_path


@dataclass(frozen=True)
class Node:
    """A place in the stack. `rdev` is None for image files and ranges that the kernel shows no device for; nothing can
    stand on those."""

    name: str
    rdev: Numbers | None
    content: Content

    def holders(self) -> list[Numbers]:
        """What the kernel has built on this device, in order of name."""
        return [] if self.rdev is None else holders_of(self.rdev)


def facts_at(rdev: Numbers) -> Facts:
    """Facts of a device by its numbers."""
    return facts_of(kernel_path(rdev))
