"""How each volume is held while it is imaged: decided from facts, without touching anything. Pure; imports `core`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from core.errors import SourceError
from core.layout import Crypt, LvKind, VolumeRole, VolumeSpec
from core.sizes import format_size

#: Filesystems that FIFREEZE brings to a state from which their maps are true.
FREEZABLE = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs"})
_LEAST_BYTES = 16 << 20


class How(StrEnum):
    """How a volume is held. OFFLINE: nothing writes to it; FROZEN: copied while its filesystem is frozen; AGREED:
    copied until two reads agree; LIVE: read while it changes."""

    OFFLINE = "offline"
    THICK = "lvm-thick"
    THIN = "lvm-thin"
    FROZEN = "frozen"
    AGREED = "agreed"
    LIVE = "live"


@dataclass(frozen=True)
class Lv:
    """A logical volume that can be snapshotted. `node` is its device-mapper name."""

    group: str
    name: str
    node: str
    uuid: str
    kind: LvKind
    size_bytes: int
    pool: str = ""

    @property
    def full_name(self) -> str:
        return f"{self.group}/{self.name}"


@dataclass(frozen=True)
class Facts:
    """What is known of a volume before it is held: its bytes are at `offset_bytes` of `path`.

    `mounts` are the mount points of the filesystem that lies directly on it, `writable` whether it can be written
    there; `busy` says how else it is in use (empty: not at all). `lv` is the logical volume it is, or, with `crypt`,
    the one that carries its LUKS container.
    """

    spec: VolumeSpec
    path: str
    offset_bytes: int = 0
    mounts: tuple[str, ...] = ()
    writable: bool = False
    busy: str = ""
    lv: Lv | None = None
    crypt: Crypt | None = None

    @property
    def in_use(self) -> bool:
        return bool(self.busy) or bool(self.mounts)


@dataclass(frozen=True)
class Decision:
    """`freeze` is the mount point to freeze from user space, empty for none."""

    facts: Facts
    how: How
    freeze: str = ""


def decide(facts: Facts, *, live: bool, safe: Callable[[str], bool]) -> Decision:
    """How this volume is held. `live`: what cannot be held may be read while it changes; `safe` tells whether a mount
    point may be frozen from user space. Raises SourceError for a volume that cannot be held and may not be live."""
    if facts.spec.role in (VolumeRole.HEAD, VolumeRole.HEADER):
        return Decision(facts, How.OFFLINE)
    can_freeze = bool(facts.mounts) and facts.spec.content.type in FREEZABLE and safe(facts.mounts[0])
    if facts.lv is not None and (facts.in_use or facts.lv.kind is LvKind.THIN):
        how = How.THIN if facts.lv.kind is LvKind.THIN else How.THICK
        return Decision(facts, how, facts.mounts[0] if can_freeze and facts.writable else "")
    if not facts.in_use or (facts.mounts and not facts.writable and not facts.busy):
        return Decision(facts, How.OFFLINE)
    if facts.mounts and not facts.busy:
        if facts.spec.content.type == "vfat":
            return Decision(facts, How.AGREED)
        if can_freeze:
            return Decision(facts, How.FROZEN, facts.mounts[0])
    if live:
        return Decision(facts, How.LIVE)
    raise SourceError(f"{facts.spec.name} is in use: {_use(facts)}", hint=_hint(facts))


def _use(facts: Facts) -> str:
    return f"mounted at {facts.mounts[0]}" if facts.mounts else facts.busy


def _hint(facts: Facts) -> str:
    if facts.mounts and not facts.busy:
        return (
            "it is not on LVM, and freezing it would stop this program: image it from the rescue environment, or give "
            "--live to image it whole while it changes (it is then marked `live`)"
        )
    return "unmount it, or give --live to image it whole while it changes (it is then marked `live`)"


def share_out(
    group: str, free_bytes: int, extent_bytes: int, volumes: Mapping[str, int], share_percent: int
) -> dict[str, int]:
    """How large the snapshot of each volume becomes (name → bytes): a share of what is free in the group, by the
    volumes' sizes. Raises SourceError when that is less than the least that makes sense: 1 % of each, 16 MiB."""
    budget = free_bytes * share_percent // 100
    found = {name: _up(max(_LEAST_BYTES, size // 100), extent_bytes) for name, size in volumes.items()}
    if sum(found.values()) > budget:
        raise SourceError(
            f"volume group {group} has {format_size(free_bytes)} free; snapshots may take {share_percent} % of it, and "
            f"need {format_size(sum(found.values()))} at least",
            hint="make room in the group (vgextend, or a smaller volume), or raise image.snapshot_share",
        )
    total = sum(volumes.values())
    rest = budget - sum(found.values())
    for name, size in volumes.items():
        # what a snapshot can need at most: every chunk once, and 16 bytes a chunk of 4 KiB (dm-snap-persistent.c)
        most = _up(size + size // 128 + extent_bytes, extent_bytes)
        found[name] = min(most, found[name] + rest * size // total // extent_bytes * extent_bytes)
    return found


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def frozen_together(decisions: Sequence[Decision]) -> list[str]:
    """The mount points that are frozen across all snapshots, so that their volumes show one moment."""
    held = [each for each in decisions if each.how in (How.THICK, How.THIN)]
    alone = len(held) == 1 and held[0].facts.crypt is None  # LVM's own suspend does it
    return [] if alone else [each.freeze for each in held if each.freeze]
