"""What becomes of `thick`: BIOS, virtio, VLAN on a bond of two virtio cards, two disks."""

from tests.lab.costing import cost
from tests.lab.interrupting import interrupted
from tests.lab.lab import Lab
from tests.lab.machine import Bus, Firmware, Nic
from tests.lab.overflowing import overflow
from tests.lab.scenarios.base import Scenario, control, onto
from tests.lab.servers.thick import THICK
from tests.lab.targets import NewDisk, Target

NVME = Target(
    "nvme-uefi",
    Firmware.UEFI,
    (NewDisk("NEW-NVME-0", 7168, Bus.NVME), NewDisk("NEW-NVME-1", 1024, Bus.NVME)),
    (Nic("52:54:00:99:00:01", "e1000e"), Nic("52:54:00:99:00:02", "e1000e")),
)
SAME = Target("same", THICK.firmware, (NewDisk("BLANK-OS", 5120), NewDisk("BLANK-ARCHIVE", 768)), THICK.nics)
SMALLER = Target("smaller", THICK.firmware, (NewDisk("SMALL-OS", 3584), NewDisk("SMALL-ARCHIVE", 768)), THICK.nics)
ONE_LOST = Target(
    "one-lost", THICK.firmware, (NewDisk("BLANK-OS", 5120), NewDisk("THICK-ARCHIVE", 768, survives=True)), THICK.nics
)
#: The old OS disk still answers, and stays in the machine beside the new one.
TWIN = Target("twin", THICK.firmware, (*SAME.disks, NewDisk("THICK-OS", 5120, survives=True)), THICK.nics)
#: A LUN behind two controllers: one disk in the rescue environment. The server has no multipath-tools.
MULTIPATH = Target(
    "multipath",
    THICK.firmware,
    (NewDisk("LUN-OS", 5120, Bus.SCSI, wwn="0x5000c50000000a01", paths=2), NewDisk("BLANK-ARCHIVE", 768)),
    THICK.nics,
)


def _interrupted(lab: Lab) -> None:
    interrupted(lab, THICK)


def _cost(lab: Lab) -> None:
    cost(lab, THICK)


def _overflow(lab: Lab) -> None:
    overflow(lab, THICK)


SCENARIOS: tuple[Scenario, ...] = (
    onto(THICK, NVME, "NVMe, bigger, UEFI, other network cards", essential=True),
    control(THICK, NVME),
    onto(THICK, SAME, "the same machine with blank disks"),
    onto(THICK, SMALLER, "a disk 30 % smaller: ext4 gives way, xfs stays"),
    onto(THICK, ONE_LOST, "of two disks only the OS one is lost", options="--only vda"),
    onto(THICK, TWIN, "beside the old disk, whose twins are retired", options="--retire THICK-OS"),
    onto(THICK, MULTIPATH, "a disk behind two controllers, joined where it is restored"),
    Scenario("thick-interrupted", "kill -9 and power-off while imaging: nothing left over, nothing lost", _interrupted),
    Scenario("thick-overflow", "no room for snapshots, and one that overflows: refused, nothing committed", _overflow),
    Scenario("thick-cost", "figures: pgbench beside imaging, and a restore beside its disk", _cost),
)
