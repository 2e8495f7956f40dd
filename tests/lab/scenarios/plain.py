"""What becomes of `plain`: UEFI, virtio, ext4 and btrfs on partitions; imaged offline, from the rescue environment."""

from tests.lab.lab import Lab
from tests.lab.machine import Bus, Nic
from tests.lab.offline import imaged_offline
from tests.lab.restoring import refused
from tests.lab.scenarios.base import Scenario, control, onto
from tests.lab.servers.plain import PLAIN
from tests.lab.targets import NewDisk, Target

BIGGER = Target("bigger", PLAIN.firmware, (NewDisk("BIG-SATA", 6144, Bus.SATA),), (Nic("52:54:00:99:00:13", "e1000e"),))
FOUR_K = Target("4kn", PLAIN.firmware, (NewDisk("FOUR-K", 6144, Bus.NVME, 4096),), BIGGER.nics)


def _refused(lab: Lab) -> None:
    refused(lab, PLAIN, imaged_offline(lab, PLAIN), FOUR_K, "4096|4Kn|sector")


SCENARIOS: tuple[Scenario, ...] = (
    onto(
        PLAIN,
        BIGGER,
        "a bigger disk on another controller, the last filesystem grown",
        options="--grow last",
        essential=True,
        image=imaged_offline,
    ),
    control(PLAIN, BIGGER, options="--grow last", image=imaged_offline),
    onto(
        PLAIN,
        FOUR_K,
        "a 4Kn disk: its table laid out anew, the ESP made anew and its files copied",
        options="--recreate all",
        image=imaged_offline,
        name="plain-recreated-4kn",
    ),
    control(PLAIN, FOUR_K, options="--recreate all", image=imaged_offline),
    Scenario("plain-refused-4kn", "a 4Kn disk: refused with the reason, nothing written", _refused),
)
