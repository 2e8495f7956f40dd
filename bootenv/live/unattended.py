"""Carries out an order without a person (docs/rescue.md, "Orders"). Any doubt stops it, before the first write.

A thread of the station; runs once. May import `appliance`, `hardware`, `core`, `bootenv.orders` and the modules here.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from appliance.catalog import Catalog
from appliance.kit import Kit, open_kit
from appliance.restore import (
    Restoration,
    RestoreOptions,
    apply_restore,
    check_names,
    confirm,
    plan_restore,
    require_tools,
)
from appliance.steps import Repair
from appliance.unlock import Unlock
from bootenv.live import media
from bootenv.live.clock import correct_clock
from bootenv.live.state import PASSPHRASE
from bootenv.live.words import fw_cfg, fw_cfg_text, kernel_words
from bootenv.orders import Order, OrderBook, Then, check_order, order_key, placed, utc_now
from core.errors import ConfigError, KeyMissingError, RefloatError, UnbootableError
from core.layout import Layout
from core.monitor import Monitor, Task
from core.run import Runner
from core.sizes import format_size
from hardware.actions import OpenCrypt
from hardware.boot.clone import check_name
from hardware.inventory import probe_inventory

#: The consoles look for news every three seconds: the last line must have been seen, by serial logs too.
_SHOWN_SECONDS = 7.0
Tell = Callable[[str], None]


class TellMonitor(Monitor):
    """Steps, warnings and finished tasks as lines on the consoles."""

    def __init__(self, tell: Tell) -> None:
        super().__init__()
        self._tell = tell

    def step(self, message: str) -> None:
        self._tell(message)

    def warn(self, message: str) -> None:
        super().warn(message)
        self._tell(f"warning: {message}")

    def ended(self, task: Task) -> None:
        self._tell(f"{task.name}: {format_size(task.done_bytes)}")


def wanted_nonce(line: str) -> str:
    """The order this machine was started for; empty when for none."""
    return fw_cfg_text("order") or kernel_words(line).get("order", "")


def carry_out(line: str, runner: Runner, tell: Tell) -> None:
    """Find the order, check everything, restore, report, switch off. Errors are told and leave the machine on."""
    nonce = wanted_nonce(line)
    started = time.monotonic()
    try:
        # targets are named by serial, and until its paths are joined a disk's serial names several
        runner.run(["systemctl", "start", "multipathd.service"], purpose="join paths to one disk")
        for label, folder in media.wanted_mounts(line):
            media.mount_label(label, folder, runner, writable=True)
        kit = _open_kit(runner, tell)
        monitor = TellMonitor(tell)
        unlock = Unlock(kit.keys(), kit.servers, placed(kit.sites, fw_cfg_text("sites").split()))
        correct_clock([kernel_words(line).get("url", ""), *(site.url for site in unlock.sites)])
        catalog = Catalog(unlock, monitor)
        book = OrderBook(catalog.sites)
        order = book.find(nonce, order_key(kit))
        uuid = probe_inventory(runner).dmi.uuid
        check_order(order, nonce, uuid, utc_now())
        made = plan_order(catalog, order, runner)
        tell(f"order {nonce}: {order.image} onto {', '.join(made.required)}")
        book.use(order, uuid)
    except RefloatError as error:
        tell(f"order {nonce} REFUSED: {error.message}" + (f" ({error.hint})" if error.hint else ""))
        return
    try:
        report = apply_restore(made, runner, monitor)
    except RefloatError as error:
        book.report(order, {"ok": False, "error": error.as_dict(), "seconds": time.monotonic() - started})
        tell(f"order {nonce} FAILED: {error.message}" + (f" ({error.hint})" if error.hint else ""))
        return
    result = {"report": msgspec.to_builtins(report), "seconds": time.monotonic() - started}
    try:
        report.require_boot()
    except UnbootableError as error:
        book.report(order, {"ok": False, "error": error.as_dict(), **result})
        tell(f"order {nonce} FAILED: {error.message} ({error.hint})")
        return
    book.report(order, {"ok": True, **result})
    tell(f"order {nonce} DONE in {report.seconds:.0f} s: {order.image} is restored")
    _then(order.then, runner)


def plan_order(catalog: Catalog, order: Order, runner: Runner) -> Restoration:
    """The plan, with nothing left that a person would have to judge. Raises when there is."""
    made = plan_restore(catalog.open(order.image), restore_options(order), runner)
    made.plan.require()
    # a target given by path or by half a name has another token than what was ordered
    confirm(made, [text.partition("=")[2] or text for text in order.to], None)
    require_tools(made.plan.actions)
    if crypts := [each.name for each in made.plan.actions if isinstance(each, OpenCrypt)]:
        raise KeyMissingError(f"{', '.join(crypts)} needs a passphrase, and an order has none", hint=_ATTENDED)
    return made


_ATTENDED = "restore it by hand: what is in LUKS cannot be restored unattended"
#: Options that may be given again and again.
LISTS = frozenset(field.name for field in dataclasses.fields(RestoreOptions) if "tuple" in str(field.type)) - {"to"}


def check_order_fits(order: Order, layout: Layout) -> None:
    """The order against the image it is of. Raises ConfigError while a person listens."""
    check_names(layout, restore_options(order))
    if layout.crypts:
        raise ConfigError(f"{layout.crypts[0].name} is in LUKS, and an order has no passphrase", hint=_ATTENDED)


def restore_options(order: Order) -> RestoreOptions:
    """The order's options as the restore's own. ConfigError for one that it does not have."""
    of_boot = {field.name for field in dataclasses.fields(Repair)} - {"nic_map"}
    known = {field.name for field in dataclasses.fields(RestoreOptions)} - {"to", "repair", "scratch"}
    if strange := sorted(set(order.options) - known - of_boot):
        raise ConfigError(f"the order has options this Refloat does not know: {', '.join(strange)}")
    try:
        repair = msgspec.convert({key: order.options[key] for key in of_boot & set(order.options)}, Repair)
        given = {key: order.options[key] for key in known & set(order.options)}
        options = dataclasses.replace(msgspec.convert({**given, "to": order.to}, RestoreOptions), repair=repair)
        if options.firmware not in ("", "bios", "uefi") or options.unused not in ("keep", "discard", "zero"):
            raise ConfigError("firmware is bios or uefi, unused is keep, discard or zero")
        if repair.clone_as is not None:
            check_name(repair.clone_as)
        return options
    except msgspec.ValidationError as error:
        raise ConfigError(f"the order's options have a wrong form: {error}") from error


def _open_kit(runner: Runner, tell: Tell) -> Kit:
    data = fw_cfg("kit")
    path = None if data else media.find_kit(runner)
    if data is None and path is None:
        raise ConfigError("there is no recovery kit", hint=f"fw_cfg, or a stick labelled {media.KIT_LABEL} with *.kit")
    text = data.decode("utf-8", "replace") if data else path.read_text("utf-8", "replace") if path else ""
    for passphrase in _passphrases(path.parent if path else None, tell):
        try:
            return open_kit(text.strip("\0"), passphrase)
        except KeyMissingError:
            tell("that passphrase does not open the kit")
            PASSPHRASE.unlink(missing_ok=True)
    raise KeyMissingError("no passphrase was given that opens the kit")


def _passphrases(folder: Path | None, tell: Tell) -> list[str] | _Waiting:
    if given := fw_cfg_text("passphrase"):
        return [given]
    if folder is not None and (folder / "passphrase").is_file():
        return [(folder / "passphrase").read_text("utf-8").partition("\n")[0].rstrip("\r")]
    tell("waiting for the kit's passphrase: choose `o` in the menu")
    return _Waiting()


class _Waiting:
    """Passphrases that a person types at the console, as they come."""

    def __iter__(self) -> _Waiting:
        return self

    def __next__(self) -> str:
        while not PASSPHRASE.exists():
            time.sleep(1)
        text = PASSPHRASE.read_text("utf-8")
        PASSPHRASE.unlink()
        return text


def _then(what: Then, runner: Runner) -> None:
    if what is not Then.STAY:
        runner.run(["sync"], purpose="write what is left", timeout=600)
        time.sleep(_SHOWN_SECONDS)
        runner.run(["systemctl", what.value], purpose="end", timeout=60)
