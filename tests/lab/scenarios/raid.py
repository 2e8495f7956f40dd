"""What becomes of `raid`: BIOS, md RAID1 over two disks, LVM, LUKS."""

from __future__ import annotations

from tests.lab.cache import Artifact
from tests.lab.imaging import imaged
from tests.lab.lab import Lab
from tests.lab.machine import Bus, Nic
from tests.lab.scenarios.base import Scenario, control, onto
from tests.lab.servers.base import Server
from tests.lab.servers.raid import RAID
from tests.lab.targets import NewDisk, Target

_NIC = (Nic("52:54:00:99:00:12", "e1000e"),)
TWO = Target("two", RAID.firmware, (NewDisk("NEW-A", 3584, Bus.SATA), NewDisk("NEW-B", 3584, Bus.SATA)), _NIC)
ONE = Target("one", RAID.firmware, (NewDisk("NEW-ONLY", 4096, Bus.SATA),), _NIC)
OPEN = "--luks vault=/run/lab/luks.key"


def degraded(lab: Lab, server: Server) -> Artifact:
    """Imaged while one of its disks is gone."""
    return imaged(lab, server, lost="RAID-B")


SCENARIOS: tuple[Scenario, ...] = (
    onto(RAID, TWO, "two blank disks on another controller", options=OPEN),
    control(RAID, TWO, options=OPEN),
    onto(RAID, ONE, "one disk: the mirror is dissolved", options=f"{OPEN} --no-md"),
    control(RAID, ONE, options=f"{OPEN} --no-md"),
    onto(
        RAID,
        ONE,
        "one disk, from an image taken while one was lost",
        options=f"{OPEN} --no-md",
        image=degraded,
        name="raid-degraded-onto-one",
    ),
)
