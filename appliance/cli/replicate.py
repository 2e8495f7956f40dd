"""`refloat replicate`: images from one site to another, without keys that open them. May import `appliance`, `core`."""

from __future__ import annotations

import click
import msgspec

from appliance.catalog import Catalog
from appliance.cli.common import Context, command, plain
from appliance.replicate import Replicate, Replicated, servers_at
from core.errors import ConfigError
from core.sizes import format_size
from imager.repository.store import Repository


@click.command()
@command(unlock=True)
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("--server", "servers", multiple=True, metavar="NAME", help="Only this server; else all at FROM.")
@click.option("--image", "images", multiple=True, metavar="TIME", help="Only this image.")
@click.option("--repair", is_flag=True, help="Replace what is damaged or missing at TO by what FROM has.")
@click.option("--dry-run", is_flag=True, help="Say what would be copied; change nothing.")
def replicate(
    context: Context,
    source: str,
    target: str,
    servers: tuple[str, ...],
    images: tuple[str, ...],
    repair: bool,
    dry_run: bool,
) -> None:
    """Copy images, archives and their receipts from site FROM to site TO: only what is missing, each manifest last.

    Opens nothing, so needs no identity. Interrupted, it is run again and goes on. --repair reads every byte at TO, and
    needs the right to delete there (a vault's operator token).

    \b
    refloat replicate strasbourg falkenstein --dry-run
    refloat replicate strasbourg falkenstein --server web1 --repair --kit fleet.kit
    """
    if source == target:
        raise ConfigError("FROM and TO are the same site", hint="name two sites")
    unlock = context.unlock(need_identity=False)
    # Both are meant: a site that is down must not be left out.
    one, other = (Catalog(unlock, context.monitor, [name]).sites[0] for name in (source, target))
    total: dict[str, Replicated] = {}
    try:
        for server in servers_at(one, servers):
            pins = [pin for pin in unlock.servers if pin.name == server]
            if not pins:
                context.monitor.warn(f"no key of {server} is pinned: that its images are signed by it is not checked")
            run = Replicate(
                Repository(one, server),
                Repository(other, server),
                pins,
                context.monitor,
                dry_run=dry_run,
                repair=repair,
            )
            total[server] = run.report
            run.run(images)
            if repair:
                run.heal()
    finally:
        one.close()
        other.close()
    context.emit({"dry_run": dry_run, "servers": msgspec.to_builtins(total)}, lambda: _page(context, total, dry_run))
    for report in total.values():
        report.raise_for_status()


def _page(context: Context, total: dict[str, Replicated], dry_run: bool) -> None:
    would = "would be " if dry_run else ""
    for server, report in total.items():
        context.print(
            f"{plain(server)}: {len(report.images)} images and {len(report.archives)} archives {would}copied "
            f"({report.objects} objects, {format_size(report.bytes)}), {report.present} were there"
        )
        for name in report.healed:
            context.print(f"[green]{would}healed[/green] {plain(name)}")
        for line in report.failed:
            context.print(f"[red]failed[/red] {plain(line)}")
