"""`refloat verify`: every byte at the sites, without keys; `--deep` with them. May import `appliance`, `core`."""

from __future__ import annotations

import click
import msgspec

from appliance.catalog import Catalog
from appliance.cli.common import Context, command, plain
from appliance.locks import report
from appliance.verify import Verify, VerifyReport
from core.errors import ConfigError
from core.sizes import format_size
from imager.repository.store import Repository


@click.command()
@command(unlock=True)
@click.argument("images", nargs=-1)
@click.option("--deep", is_flag=True, help="Decrypt every block, too; needs --kit or --identity.")
@click.option("--only", multiple=True, metavar="SITE", help="Only this site.")
def verify(context: Context, images: tuple[str, ...], deep: bool, only: tuple[str, ...]) -> None:
    """Prove that every byte at the sites is intact: signatures, digests, completeness. Needs no identity.

    \b
    refloat verify
    refloat verify web1/latest --deep --kit fleet.kit
    """
    unlock = context.unlock(need_identity=deep)
    catalog = Catalog(unlock, context.monitor, only)
    wanted: dict[str, list[str]] = {}
    for name in images:
        server, image = catalog.resolve(name)
        catalog.require(server, image)
        wanted.setdefault(server, []).append(image)
    if not images:
        wanted = {server: [] for server in catalog.servers()}
    if not wanted:
        raise ConfigError("no server is known", hint="give --kit, or run it on a server that has keys")
    total = VerifyReport()
    for server, chosen in wanted.items():
        for site in catalog.sites:
            run = Verify(Repository(site, server), unlock.trusted(server), context.monitor)
            run.run(chosen)
            if deep and unlock.identities is not None:
                run.deep(unlock.identities, context.monitor)
            _add(total, run.report)
            if locks := report(Repository(site, server), unlock.trusted(server), context.monitor):
                total.locks.append(locks)
    context.emit(msgspec.to_builtins(total), lambda: _page(context, total))
    total.raise_for_status()


def _add(total: VerifyReport, part: VerifyReport) -> None:
    for name in ("images", "segments", "packs", "read_bytes", "blocks"):
        setattr(total, name, getattr(total, name) + getattr(part, name))
    total.damage.extend(part.damage)


def _page(context: Context, found: VerifyReport) -> None:
    size = format_size(found.read_bytes)
    context.print(
        f"{found.images} manifests, {found.segments} map segments, {found.packs} packs ({size})"
        + (f", {found.blocks} blocks decrypted" if found.blocks else "")
    )
    for each in found.damage:
        context.print(
            f"[red]damaged[/red] {plain(each.object)} at {plain(each.site)}: {plain(each.problem)} "
            f"(images: {', '.join(each.images)})"
        )
    for locks in found.locks:
        context.print(plain(locks.describe()))
    if not found.damage:
        context.print("[green]intact[/green]")
