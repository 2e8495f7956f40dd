"""`refloat rescue`: build and serve the rescue environment. May import everything below it. Holds no logic."""

from __future__ import annotations

from pathlib import Path

import click

from appliance.catalog import Catalog
from appliance.cli.common import Context, FilePath, command
from appliance.unlock import Unlock, read_kit
from bootenv.addresses import read_ports
from bootenv.build import DEFAULT_OUTPUT, Built, read_built
from bootenv.build import build as build_it
from bootenv.imaging import image_machine
from bootenv.live.unattended import LISTS, check_order_fits
from bootenv.orders import OrderBook, Then, new_order, order_key, placed, utc_now
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


_WORDS = {"yes": True, "true": True, "no": False, "false": False}


def _options(texts: tuple[str, ...]) -> dict[str, str | bool | tuple[str, ...]]:
    """`grow=last`, `hold_network=yes`, `only=vda-part2` (again for more): values of an order."""
    found: dict[str, str | bool | tuple[str, ...]] = {}
    for text in texts:
        name, _, value = text.partition("=")
        old = found.get(name, ())
        if name in LISTS:
            found[name] = (*(old if isinstance(old, tuple) else ()), value)
        else:
            found[name] = _WORDS.get(value, value)
    return found


_KIT = click.option("--kit", "kit_file", type=FilePath(), required=True, help="Recovery kit.")
_SITE = click.option("--site", "places", multiple=True, metavar="NAME=URL", help="Look for a site of the kit here.")


@rescue.command()
@command(config=False, passphrase=True)
@click.argument("image")
@_KIT
@_SITE
@click.option("--uuid", required=True, help="DMI UUID of the machine that may carry it out.")
@click.option("--to", multiple=True, required=True, metavar="[DISK=]SERIAL", help="Its target disks, by serial.")
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="NAME=VALUE",
    help="grow=last … (docs/rescue.md)",
)
@click.option("--then", type=click.Choice([each.value for each in Then]), default="poweroff", help="After success.")
def order(
    context: Context, image: str, kit_file: Path, places: tuple[str, ...], uuid: str, to: tuple[str, ...],
    options: tuple[str, ...], then: str,
) -> None:  # fmt: skip
    """Record an order at the sites: a machine that is started with its nonce restores IMAGE by itself, once.

    \b
    refloat rescue order web1/latest --kit fleet.kit --uuid 4c4c…-44 --to S4EWNX0R123 --option grow=last
    """
    kit = read_kit(kit_file, context.passphrase())
    unlock = Unlock(kit.keys(), kit.servers, placed(kit.sites, places))
    catalog = Catalog(unlock, context.monitor)
    server, time = catalog.resolve(image)
    catalog.require(server, time)
    made = new_order(f"{server}/{time}", uuid, to, _options(options), Then(then), utc_now())
    check_order_fits(made, catalog.open(made.image).manifest.layout)
    took = OrderBook(catalog.sites).record(made, order_key(kit))
    text = f"recorded at {', '.join(took)}, good until {made.expires_at}\nrefloat.order={made.nonce}"
    context.emit({"order": made, "sites": took}, text)


@rescue.command()
@command(config=False, passphrase=True)
@click.argument("name")
@_KIT
@_SITE
@click.option("--disk", "disks", multiple=True, metavar="PATH", help="Only this disk [all that nothing uses].")
@click.option("--note", default="", help="A note kept with the image.")
def image(
    context: Context, name: str, kit_file: Path, places: tuple[str, ...], disks: tuple[str, ...], note: str
) -> None:
    """Image this machine's disks, offline, to the kit's sites, as the new server NAME.

    A key drawn for this signs the image and is forgotten; its pin goes into the kit.

    \b
    refloat rescue image web1-rescue --kit fleet.kit
    """
    passphrase = context.passphrase()
    kit = read_kit(kit_file, passphrase)
    done = image_machine(
        name, kit, placed(kit.sites, places), disks, SystemRunner(), context.monitor, note=note,
        enroll=(kit_file, passphrase),
    )  # fmt: skip
    sites = {each.name: each.status for each in done.outcome.sites}
    value = {"image": f"{name}/{done.outcome.image}", "sites": sites, "pin": str(done.pin), "enrolled": done.enrolled}
    where = "it is in the kit" if done.enrolled else "NOT in the kit: refloat kit add KIT --server PIN"
    context.emit(value, f"image {name}/{done.outcome.image}: {sites}\npin {done.pin} ({where})")
    done.outcome.raise_for_status()
