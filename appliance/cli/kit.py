"""`refloat kit`: make, extend and open the recovery kit. May import `appliance`, `core`."""

from __future__ import annotations

import dataclasses
import functools
import shlex
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from appliance import kitfile
from appliance.cli.common import Context, FilePath, command, to_builtins
from appliance.kit import Kit, gaps
from appliance.kitfile import AdditionOptions, Additions
from appliance.receipt import receipt_of
from appliance.unlock import read_kit, read_text


@click.group()
def kit() -> None:
    """The recovery kit: one sealed file that opens every image of a fleet. Keep it and its passphrase apart."""


def _additions(function: Callable[..., None]) -> Callable[..., None]:
    """The options that say what goes into a kit; the function gets them as `given`."""

    @functools.wraps(function)
    def wrapper(*args: object, **kwargs: object) -> None:
        given = {field.name: kwargs.pop(field.name) for field in dataclasses.fields(AdditionOptions)}
        function(*args, given=msgspec.convert(given, AdditionOptions, from_attributes=True), **kwargs)

    wrapped: Callable[..., None] = wrapper
    for option in reversed(
        (
            click.option(
                "--config", "configs", type=FilePath(), multiple=True, help="Take sites (and own keys) from here."
            ),
            click.option(
                "--server", "servers", multiple=True, metavar="NAME:ID:FINGERPRINT", help="From `refloat keys show`."
            ),
            click.option("--identity", type=FilePath(), help="Put these AGE-SECRET-KEY lines in."),
            click.option(
                "--address", "addresses", multiple=True, metavar="SITE=ADDRESS", help="IP of a site, if DNS is dead."
            ),
            click.option(
                "--pin", "pins", multiple=True, metavar="SITE=PIN", help="What a site must prove: its CA or key."
            ),
            click.option(
                "--credential", "credentials", multiple=True, metavar="SITE:KEY=FILE", help="Reads a site; in FILE."
            ),
        )
    ):
        wrapped = option(wrapped)
    return wrapped


@kit.command()
@command(config=False, passphrase=True)
@click.argument("file", type=FilePath())
@_additions
def new(context: Context, file: Path, given: AdditionOptions) -> None:
    """Make a kit FILE with a new identity (or that of --identity), FILE.receipt and FILE.html, to be printed.

    \b
    refloat kit new fleet.kit --config /etc/refloat/refloat.toml
    refloat kit new fleet.kit --server web1:0a…:SHA256:… --passphrase-file secret
    """
    kitfile.refuse_existing(file)
    additions = Additions.gather(given)
    made = kitfile.create(file, additions, context.passphrase(twice=True), datetime.now(UTC))
    for gap in gaps(made):
        context.monitor.warn(gap)
    context.emit(_summary(file, made), lambda: _made(file, made))


def _made(file: Path, made: Kit) -> None:
    recipients = ", ".join(f'"{each}"' for each in made.recipients)
    click.echo(f"{file} holds {_count(made)}. Print {file}.html, and try the passphrase:")
    click.echo(f"  refloat kit open {shlex.quote(str(file))}")
    click.echo(f"Every server needs in its configuration:\n  recipients = [{recipients}]")
    click.echo(
        f"and a copy of {file}.receipt, named there as [kit] receipt: `refloat doctor` tells when the kit is too old."
    )


@kit.command()
@command(config=False, passphrase=True)
@click.argument("file", type=FilePath())
@_additions
def add(context: Context, file: Path, given: AdditionOptions) -> None:
    """Add servers, sites or identities to the kit FILE; its receipt and page are written anew.

    \b
    refloat kit add fleet.kit --server db1:0a…:SHA256:…
    refloat kit add fleet.kit --config /etc/refloat/refloat.toml
    """
    additions = Additions.gather(given)
    changed = kitfile.add(file, additions, context.passphrase(), datetime.now(UTC))
    text = f"{file} now holds {_count(changed)}. Print {file}.html again and copy {file}.receipt to the servers."
    context.emit(_summary(file, changed), text)


@kit.command("open")
@command(config=False, passphrase=True)
@click.argument("file", type=FilePath())
@click.option("--show-identity", is_flag=True, help="Print the secret identities, too.")
def open_(context: Context, file: Path, show_identity: bool) -> None:
    """Open the kit FILE and show what it holds; FILE.receipt then says that somebody could.

    \b
    refloat kit open fleet.kit
    """
    opened, now = read_kit(file, context.passphrase()), datetime.now(UTC)
    if not kitfile.note_opened(file, opened, now):
        context.monitor.warn(
            f"{file}.receipt is missing, of another kit or read-only: servers will not know that it was opened"
        )
    facts = to_builtins(receipt_of(opened, read_text(file, "recovery kit"), opened=now))
    secrets = {"identities": list(opened.identities)} if show_identity else {}
    context.emit({"kit": facts, **secrets}, lambda: _describe(opened, show_identity))


def _summary(file: Path, found: Kit) -> dict[str, object]:
    sites = [site.name for site in found.sites]
    return {"kit": str(file), "recipients": found.recipients, "servers": found.servers, "sites": sites}


def _describe(opened: Kit, show_identity: bool) -> None:
    click.echo(f"recovery kit of {opened.updated_at} (made {opened.created_at}): {_count(opened)}")
    for recipient in opened.recipients:
        click.echo(f"  recipient  {recipient}")
    for site in opened.sites:
        more = [*site.addresses, *(f"credential {name}" for name in site.credentials)]
        click.echo(f"  site       {site.name} ({site.country})  {'  '.join([site.url, *more])}")
    for server in opened.servers:
        click.echo(f"  server     {server.name}  {server.fingerprint}  {server.id}")
    for identity in opened.identities if show_identity else ():
        click.echo(f"  identity   {identity}")


def _count(found: Kit) -> str:
    parts = (
        (len(found.identities), "identity", "identities"),
        (len(found.servers), "server", "servers"),
        (len(found.sites), "site", "sites"),
    )
    return ", ".join(f"{number} {one if number == 1 else many}" for number, one, many in parts)
