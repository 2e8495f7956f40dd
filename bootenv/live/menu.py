"""The menu below the banner: what each choice does. May import everything below it."""

from __future__ import annotations

import os
from collections.abc import Callable

import click

from bootenv.addresses import read_ports
from bootenv.live.advice import find_advice, rescan
from bootenv.live.media import KIT_LABEL, find_kit
from bootenv.live.network import Setup, apply, networkd_files
from bootenv.live.state import PASSPHRASE
from core.errors import RefloatError
from core.files import write_new
from core.run import Runner
from core.sizes import format_size
from hardware.machine import tokens


def run_choice(key: str, runner: Runner) -> None:
    """Do it; errors are shown with their hint, and the banner comes back."""
    try:
        CHOICES[key][1](runner)
    except RefloatError as error:
        click.echo(f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""))
    except (click.Abort, KeyboardInterrupt, EOFError):
        click.echo("\nleft as it was")
    try:
        click.prompt("Enter goes back", default="", show_default=False, prompt_suffix=" ")
    except click.Abort:
        return


def _restore(runner: Runner) -> None:
    """The terminal restore: asks for what `refloat restore` needs, then leaves the plan and the confirmation to it."""
    kit, sites = _ask_kit(runner)
    known = [f"--site={site}" for site in sites]
    if _refloat("images", "--kit", kit, *known) != 0:
        return
    image = click.prompt("Which image (SERVER/TIME, or SERVER/latest)")
    _hardware(runner)
    to = click.prompt("Onto which disks (serials, in the image's order, or DISK=SERIAL; blanks between)").split()
    grow = click.prompt("What fills a larger disk (none, last, or a volume)", default="none")
    _refloat("restore", image, "--kit", kit, *known, *(f"--to={each}" for each in to), f"--grow={grow}")


def _image(runner: Runner) -> None:
    kit, sites = _ask_kit(runner)
    name = click.prompt("Name of the image's server (a new one, such as web1-rescue)")
    _refloat("rescue", "image", name, "--kit", kit, *(f"--site={site}" for site in sites))


def _ask_kit(runner: Runner) -> tuple[str, list[str]]:
    found = find_kit(runner)
    kit = click.prompt(f"Recovery kit (a file; or on a stick labelled {KIT_LABEL})", default=str(found or "") or None)
    sites = click.prompt("Sites that are elsewhere now (NAME=URL, blanks between)", default="", show_default=False)
    return kit, sites.split()


def _refloat(*arguments: str) -> int:
    from appliance.cli import main  # the same program, with the same prompts, in this terminal

    return main(list(arguments))


def _network(runner: Runner) -> None:
    for port in read_ports(runner):
        click.echo(f"  {port.name:14} {'link' if port.up else 'no link':8} {' '.join(port.addresses)}")
    cards = tuple(click.prompt("Card (two or more for a bond; blanks between)").split())
    bond = click.prompt("Bonding mode", default="active-backup") if len(cards) > 1 else ""
    vlan = click.prompt("VLAN (0: none)", default=0, type=int)
    addresses = _several("Addresses with prefix (192.0.2.7/24; none: DHCP)")
    gateways = _several("Gateways (may lie outside the subnet)") if addresses else ()
    setup = Setup(cards, bond, vlan, addresses, gateways, _several("DNS servers"))
    files = networkd_files(setup)
    proxy = click.prompt("HTTP proxy for the sites (none: empty)", default="", show_default=False)
    if click.confirm("Set it up like this?", default=True):
        apply(files, runner)
        for name in ("http_proxy", "https_proxy"):
            os.environ[name] = proxy  # of this terminal, what it starts, and its shell


def _several(text: str) -> tuple[str, ...]:
    return tuple(click.prompt(text, default="", show_default=False).split())


def _passphrase(runner: Runner) -> None:
    del runner
    write_new(PASSPHRASE, click.prompt("Passphrase of the recovery kit", hide_input=True).encode())
    click.echo("given to the order that waits for it")


def _hardware(runner: Runner) -> None:
    from hardware.inventory import probe_inventory  # a second that the banner need not wait for

    inventory = probe_inventory(runner)
    named = tokens(inventory)
    dmi = inventory.dmi
    click.echo(f"{dmi.vendor} {dmi.product}  {inventory.firmware.upper()}  UUID {dmi.uuid}")
    for disk in inventory.devices:
        if disk.kind != "loop":
            uses = "; ".join(use.describe() for use in disk.uses)
            click.echo(
                f"  {disk.path:14} {format_size(disk.size_bytes):>10}  {disk.sector_bytes:4}  {disk.model:24} "
                f"{named[disk.path]}  {uses}"
            )
    for nic in inventory.nics:
        click.echo(f"  {nic.name:14} {nic.mac}  {nic.driver:12} {'link' if nic.link else 'no link'}")
    for each in find_advice():
        click.echo(f"  ! {each.device} {each.problem}. {each.hint}")


def _rescan(runner: Runner) -> None:
    click.echo("looking again ...")
    rescan()
    _hardware(runner)


def _shell(runner: Runner) -> None:
    del runner
    click.echo("`exit` comes back. `refloat --help` lists the commands.")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # this process becomes the shell; when it ends, systemd starts the console again
    os.execvpe("bash", ["bash", "-l"], environment)  # noqa: S606, S607 - list argv, in front of a person


def _reboot(runner: Runner) -> None:
    if click.confirm("Restart this machine now?"):
        runner.run(["systemctl", "reboot"], purpose="restart the machine")


def _power_off(runner: Runner) -> None:
    if click.confirm("Switch this machine off now?"):
        runner.run(["systemctl", "poweroff"], purpose="switch the machine off")


CHOICES: dict[str, tuple[str, Callable[[Runner], None]]] = {
    "1": ("Restore an image", _restore),
    "2": ("Set up the network", _network),
    "3": ("List the hardware", _hardware),
    "4": ("Look again for hardware", _rescan),
    "5": ("Image this machine", _image),
    "o": ("Give the passphrase to an order that waits", _passphrase),
    "s": ("Shell", _shell),
    "r": ("Restart", _reboot),
    "p": ("Power off", _power_off),
}
