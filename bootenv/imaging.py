"""Images a whole machine offline, from the rescue environment, with a signing key drawn for this one image.

May import `appliance`, `hardware`, `imager.keys`, `core`. Lives as long as the command.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from appliance import kitfile
from appliance.check import check_policy, failed
from appliance.config import Config, DiskConfig
from appliance.image import ImageOptions, ImageOutcome, take_image
from appliance.kit import Kit, KitServer, KitSite
from appliance.places import config_site, open_place
from core.errors import PolicyError, RefloatError, SourceError, TrustError
from core.monitor import Monitor
from core.run import Runner
from hardware.inventory import probe_inventory
from hardware.machine import DeviceKind, Inventory
from imager.keys import ServerKeys
from imager.repository.store import server_names


@dataclass(frozen=True)
class Imaged:
    """What came of it; `pin` is what the kit needs to trust the image, `enrolled` whether the kit file has it."""

    outcome: ImageOutcome
    pin: KitServer
    enrolled: bool


def image_machine(
    name: str, kit: Kit, sites: Sequence[KitSite], disks: Sequence[str], runner: Runner, monitor: Monitor, *, note: str,
    enroll: tuple[Path, str] | None,
) -> Imaged:  # fmt: skip
    """Image `disks` (none: all that nothing uses) to `sites` as a new server `name`.

    `enroll` is the kit's file and passphrase: the new pin is put into it before anything is imaged. PolicyError when
    the sites do not keep the promise, SourceError when there is no disk to take, TrustError when the name is taken.
    """
    chosen = list(disks) or idle_disks(probe_inventory(runner), monitor)
    with tempfile.TemporaryDirectory(prefix="refloat-image-") as state:  # in memory here: the key is gone afterwards
        config = Config(
            server=name,
            state=state,
            recipients=kit.recipients,
            disks=tuple(DiskConfig(path=path) for path in chosen),
            sites=tuple(config_site(each) for each in sites),
        )
        if failed(findings := check_policy(config)):
            wrong = "; ".join(finding.message for finding in findings if failed([finding]))
            raise PolicyError(f"the kit's sites do not keep the promise: {wrong}", hint="`refloat kit add` adds a site")
        _require_new(name, kit, config)
        _require_disks(chosen)
        keys = ServerKeys.create(Path(state), name)
        pin = KitServer(name=keys.name, id=keys.server_id.hex(), fingerprint=keys.fingerprint)
        enrolled = enroll is not None and _enroll(pin, *enroll, monitor)
        return Imaged(take_image(config, ImageOptions(note=note), runner, monitor), pin, enrolled)


def _require_new(name: str, kit: Kit, config: Config) -> None:
    """Before the kit is touched: a name that is taken would leave a pin behind that opens nothing."""
    taken = [f"the kit has {each}" for each in kit.servers if each.name == name]
    for site in config.sites:
        opened = open_place(site)
        try:
            taken += [f"site {site.name} has images of it"] if name in server_names(opened) else []
        finally:
            opened.close()
    if taken:
        raise TrustError(f"{name} is taken: {'; '.join(taken)}", hint="choose another name for this image")


def _require_disks(paths: Sequence[str]) -> None:
    missing = [path for path in paths if not os.path.exists(path)]
    if missing or len({os.path.realpath(path) for path in paths}) != len(paths):
        what = f"there is no {', '.join(missing)}" if missing else "one disk is given twice"
        raise SourceError(what, hint="`refloat doctor` and `lsblk` show the disks")


def idle_disks(inventory: Inventory, monitor: Monitor) -> list[str]:
    """Every disk that nothing uses; those left out are warned of by name. SourceError when none is left."""
    found = []
    for device in inventory.devices:
        if device.kind is not DeviceKind.DISK:
            continue
        if device.uses:
            monitor.warn(f"{device.path} is left out: {device.uses[0].describe()}")
        else:
            found.append(device.path)
    if not found:
        raise SourceError("there is no disk to image that nothing uses", hint="name one: --disk PATH")
    return found


def _enroll(pin: KitServer, file: Path, passphrase: str, monitor: Monitor) -> bool:
    try:
        kitfile.add(file, kitfile.Additions(servers=(pin,)), passphrase, datetime.now(UTC))
    except (RefloatError, OSError) as error:
        monitor.warn(
            f"{file} could not be changed ({error}): put the pin in yourself, `refloat kit add --server {pin}`"
        )
        return False
    return True
