"""A restored server that stays off the network, and does not image itself, until somebody releases it.

Each service that configures a network gets a drop-in with a condition on one file: `release` removes file and drop-ins,
and the next boot, or start of the services, is as always. Imports `hardware.boot.{inside,network,values}`.
"""

from __future__ import annotations

from hardware.boot.inside import Root
from hardware.boot.network import managers
from hardware.boot.values import BootReport

HELD = "/etc/refloat/held"
_UNITS = (
    "networking.service", "ifup@.service", "systemd-networkd.service", "systemd-networkd.socket",
    "systemd-networkd-wait-online.service", "NetworkManager.service", "NetworkManager-wait-online.service",
    "wicked.service", "wickedd.service", "dhcpcd.service", "connman.service",
    "network.service", "cloud-init-local.service", "cloud-init.service",
)  # fmt: skip
_TIMERS = ("refloat-.service",)  # systemd applies it to every unit whose name begins so
_NAME = "90-refloat-hold.conf"
_DROP_IN = f"# `refloat release` removes this\n[Unit]\nConditionPathExists=!{HELD}\n"


def hold_network(root: Root, report: BootReport) -> None:
    """Boot without any network, loopback apart."""
    _drop_in(root, _UNITS)
    root.write(HELD, "The network is held since the restore; `refloat release` lets it go.\n")
    report.steps.append("network held: no service configures it until `refloat release`")
    if not managers(root):
        report.warnings.append("what configures this server's network is not known: it may come up although held")


def hold_timers(root: Root, report: BootReport) -> None:
    """Refloat's own services do not start until released: two writers of one lineage would contradict each other."""
    _drop_in(root, _TIMERS)
    if not root.exists(HELD):
        root.write(HELD, "Refloat's timers are held since the restore; `refloat release` lets them go.\n")
    report.steps.append("Refloat's timers are off until `refloat release`")


def _drop_in(root: Root, units: tuple[str, ...]) -> None:
    for unit in units:
        root.write(f"/etc/systemd/system/{unit}.d/{_NAME}", _DROP_IN)


def is_held(root: Root) -> bool:
    """Whether the server is."""
    return root.exists(HELD)


def release(root: Root) -> list[str]:
    """Take the hold away; for the running server, `Root("/")`. Returns the units that were held and are there, to be
    started again after `systemctl daemon-reload`; none when nothing was held."""
    units = [unit for unit in (*_UNITS, *_TIMERS) if root.remove(f"/etc/systemd/system/{unit}.d/{_NAME}")]
    root.remove(HELD)
    folders = ("/etc/systemd/system", "/lib/systemd/system", "/usr/lib/systemd/system")
    return [unit for unit in units if "@" not in unit and any(root.exists(f"{each}/{unit}") for each in folders)]
