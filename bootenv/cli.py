"""`refloat rescue`: build and serve the rescue environment. May import everything below it. Holds no logic."""

from __future__ import annotations

from pathlib import Path

import click

from appliance.cli.common import Context, FilePath, command
from bootenv.build import DEFAULT_OUTPUT, Built
from bootenv.build import build as build_it
from core.run import SystemRunner
from core.sizes import format_size


@click.group()
def rescue() -> None:
    """The rescue environment: what a machine without a system boots to be restored (docs/rescue.md)."""


@rescue.command()
@command(config=False)
@click.option("--output", type=FilePath(), default=DEFAULT_OUTPUT, help=f"Folder to build into [{DEFAULT_OUTPUT}].")
@click.option("--force", is_flag=True, help="Install Debian anew, with its latest updates, instead of from the cache.")
@click.option("--url", default="", help="Where the small ISO looks for the boot server first; ends in /.")
@click.option("--no-iso", is_flag=True, help="Only what is booted over the network.")
def build(context: Context, output: Path, force: bool, url: str, no_iso: bool) -> None:
    """Build kernel, initrd, root and ISOs, from Debian 13 and this Refloat. Needs root; holds no secret.

    \b
    refloat rescue build
    refloat rescue build --output /srv/rescue --url http://192.0.2.10:8080/
    """
    made = build_it(output, SystemRunner(), context.monitor, force=force, url=url, isos=not no_iso)
    context.emit({"folder": str(output), "sizes": made.sizes, "sha256": made.digests}, lambda: _built(made))


def _built(made: Built) -> None:
    for name, size in made.sizes.items():
        click.echo(f"  {format_size(size):>10}  {made.folder / name}")
    click.echo(f"Serve it: refloat rescue serve {made.folder}")
