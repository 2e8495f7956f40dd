"""What `refloat doctor` looks at: tools, clock, disks, state folder, keys, sites, recovery kit. Each is a Finding.

Reads the machine, changes nothing. May import `appliance`, `hardware`, `imager.keys`, `imager.sites.base`, `core`.
"""

from __future__ import annotations

import ctypes
import functools
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.check import Finding, Status, fail, ok, reach_sites, warn
from appliance.config import Config
from appliance.kit import KitServer
from appliance.places import open_place
from appliance.receipt import Receipt, compare_kit, decode_receipt
from appliance.tools import look
from appliance.unlock import read_text
from core.errors import RefloatError
from core.run import Runner
from core.sizes import format_size
from imager.keys import ServerKeys

if TYPE_CHECKING:
    from hardware.machine import Device

#: 2025-01-01 UTC. An earlier clock is one that was never set: images would sort before their parents.
CLOCK_MIN = 1_735_689_600
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
_TIMEX_BYTES = 512  # struct timex is 208 bytes on 64-bit Linux; the kernel fills no more than its own


def examine_machine(runner: Runner) -> list[Finding]:
    """What a rescue environment needs: tools, clock, disks."""
    return [*look(runner), check_clock(time.time(), synchronised()), *check_devices(runner)]


def examine_server(config: Config, receipt: Receipt | None, runner: Runner, *, offline: bool = False) -> list[Finding]:
    """What a server needs besides. `offline`: sites are not asked; `receipt` None: the configured one counts."""
    keys, server = check_keys(config)
    found = [*check_disks(config), *_storage(config, runner), check_state(config.state_path), keys]
    if not offline:
        found += reach_sites((site.name, functools.partial(open_place, site)) for site in config.sites)
    return found + check_receipt(config, receipt, server)


def check_devices(runner: Runner) -> list[Finding]:
    """The disks of this machine, and how each is named to confirm it as a target."""
    try:
        # Here and not above: a doctor that needs what it looks for could not say that it is missing.
        from hardware.inventory import probe_inventory, tokens
    except ImportError as error:
        return [fail("disks", f"they cannot be listed: {error}", "see the modules marked FAIL")]
    try:
        inventory = probe_inventory(runner)
    except RefloatError as error:
        return [fail("disks", f"they cannot be listed: {error.message}", error.hint or "")]
    named = tokens(inventory)
    return [describe_device(device, named[device.path]) for device in inventory.devices]


def describe_device(device: Device, token: str) -> Finding:
    """A disk in a line: size, name to confirm it by, who uses it."""
    uses = "; ".join(use.describe() for use in device.uses) or "not in use"
    sectors = "" if device.sector_bytes == 512 else f", {device.sector_bytes}-byte sectors"
    model = f" {device.model}" if device.model else ""
    paths = f", by {' and '.join(device.paths)}" if device.paths else ""
    message = f"{format_size(device.size_bytes)}{model}{sectors}{paths}, called {token}; {uses}"
    if any(use.kind == "path" for use in device.uses):
        from hardware.machine import JOIN_HINT

        return warn(device.path, message, JOIN_HINT)
    if any(use.kind == "unknown" for use in device.uses):
        return warn(device.path, message, "it will be refused as a target until it can be read")
    return ok(device.path, message)


def check_disks(config: Config) -> list[Finding]:
    """The disks to image: each must be there."""
    found = []
    for disk in config.disks:
        if Path(disk.path).exists():
            found.append(ok(f"disk {disk.name or disk.path}", "there"))
        else:
            found.append(
                fail(f"disk {disk.name or disk.path}", f"{disk.path} is not there", "`lsblk -o PATH,SERIAL,SIZE`")
            )
    return found


def _storage(config: Config, runner: Runner) -> list[Finding]:
    """As `check_devices`: modules that are missing are told by `look`, and must not keep the rest from being said."""
    try:
        from appliance.storage import check_storage
    except ImportError as error:
        return [fail("storage", f"it cannot be read: {error}", "see the modules marked FAIL")]
    return check_storage(config, runner)


def check_state(state: Path) -> Finding:
    """The state folder: there, ours, closed to others."""
    try:
        status = state.stat()
    except FileNotFoundError:
        return fail("state", f"{state} is not there", "`refloat keys new` makes it")
    except OSError as error:
        return fail("state", f"{state} cannot be looked at: {error}")
    if not stat.S_ISDIR(status.st_mode):
        return fail("state", f"{state} is not a folder")
    if status.st_mode & 0o077:
        return warn("state", f"others may look into {state}", f"chmod 700 {state}")
    if not os.access(state, os.W_OK):
        return fail("state", f"{state} cannot be written", "run it as root, or as the folder's owner")
    return ok("state", str(state))


def check_keys(config: Config) -> tuple[Finding, KitServer | None]:
    """The server's keys, and the pin a kit must hold for them."""
    try:
        keys = ServerKeys.load(config.state_path)
        mode = stat.S_IMODE(ServerKeys.path(config.state_path).stat().st_mode)
    except RefloatError as error:
        return fail("keys", error.message, error.hint or ""), None
    except OSError as error:
        return fail("keys", f"the keys cannot be looked at: {error}"), None
    server = KitServer(name=keys.name, id=keys.server_id.hex(), fingerprint=keys.fingerprint)
    if keys.name != config.server:
        hint = f'write server = "{keys.name}" into the configuration, or give this server its own state folder'
        return fail("keys", f"they are of server {keys.name}, the configuration says {config.server}", hint), server
    if mode & 0o077:
        return fail(
            "keys", f"others may read them (mode {mode:o})", f"chmod 600 {ServerKeys.path(config.state_path)}"
        ), server
    return ok("keys", f"{keys.name} {keys.fingerprint}"), server


def check_clock(now: float, is_synchronised: bool | None) -> Finding:
    """Whether the clock (seconds since 1970) can be right."""
    if now < CLOCK_MIN:
        return fail(
            "clock", f"it says {time.strftime('%Y-%m-%d', time.gmtime(now))}", "set it: images are named by time"
        )
    if is_synchronised is False:
        return warn("clock", "not synchronised with a time server", "apt install systemd-timesyncd, or chrony")
    return ok("clock", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)))


def synchronised() -> bool | None:
    """What the kernel says of the clock (adjtimex(2), reading only); None when it cannot be asked."""
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
    try:
        state = int(ctypes.CDLL(None).adjtimex(buffer))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _TIME_ERROR


def check_receipt(config: Config, receipt: Receipt | None, server: KitServer | None) -> list[Finding]:
    """The recovery kit, by the receipt given or configured."""
    if receipt is None and not config.kit.receipt:
        hint = "copy KIT.receipt here and name it in the configuration: [kit] receipt"
        return [warn("recovery kit", "no receipt: whether a kit would open these images is not known", hint)]
    try:
        found = compare_kit(
            receipt or decode_receipt(read_text(Path(config.kit.receipt), "receipt").encode()), config, server
        )
    except RefloatError as error:
        return [fail("recovery kit", error.message, error.hint or "copy KIT.receipt here again")]
    if len(config.recipients) == 1:
        hint = "make a second kit, keep it elsewhere, and add its recipient to the configuration"
        found.append(warn("recovery kit", "a single recipient: when this kit is lost, so is every image", hint))
    return found


def stoppers(findings: list[Finding]) -> list[str]:
    """The subjects of what failed."""
    return [each.subject for each in findings if each.status is Status.FAIL]
