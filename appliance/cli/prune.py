"""`refloat prune`: which images stay and why; `refloat keep`: pins. May import `appliance`, `core`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import click
import msgspec
from rich.table import Table

from appliance.catalog import Catalog
from appliance.cli.common import Context, command, plain
from appliance.config import RetentionConfig
from appliance.retention.policy import Day, simulate
from appliance.retention.prune import Prune, PruneReport, only_known, terms_of
from appliance.retention.records import Records
from appliance.unlock import Unlock
from core.errors import ConfigError, SiteError
from imager.repository.store import Repository, server_names
from imager.sites.base import Site


@click.command()
@command(unlock=True)
@click.option("--only", multiple=True, metavar="SITE", help="Decide for this site; the others are asked all the same.")
@click.option("--server", "servers", multiple=True, metavar="NAME", help="Only this server.")
@click.option("--apply", is_flag=True, help="Write the decision; `refloat gc` acts on it after the delay.")
@click.option("--drop", multiple=True, metavar="TIME", help="Take this image away whatever the policy says.")
@click.option(
    "--simulate",
    "days",
    type=click.IntRange(1, 20_000),
    metavar="N",
    help="Ask no site: show what the policy keeps of N nights.",
)
def prune(
    context: Context, only: tuple[str, ...], servers: tuple[str, ...], apply: bool, drop: tuple[str, ...],
    days: int | None,
) -> None:  # fmt: skip
    """Say of every image at every site whether it stays, and why, by the times at which the sites received them.

    Nothing is deleted here. --apply writes a dated decision to the site; `refloat gc` acts on it when the delay (7 days
    by the site's clock) is over, if it still holds then.

    \b
    refloat prune
    refloat prune --apply --only falkenstein
    refloat prune --simulate 400
    """
    retention = retention_of(context)
    if days is not None:
        calendar = simulate(terms_of(retention), days, datetime.now(UTC).date())
        return context.emit({"days": _as_json(calendar)}, lambda: _calendar(context, calendar))
    if drop and len(servers) != 1:
        raise ConfigError("--drop names an image of one server", hint="say which with --server NAME")
    total = PruneReport()
    for run, chosen in runs(context, servers, only, retention):
        for site in chosen:
            part = run.run(site, apply=apply, drop=drop)
            total.rows += part.rows
            total.written += part.written
    context.emit(msgspec.to_builtins(total), lambda: _page(context, total, apply))
    return None


@click.command()
@command(unlock=True)
@click.argument("image")
@click.option("--only", multiple=True, metavar="SITE", help="Only at this site.")
@click.option("--note", default="", help="Why, for whoever asks later.")
@click.option("--remove", is_flag=True, help="Take the pin back.")
def keep(context: Context, image: str, only: tuple[str, ...], note: str, remove: bool) -> None:
    """Pin an image, so that it stays whatever the policy says; also one that is in the trash already.

    \b
    refloat keep web1/latest --note 'before the migration'
    refloat keep web1/20260101T020000Z --remove
    """
    catalog = Catalog(context.unlock(need_identity=False), context.monitor, only)
    server, time = catalog.resolve(image)
    catalog.require(server, time)
    done = []
    for site in catalog.sites:
        repository = Repository(site, server)
        records = Records(repository)
        if not remove and not repository.has_object(repository.image_name(time)):
            continue
        if remove != (time in records.pins()):
            continue
        (records.unpin if remove else lambda each, records=records: records.pin(each, note))(time)
        done.append(site.name)
    said = "not pinned any more" if remove else "pinned"
    context.emit(
        {"server": server, "image": time, "pinned": not remove, "sites": done},
        f"{server}/{time} is {said} at: {', '.join(done) or 'no further site'}",
    )


def retention_of(context: Context) -> RetentionConfig:
    """The policy of the configuration; where there is none, the promise."""
    return RetentionConfig() if context.lacks_config else context.config.retention


def runs(
    context: Context, servers: Sequence[str], only: Sequence[str], retention: RetentionConfig
) -> Iterator[tuple[Prune, list[str]]]:
    """Per server what all sites hold, and the names of the sites that are meant and answered."""
    unlock = context.unlock(need_identity=False)
    catalog = Catalog(unlock, context.monitor)
    chosen = only_known(only, [site.name for site in catalog.sites], "site")
    for server in only_known(servers, _servers(context, unlock, catalog.sites), "server"):
        pins = [pin for pin in unlock.servers if pin.name == server]
        run = Prune([Repository(site, server) for site in catalog.sites], pins, retention, context.monitor)
        here = [site for site in chosen if site in run.found]
        if not here:
            raise SiteError(f"of {server} no site that is meant can be asked", hint="`refloat check` tells more")
        yield run, here


def _servers(context: Context, unlock: Unlock, sites: Sequence[Site]) -> list[str]:
    """Pinned servers; where nothing is pinned (on a vault's own host) those that have images there."""
    found = {pin.name for pin in unlock.servers}
    for site in sites if not found else ():
        try:
            found.update(server_names(site))
        except SiteError as error:
            context.monitor.warn(f"site {site.name}: {error.message}")
    return sorted(found)


def _page(context: Context, report: PruneReport, apply: bool) -> None:
    table = Table(box=None, pad_edge=False)
    for head in ("server", "site", "image", "received", "", "why"):
        table.add_column(head)
    for row in report.rows:
        word = "[green]stays[/green]" if row.stays else "[yellow]goes[/yellow]"
        when = f" ({row.goes_at:%Y-%m-%d %H:%M} or later)" if row.goes_at else ""
        table.add_row(
            plain(row.server), plain(row.site), row.image, f"{row.received.astimezone(UTC):%Y-%m-%d %H:%M}", word,
            plain(row.reason + when),
        )  # fmt: skip
    context.print(table)
    going = sum(1 for row in report.rows if not row.stays and row.goes_at is None)
    if going and not apply:
        context.print(f"{going} would go; `refloat prune --apply` writes that down")


def _as_json(days: Sequence[Day]) -> list[dict[str, object]]:
    return [
        {"day": str(each.day), "kept": {str(night): reason for night, reason in sorted(each.kept.items())}}
        for each in days
    ]


def _calendar(context: Context, days: Sequence[Day]) -> None:
    """A line a month: what is still there on the last day. d, m, y: held as; `·`: gone; blank: no night."""
    last = days[-1]
    months: dict[str, list[str]] = {}
    for each in days:
        reason = last.kept.get(each.day)
        row = months.setdefault(f"{each.day:%Y-%m}", [" "] * 31)
        row[each.day.day - 1] = "·" if reason is None else reason[0] if reason[0] in "dmy" else "n"
    context.print(f"of {len(days)} nights, on {last.day} there are {len(last.kept)}:")
    context.print("        " + "".join(f"{day % 10}" for day in range(1, 32)))
    for month, row in months.items():
        context.print(f"{month} " + "".join(row))
    for night, reason in sorted(last.kept.items()):
        context.print(f"{night}  {reason}")
    context.print(f"never more than {max(len(each.kept) for each in days)} at once")
