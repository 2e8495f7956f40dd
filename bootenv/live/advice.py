"""Hardware that is of no use yet: controllers without a disk, devices without a driver; and looking again.

Reads sysfs (Documentation/ABI/testing/sysfs-bus-pci); a folder is passed in so that recorded trees can be judged. May
import `core`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from core.errors import SourceError

_SYS = Path("/sys")
_STORAGE, _NETWORK = "01", "02"
#: PCI class and subclass → what it is, and what to do when no disk shows behind it.
_CONTROLLERS = {
    "0100": ("SCSI controller", "Check the cables and the disks' power"),
    "0101": ("IDE controller", ""),
    "0104": ("RAID controller", "Create a virtual drive in its set-up, or switch it to HBA mode, then look again"),
    "0106": ("SATA controller", ""),
    "0107": ("SAS controller", "Check cables and backplane; if it is a RAID controller, create a virtual drive or "
             "switch it to HBA mode, then look again"),
    "0108": ("NVMe controller", "Its namespace may be missing: `nvme list-ns`, `nvme create-ns`"),
    "0180": ("storage controller", "It may want a virtual drive, or another mode, in its set-up"),
}  # fmt: skip


@dataclass(frozen=True)
class Advice:
    """A device, what is wrong with it, what to do (may be empty)."""

    device: str
    problem: str
    hint: str


def find_advice(sys: Path = _SYS) -> list[Advice]:
    """All of it, in bus order. SourceError when the bus cannot be read: not looking is not seeing nothing."""
    try:
        folders = sorted((sys / "bus/pci/devices").iterdir())
    except FileNotFoundError:
        return []  # a machine without PCI
    except OSError as error:
        raise SourceError(f"the PCI bus cannot be listed: {error.strerror}") from error
    return [advice for folder in folders if (advice := _judge(folder)) is not None]


def _judge(folder: Path) -> Advice | None:
    kind = _read(folder / "class").removeprefix("0x")[:4]
    name = f"{folder.name} [{_read(folder / 'vendor')[2:]}:{_read(folder / 'device')[2:]}]"
    if kind[:2] == _NETWORK and not (folder / "driver").exists():
        return Advice(
            f"Network card {name}", "has no driver", "Its driver or firmware is not in this system; use another"
        )
    if kind[:2] != _STORAGE:
        return None
    what, hint = _CONTROLLERS.get(kind, _CONTROLLERS["0180"])
    if not (folder / "driver").exists():
        return Advice(f"{what.capitalize()} {name}", "has no driver", _no_driver(kind))
    if not _has_disk(folder) and hint:
        return Advice(f"{what.capitalize()} {name}", "shows no disk", hint)
    return None


def _no_driver(kind: str) -> str:
    if kind == "0104":
        return "Switch it to AHCI or NVMe (not RAID, RST, VMD) in the firmware's set-up"
    return "Switch it to another mode in the firmware's set-up (AHCI instead of RAID), or use another controller"


def _has_disk(folder: Path) -> bool:
    """Whether any block device hangs below; links are not followed, so other devices' disks do not count. NVMe's do not
    stand in a folder `block`, and with several paths only `nvme0c0n1` is below the controller."""
    return any(True for pattern in ("**/block/*", "**/nvme/nvme*/nvme*n*") for _ in folder.glob(pattern))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error


def rescan(sys: Path = _SYS, *, settle_seconds: float = 3) -> None:
    """Have the kernel look at the PCI bus, at every SCSI host and NVMe controller again, and give drivers a moment."""
    asked = [(sys / "bus/pci/rescan", "1")]
    asked += [(path, "- - -") for path in sorted(sys.glob("class/scsi_host/*/scan"))]
    asked += [(path, "1") for path in sorted(sys.glob("class/nvme/*/rescan_controller"))]
    for path, text in asked:
        try:
            path.write_text(text)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise SourceError(f"{path} cannot be asked to look again: {error.strerror}") from error
    time.sleep(settle_seconds)
