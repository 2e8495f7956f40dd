"""What the steps of one repair share. Lives as long as the restored server is mounted.

Imports `core` and `hardware.boot.{devices,families,inside,values}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from core.monitor import Monitor
from core.run import Runner
from hardware.boot.devices import Names
from hardware.boot.families import Family
from hardware.boot.inside import Root
from hardware.boot.values import BootReport, BootRequest, Mounted


@dataclass(frozen=True)
class Job:
    """The server (`root`, and what is mounted in it as `places`), what is asked, and what is told."""

    request: BootRequest
    root: Root
    places: tuple[Mounted, ...]
    names: Names
    family: Family
    report: BootReport
    nics: Mapping[str, str]
    runner: Runner
    monitor: Monitor

    def done(self, text: str) -> None:
        """A step that was done, or with `repair` off would be."""
        self.report.steps.append(text)

    def place_of(self, path: str) -> Mounted:
        """The filesystem that holds a path of the server."""
        inside = [
            each for each in self.places if each.where == "/" or path == each.where or path.startswith(f"{each.where}/")
        ]
        return max(inside, key=lambda each: len(each.where))

    def seen_by_grub(self, path: str) -> tuple[str, str]:
        """(filesystem UUID, path) as GRUB means it: from the top of that filesystem, btrfs subvolumes included."""
        place = self.place_of(path)
        inside = path[len(place.where.rstrip("/")) :]
        return place.uuid, (f"/{place.subvolume.strip('/')}" if place.subvolume else "") + inside

    def from_grub(self, path: str) -> str | None:
        """The path in the server that GRUB's path may mean; None when no filesystem has it."""
        for place in self.places:
            base = f"/{place.subvolume.strip('/')}" if place.subvolume else ""
            if path.startswith(f"{base}/"):
                inside = place.where.rstrip("/") + path[len(base) :]
                if self.root.exists(inside):
                    return inside
        return None
