"""`refloat gc`: what was decided is deleted, packs mostly dead are repacked. May import `appliance`, `core`."""

from __future__ import annotations

import click
import msgspec

from appliance.cli.common import Context, command, plain
from appliance.cli.prune import retention_of, runs
from appliance.retention.gc import Collection, GcReport
from core.sizes import format_size


@click.command()
@command(unlock=True)
@click.option("--only", multiple=True, metavar="SITE", help="Only at this site.")
@click.option("--server", "servers", multiple=True, metavar="NAME", help="Only this server.")
@click.option("--apply", is_flag=True, help="Do it; without, only say what would be done.")
def gc(context: Context, only: tuple[str, ...], servers: tuple[str, ...], apply: bool) -> None:
    """Empty the trash where the delay is over, delete what no image names, repack packs that are mostly dead.

    Needs no key, and the right to delete. What is alive is derived again from the manifests that stay and their maps;
    when one of those is damaged, nothing is deleted.

    \b
    refloat gc
    refloat gc --apply --only falkenstein
    """
    retention = retention_of(context)
    reports = []
    for run, chosen in runs(context, servers, only, retention):
        for site in chosen:
            reports.append(Collection(run, run.repository(site), retention, context.monitor).run(apply=apply))
    context.emit({"sites": [msgspec.to_builtins(each) for each in reports]}, lambda: _page(context, reports))


def _page(context: Context, reports: list[GcReport]) -> None:
    for each in reports:
        will = "" if each.applied else "would have "
        context.print(f"[bold]{plain(each.server)}[/bold] at {plain(each.site)}")
        context.print(
            f"  {will}deleted {len(each.images)} images ({', '.join(each.images) or 'none'}), {each.packs} packs, "
            f"{each.maps} map segments, {each.records} records: {format_size(each.deleted_bytes)}"
        )
        context.print(
            f"  alive: {each.live_packs} packs, {format_size(each.live_bytes)}; named by nobody but young: {each.young}"
        )
        if each.half_dead:
            done = f"{each.repacked} repacked into {each.written}" if each.applied else "`--apply` repacks them"
            context.print(f"  less than half alive: {each.half_dead} packs; {done}")
