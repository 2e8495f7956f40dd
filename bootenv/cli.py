"""`refloat rescue`: build and serve the rescue environment. May import everything below it. Holds no logic."""

from __future__ import annotations

from pathlib import Path

import click

from appliance.cli.common import Context, FilePath, command
from bootenv.addresses import read_ports
from bootenv.build import DEFAULT_OUTPUT, Built, read_built
from bootenv.build import build as build_it
from bootenv.serve import choose_place
from bootenv.serve import serve as serve_it
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


@rescue.command()
@command(config=False)
@click.argument("folder", type=FilePath(), default=DEFAULT_OUTPUT)
@click.option("--interface", default="", help="Network interface to answer on [the only one with a link].")
@click.option("--address", default="", help="Its address to serve at, when it has several.")
@click.option("--port", type=click.IntRange(1, 65535), default=8080, help="Port of the HTTP server [8080].")
@click.option("--no-dhcp", is_flag=True, help="HTTP only: the network's own DHCP server names the script.")
@click.option("--word", "words", multiple=True, metavar="NAME=VALUE", help="Add refloat.NAME=VALUE to the kernel line.")
def serve(
    context: Context, folder: Path, interface: str, address: str, port: int, no_dhcp: bool, words: tuple[str, ...]
) -> None:
    """Serve FOLDER to machines that boot over the network, beside the DHCP server that is there. Ctrl-C ends it.

    \b
    refloat rescue serve --interface eno1
    refloat rescue serve /srv/rescue --no-dhcp --address 192.0.2.10
    """
    runner = SystemRunner()
    place = choose_place(read_ports(runner), interface, address, port)
    added = [f"refloat.{word}" for word in words]
    serve_it(read_built(folder), place, runner, context.monitor, dhcp=not no_dhcp, words=added)
