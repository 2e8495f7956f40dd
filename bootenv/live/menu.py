"""The menu below the banner: what each choice does. May import everything below it."""

from __future__ import annotations

import os
from collections.abc import Callable

import click

from bootenv.live.advice import find_advice, rescan
from core.errors import RefloatError
from core.run import Runner
from core.sizes import format_size
from hardware.inventory import probe_inventory
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


def _hardware(runner: Runner) -> None:
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
    "3": ("List the hardware", _hardware),
    "4": ("Look again for hardware", _rescan),
    "s": ("Shell", _shell),
    "r": ("Restart", _reboot),
    "p": ("Power off", _power_off),
}
