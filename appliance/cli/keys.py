"""`refloat keys`: a server's own signing and digest keys. May import `appliance`, `imager.keys`."""

from __future__ import annotations

import click

from appliance.cli.common import Context, command
from appliance.kit import KitServer
from imager.keys import ServerKeys


@click.group()
def keys() -> None:
    """This server's own keys: they sign and compare, and open no image."""


@keys.command()
@command()
def new(context: Context) -> None:
    """Draw this server's keys into its state folder; once, they are never replaced.

    \b
    refloat keys new
    """
    made = ServerKeys.create(context.config.state_path, context.config.server)
    _show(context, made)


@keys.command()
@command()
def show(context: Context) -> None:
    """Print who this server is, and the pin that a recovery kit needs.

    \b
    refloat keys show --json
    """
    _show(context, ServerKeys.load(context.config.state_path))


def _show(context: Context, found: ServerKeys) -> None:
    pin = KitServer(name=found.name, id=found.server_id.hex(), fingerprint=found.fingerprint)
    text = (
        f"server       {pin.name}\nid           {pin.id}\nfingerprint  {pin.fingerprint}\n\n"
        f"Where the recovery kit is:\n  refloat kit add KIT --server {pin}"
    )
    context.emit({"server": pin.name, "id": pin.id, "fingerprint": pin.fingerprint, "pin": str(pin)}, text)
