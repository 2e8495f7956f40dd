"""What `refloat doctor` says of the disks to image: their stack, and what would stop an image or a restore of it.

Reads only. May import `appliance.{check,config}`, `hardware`, `core`.
"""

from __future__ import annotations

from pathlib import Path

from appliance.check import Finding, fail, ok, warn
from appliance.config import Config
from core.errors import RefloatError
from core.layout import Crypt, Group, Layout, LogicalVolume, LvKind, volumes_of
from core.run import Runner
from core.sizes import format_size
from hardware.read import DiskSource, read_layout
from hardware.stack.second import second_opinion

#: Less free room than this share of a group's thick volumes, and a busy night overflows a snapshot.
_ROOM_SHARE = 0.05
#: LUKS2 tokens that open a container by the machine it stands in.
_BOUND = ("systemd-tpm2", "clevis")


def check_storage(config: Config, runner: Runner) -> list[Finding]:
    """The stack on the configured disks, as an image would record it."""
    sources = [DiskSource(disk.path, disk.name, disk.sector_bytes or None) for disk in config.disks]
    if not sources or not all(Path(source.path).exists() for source in sources):
        return []
    try:
        layout = read_layout(sources, runner)
    except RefloatError as error:
        return [fail("storage", error.message, error.hint or "")]
    found = [ok("storage", f"{len(volumes_of(layout))} volumes on {len(layout.disks)} disk(s)")]
    found += [check_crypt(each) for each in layout.crypts]
    found += [check_group(each) for each in layout.groups if _thick(each)]
    found += [
        warn(each.name, f"the array is degraded: {len(each.members)} of {each.slots} devices", "replace the disk")
        for each in layout.arrays
        if each.degraded
    ]
    if layout.arrays or layout.crypts or layout.groups:
        found.append(_second(layout))
    return found


def check_crypt(crypt: Crypt) -> Finding:
    """Whether a person could open a container on other hardware."""
    subject = f"LUKS {crypt.name}"
    bound = [each for each in crypt.tokens if each in _BOUND]
    if bound and crypt.key_slots <= len(crypt.tokens):
        hint = "add a passphrase and keep it safe: cryptsetup luksAddKey"
        return warn(subject, f"only this machine opens it ({', '.join(bound)}): a restore elsewhere cannot", hint)
    return ok(subject, f"LUKS{crypt.version}, {crypt.key_slots} key slot(s)")


def check_group(group: Group) -> Finding:
    """Whether a group has room for the snapshots of a night."""
    thick = sum(volume.size_bytes for volume in _thick(group))
    message = f"{format_size(group.free_bytes)} free for snapshots of {format_size(thick)}"
    if group.free_bytes < group.extent_bytes * len(_thick(group)):
        return fail(f"volume group {group.name}", message, "shrink a volume or add a disk: vgextend")
    if group.free_bytes < thick * _ROOM_SHARE:
        return warn(f"volume group {group.name}", message, "a busy night could overflow one: leave a twentieth free")
    return ok(f"volume group {group.name}", message)


def _thick(group: Group) -> list[LogicalVolume]:
    return [
        each for each in group.volumes if each.kind not in (LvKind.THIN, LvKind.POOL) and each.content.type != "swap"
    ]


def _second(layout: Layout) -> Finding:
    try:
        differences = second_opinion(layout)
    except RefloatError as error:
        return warn("second reader", error.message, error.hint or "")
    if differences:
        hint = "compare `refloat layout` with `lsblk`; images follow the first reading"
        return warn("second reader", "; ".join(differences), hint)
    return ok("second reader", "blivet sees the same stack")
