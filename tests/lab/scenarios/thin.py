"""What becomes of `thin`: UEFI, virtio, thin LVs."""

from tests.lab.interrupting import interrupted
from tests.lab.lab import Lab
from tests.lab.machine import Firmware, Nic
from tests.lab.overflowing import full
from tests.lab.scenarios.base import Scenario, control, onto
from tests.lab.servers.thin import THIN
from tests.lab.targets import NewDisk, Target
from tests.lab.tracking import second

SAME = Target("blank", THIN.firmware, (NewDisk("BLANK-THIN", 4608),), THIN.nics)
BIOS = Target("bios", Firmware.BIOS, (NewDisk("BIOS-THIN", 4608),), (Nic("52:54:00:99:00:11"),), chassis="pc")


def _interrupted(lab: Lab) -> None:
    interrupted(lab, THIN)


def _second(lab: Lab) -> None:
    second(lab, THIN)


def _full(lab: Lab) -> None:
    full(lab, THIN)


SCENARIOS: tuple[Scenario, ...] = (
    onto(THIN, SAME, "a blank disk", essential=True),
    control(THIN, SAME),
    Scenario("thin-second", "a second image reads what changed; one that the tracking lies to notices", _second),
    Scenario("thin-interrupted", "kill -9 and power-off while imaging: only the tracking is left over", _interrupted),
    Scenario("thin-full", "a pool that is full, or gets there while imaging: refused, never filled by us", _full),
    onto(THIN, BIOS, "a BIOS machine"),
    control(THIN, BIOS),
)
