"""`refloat images` and `refloat show`: what there is to restore. May import `appliance`, `core`."""

from __future__ import annotations

import click

from appliance.catalog import ArchiveEntry, Catalog, ImageEntry
from appliance.cli.common import Context, command, plain
from core.layout import Disk, Role
from core.sizes import format_size
from imager.repository.manifest import Manifest
from imager.repository.store import StoredImage


@click.command()
@command(unlock=True)
@click.argument("servers", nargs=-1)
def images(context: Context, servers: tuple[str, ...]) -> None:
    """List the images at the sites, newest last. Needs no identity.

    \b
    refloat images
    refloat images web1 --kit fleet.kit
    """
    catalog = Catalog(context.unlock(need_identity=False), context.monitor)
    rows = [entry for server in servers or catalog.servers() for entry in catalog.images(server)]
    archives = [entry for server in servers or catalog.servers() for entry in catalog.archives(server)]
    context.emit(
        {"images": [_row(entry) for entry in rows], "archives": [_archive_row(entry) for entry in archives]},
        lambda: _table(context, rows, archives),
    )


def _row(entry: ImageEntry) -> dict[str, object]:
    manifest = entry.stored.manifest if entry.stored else None
    return {
        "server": entry.server,
        "image": entry.image,
        "state": manifest.state if manifest else "unreadable",
        "taken_at": manifest.taken_at if manifest else None,
        "note": manifest.note if manifest else "",
        "size_bytes": sum(volume.spec.size_bytes for volume in manifest.volumes) if manifest else None,
        "changed_bytes": manifest.totals.changed_bytes if manifest else None,
        "sites": {name: received.isoformat() for name, received in entry.sites.items()},
        "trouble": entry.trouble,
    }


def _archive_row(entry: ArchiveEntry) -> dict[str, object]:
    found = entry.stored.description if entry.stored else None
    return {
        "server": entry.server,
        "image": f"archives/{entry.image}",
        "state": found.state if found else "unreadable",
        "taken_at": found.taken_at if found else None,
        "kind": found.kind if found else None,
        "base": f"archives/{found.base.image}" if found and found.base else None,
        "note": found.note if found else "",
        "size_bytes": sum(volume.spec.size_bytes for volume in found.volumes) if found else None,
        "data_bytes": found.data_bytes if found else None,
        "sites": {name: received.isoformat() for name, received in entry.sites.items()},
        "trouble": entry.trouble,
    }


def _table(context: Context, rows: list[ImageEntry], archives: list[ArchiveEntry]) -> None:
    from rich.table import Table

    table = Table()
    for column in ("image", "state", "size", "changed", "sites", "note"):
        table.add_column(column, justify="right" if column in ("size", "changed") else "left")
    for entry in rows:
        manifest = entry.stored.manifest if entry.stored else None
        size = sum(volume.spec.size_bytes for volume in manifest.volumes) if manifest else 0
        table.add_row(
            f"{entry.server}/{entry.image}",
            manifest.state if manifest else "[red]unreadable[/red]",
            format_size(size) if manifest else "",
            format_size(manifest.totals.changed_bytes) if manifest else "",
            plain(" ".join(entry.sites)),
            plain(manifest.note if manifest else "; ".join(entry.trouble)),
        )
    for archive in archives:
        found = archive.stored.description if archive.stored else None
        table.add_row(
            f"{archive.server}/archives/{archive.image}",
            f"{found.state}, {found.kind} archive" if found else "[red]unreadable[/red]",
            format_size(sum(volume.spec.size_bytes for volume in found.volumes)) if found else "",
            format_size(found.data_bytes) if found else "",
            plain(" ".join(archive.sites)),
            plain(found.note if found else "; ".join(archive.trouble)),
        )
    context.print(table if rows or archives else "no images yet; `refloat image` takes one")


@click.command()
@command(unlock=True)
@click.argument("image")
def show(context: Context, image: str) -> None:
    """Show one image: disks, volumes, method, parent, damage. Needs no identity.

    \b
    refloat show web1/latest
    refloat show web1/20261123T020000Z --json
    """
    catalog = Catalog(context.unlock(need_identity=False), context.monitor)
    sites, stored = catalog.find(image)
    context.emit(_as_dict(stored, [each.site.name for each in sites]), lambda: _page(context, stored.manifest))


def _as_dict(stored: StoredImage, sites: list[str]) -> dict[str, object]:
    manifest = stored.manifest
    return {
        "server": manifest.server,
        "image": manifest.image,
        "state": manifest.state,
        "taken_at": manifest.taken_at,
        "finished_at": manifest.finished_at,
        "agent": manifest.agent,
        "note": manifest.note,
        "parent": manifest.parent,
        "digest": stored.digest,
        "signer": stored.signer,
        "sites": sites,
        "layout": manifest.layout,
        "volumes": manifest.volumes,
        "totals": manifest.totals,
        "map": {"layers": [sum(ref.items for ref in layer) for layer in manifest.layers]},
    }


def _page(context: Context, manifest: Manifest) -> None:
    from rich.table import Table

    parent = manifest.parent.image if manifest.parent else "none: a full image"
    context.print(f"[bold]{manifest.server.name}/{manifest.image}[/bold]  {manifest.state}  parent {parent}")
    context.print(f"taken {plain(manifest.taken_at)}, finished {plain(manifest.finished_at)}")
    if manifest.note:
        context.print(f"note: {plain(manifest.note)}")
    for disk in manifest.layout.disks:
        _print_disk(context, disk)
    table = Table(title="what was imaged", title_justify="left")
    for column in ("volume", "holds", "size", "read", "method", "unreadable"):
        table.add_column(column, justify="right" if column in ("size", "read") else "left")
    for volume in manifest.volumes:
        spec = volume.spec
        table.add_row(
            plain(spec.name), plain(f"{spec.content.type or spec.role} {spec.content.label}".strip()),
            format_size(spec.size_bytes),
            format_size(volume.used_bytes), volume.method,
            ", ".join(f"{size} B at {at}" for at, size in volume.unreadable),
        )  # fmt: skip
    context.print(table)


def _print_disk(context: Context, disk: Disk) -> None:
    """The disk that was there, and its partitions: those that are made again empty (swap), too."""
    from rich.table import Table

    kind = disk.table.kind if disk.table else f"no partition table {disk.content.type}".rstrip()
    known = (f"model {disk.model}" if disk.model else "", f"serial {disk.serial}" if disk.serial else "")
    words = (f"{format_size(disk.size_bytes)} ({disk.size_bytes} B)", f"sectors of {disk.sector_bytes} B", kind)
    context.print(
        f"disk [bold]{plain(disk.name)}[/bold]  {plain('  '.join(each for each in (*known, *words) if each))}"
    )
    if disk.table is None:
        return
    table = Table()
    for column in ("partition", "size", "type", "name", "content", "label", "smallest known size"):
        table.add_column(column, justify="right" if "size" in column else "left")
    for part in disk.table.partitions:
        content = part.content
        holds = content.type or ("" if part.role is Role.PRIMARY else part.role)
        least = "" if content.min_bytes is None else format_size(content.min_bytes)
        row = (part.number, format_size(part.size_bytes), part.type, part.name, holds, content.label, least)
        table.add_row(*map(plain, row))
    context.print(table)
