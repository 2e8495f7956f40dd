"""`refloat image`: one image of this server, to every site. May import `appliance`, `core`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from appliance.cli.common import Context, command
from appliance.image import ImageOptions, ImageOutcome, take_image
from core.run import SystemRunner
from core.sizes import format_size
from hardware.read import DiskSource

if TYPE_CHECKING:
    from rich.table import Table


@click.command()
@command()
@click.option(
    "--disk",
    "disks",
    multiple=True,
    metavar="[NAME=]PATH",
    help="Disk or disk-image file, instead of the configured ones.",
)
@click.option("--site", "only", multiple=True, metavar="NAME", help="Only to this site.")
@click.option("--note", default="", help="A note kept with the image, such as 'before upgrade'.")
@click.option(
    "--live", is_flag=True, help="Image mounted filesystems too: whole, while they change, and marked `live`."
)
@click.option("--whole", multiple=True, metavar="VOLUME", help="Image this volume whole, without its filesystem's map.")
def image(
    context: Context, disks: tuple[str, ...], only: tuple[str, ...], note: str, live: bool, whole: tuple[str, ...]
) -> None:
    """Image this server to every site.

    Only what changed since the image before is stored; every image is complete by itself. A site that fails or lags
    does not hold up the others.

    \b
    refloat image
    refloat image --note "before upgrade"
    refloat image --disk /dev/vdb --json
    """
    options = ImageOptions(tuple(_disk(text) for text in disks), note, live, only, frozenset(whole))
    outcome = take_image(context.config, options, SystemRunner(), context.monitor)
    context.emit(_as_dict(outcome), lambda: _table(context, outcome))
    outcome.raise_for_status()


def _disk(text: str) -> DiskSource:
    """`/dev/vda`, or `NAME=PATH`; a path that holds `=` needs a name before it."""
    name, equals, path = text.partition("=")
    return DiskSource(path, name) if equals and "/" not in name else DiskSource(text, Path(text).stem)


def _as_dict(outcome: ImageOutcome) -> dict[str, object]:
    return {
        "server": outcome.server,
        "image": outcome.image,
        "parent": outcome.parent,
        "state": outcome.state,
        "sites": [
            {
                "name": each.name,
                "status": each.status,
                "parent": each.parent,
                "read_bytes": each.read_bytes,
                "changed_bytes": each.changed_bytes,
                "stored_bytes": each.stored_bytes,
                "seconds": each.seconds,
                "error": each.error.as_dict() if each.error else None,
            }
            for each in outcome.sites
        ],
        "archives": [
            {
                "name": each.name,
                "status": each.status,
                "image": each.result.image if each.result else None,
                "kind": each.result.kind if each.result else None,
                "base": each.result.base if each.result else None,
                "data_bytes": each.result.data_bytes if each.result else 0,
                "stored_bytes": each.result.stored_bytes if each.result else 0,
                "seconds": each.result.seconds if each.result else 0.0,
                "error": each.error.as_dict() if each.error else None,
            }
            for each in outcome.archives
        ],
        "volumes": [
            {
                "name": each.spec.name,
                "held": each.held,
                "method": each.method,
                "used_bytes": each.used_bytes,
                "read_bytes": each.read_bytes,
                "tracked": each.tracked,
                "why_not_tracked": outcome.why_not.get(each.spec.name, ""),
                "audited": each.audited,
                "audit_missed": each.audit_missed,
            }
            for each in outcome.volumes
        ],
        "window_seconds": round(outcome.window_seconds, 3),
        "warnings": outcome.warnings,
    }


def _table(context: Context, outcome: ImageOutcome) -> None:
    from rich.table import Table

    table = Table(
        title=f"image {outcome.image} of {outcome.server}" + (f" (parent {outcome.parent})" if outcome.parent else "")
    )
    for column in ("site", "status", "read", "changed", "stored", "seconds", "MiB/s"):
        table.add_column(column, justify="left" if column in ("site", "status") else "right")
    for each in outcome.sites:
        rate = each.read_bytes / max(each.seconds, 1e-3) / (1 << 20)
        table.add_row(
            each.name, each.status, format_size(each.read_bytes), format_size(each.changed_bytes),
            format_size(each.stored_bytes), f"{each.seconds:.1f}", f"{rate:.0f}" if each.status == "committed" else "",
        )  # fmt: skip
    for archive in outcome.archives:
        made = archive.result
        sizes = (made.data_bytes, made.stored_bytes) if made else ()
        told = f"{archive.status} ({made.kind} archive)" if made else f"{archive.status} (archive)"
        table.add_row(archive.name, told, "", *map(format_size, sizes), f"{made.seconds:.1f}" if made else "")
    context.print(table)
    context.print(_volumes(outcome))
    if outcome.window_seconds:
        context.print(f"filesystems stood still for {outcome.window_seconds:.1f} s")


def _volumes(outcome: ImageOutcome) -> Table:
    from rich.table import Table

    table = Table()
    for column in ("volume", "held", "map", "used", "read", "tracking"):
        table.add_column(column, justify="right" if column in ("used", "read") else "left")
    for each in outcome.volumes:
        tracking = each.tracked or outcome.why_not.get(each.spec.name, "")
        if each.audit_missed:
            tracking = f"audit: {each.audit_missed} of {each.audited} blocks missed"
        table.add_row(
            each.spec.name, each.held, each.method, format_size(each.used_bytes), format_size(each.read_bytes), tracking
        )
    return table
