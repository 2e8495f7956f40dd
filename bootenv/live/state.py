"""What the station tells the consoles: a small file in memory that only root reads. May import `core`."""

from __future__ import annotations

from pathlib import Path

import msgspec

from core.files import replace

PATH = Path("/run/refloat/station.json")
#: Where a person at the console leaves the kit's passphrase for an order: in memory, for root only.
PASSPHRASE = Path("/run/refloat/passphrase")


class StationState(msgspec.Struct, frozen=True, kw_only=True):
    """`fingerprint` is the certificate's; `lines` say what goes on without a person (unattended restore, clock)."""

    pin: str = ""
    fingerprint: str = ""
    lines: tuple[str, ...] = ()


def write_state(state: StationState, path: Path = PATH) -> None:
    """Replace the file."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace(path, msgspec.json.encode(state))


def read_state(path: Path = PATH) -> StationState | None:
    """What it says now; None while the station has not come up."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=StationState)
    except FileNotFoundError:
        return None
