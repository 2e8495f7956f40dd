"""What becomes of `thin`: UEFI, virtio, thin LVs."""

from tests.lab.interrupting import second
from tests.lab.lab import Lab
from tests.lab.machine import Firmware, Nic
from tests.lab.scenarios.base import Scenario, control, onto
from tests.lab.servers.thin import THIN
from tests.lab.targets import NewDisk, Target

SAME = Target("blank", THIN.firmware, (NewDisk("BLANK-THIN", 4608),), THIN.nics)
BIOS = Target("bios", Firmware.BIOS, (NewDisk("BIOS-THIN", 4608),), (Nic("52:54:00:99:00:11"),), chassis="pc")


def _second(lab: Lab) -> None:
    second(lab, THIN)


SCENARIOS: tuple[Scenario, ...] = (
    onto(THIN, SAME, "a blank disk", essential=True),
    control(THIN, SAME),
    Scenario("thin-second", "a second image reads what changed, not the volumes", _second),
    onto(THIN, BIOS, "a BIOS machine"),
    control(THIN, BIOS),
)
