"""`refloat restore` and `refloat export`: an image back onto disks, or one volume into a file or pipe.

May import `appliance`, `imager`, `core`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection
from pathlib import Path

import click
import msgspec

from appliance.catalog import Catalog
from appliance.cli.common import Context, command, plain
from appliance.export import export_to_file, export_to_stream
from appliance.restore import Restoration, RestoreOptions, RestoreReport, apply_restore, confirm, plan_restore
from appliance.steps import AskPassphrase, Repair
from core.errors import ConfigError
from core.run import SystemRunner
from core.sizes import format_size
from hardware.actions import RetireTwin
from hardware.plan import plan_as_dict


@click.command()
@command(unlock=True)
@click.argument("image")
@click.option(
    "--to",
    multiple=True,
    required=True,
    metavar="[DISK=]SERIAL",
    help="Target disk by serial or path; one for each disk.",
)
@click.option("--plan", "only_plan", is_flag=True, help="Print the plan and stop; writes nothing.")
@click.option(
    "--confirm",
    "confirmed",
    multiple=True,
    metavar="SERIAL",
    help="Confirm a target by its serial, as the plan prints it.",
)
@click.option("--only", multiple=True, metavar="NAME", help="Only this disk or volume of the image; the rest stays.")
@click.option("--grow", default="none", metavar="none|last|VOLUME", help="What fills a larger disk [none].")
@click.option(
    "--unused", type=click.Choice(["keep", "discard", "zero"]), default="keep", help="Blocks no filesystem uses [keep]."
)
@click.option(
    "--scratch", type=click.Path(path_type=Path), help="Folder for scratch space when a filesystem must shrink."
)
@click.option(
    "--recreate",
    multiple=True,
    metavar="VOLUME|all",
    help="May be made anew and its files copied, where it cannot be put back as it is: a smaller disk, or 4Kn.",
)
@click.option(
    "--overwrite-unseen", is_flag=True, help="Also overwrite what nobody can look into for a site (LUKS, LVM, md)."
)
@click.option(
    "--firmware", type=click.Choice(["bios", "uefi"]), default=None, help="How it will boot [as this machine]."
)
@click.option(
    "--no-repair", is_flag=True, help="Put the bytes back and leave boot loader, initramfs and network alone."
)
@click.option("--no-md", is_flag=True, help="Dissolve a mirror: its content goes onto one disk.")
@click.option("--nic", "nics", multiple=True, metavar="OLD=NEW", help="Network card by MAC addresses: which is which.")
@click.option("--hold-network", is_flag=True, help="It boots without network until `refloat release`.")
@click.option("--as-clone", metavar="NAME", default=None, help="Give it a name and keys of its own; the old one lives.")
@click.option(
    "--retire",
    multiple=True,
    metavar="SERIAL",
    help="Another disk with the same group or array: its signatures go.",
)
@click.option("--luks", multiple=True, metavar="NAME=FILE", help="Passphrase file of a LUKS container of the image.")
@click.option("--no-read-back", is_flag=True, help="Trust the disk: do not read back what was written.")
@click.option("--from", "sites", multiple=True, metavar="SITE", help="Take it from this site only.")
def restore(
    context: Context, image: str, to: tuple[str, ...], only_plan: bool, confirmed: tuple[str, ...],
    only: tuple[str, ...], grow: str, unused: str, scratch: Path | None, recreate: tuple[str, ...],
    overwrite_unseen: bool, firmware: str | None, no_repair: bool, no_md: bool, nics: tuple[str, ...],
    hold_network: bool, as_clone: str | None, retire: tuple[str, ...], luks: tuple[str, ...],
    no_read_back: bool, sites: tuple[str, ...],
) -> None:  # fmt: skip
    """Put IMAGE back onto disks: plan, confirm, write, read back, make it boot.

    Blocks that are right already are not written: run it again and it goes on where it was. IMAGE may be an archive
    (SERVER/archives/TIME): it is written from its beginning, and onto disks as large as the old ones.

    \b
    refloat restore web1/latest --kit fleet.kit --to S4EWNX0R123 --plan
    refloat restore web1/latest --kit fleet.kit --to S4EWNX0R123 --confirm S4EWNX0R123
    refloat restore web1/latest --kit fleet.kit --to /dev/sdb --grow last
    refloat restore web1/latest --kit fleet.kit --to SMALL123 --recreate vda-part4
    refloat restore web1/archives/latest --kit fleet.kit --to S4EWNX0R123
    """
    runner = SystemRunner()
    opened = Catalog(context.unlock(), context.monitor, sites).open_any(image)
    nic_map = _pairs(nics, "--nic") or None
    options = RestoreOptions(
        to, only, grow, unused, not no_read_back, scratch, overwrite_unseen, not no_repair, firmware or "",
        Repair(nic_map, hold_network, as_clone, no_md), retire, recreate,
    )  # fmt: skip
    files = _pairs(luks, "--luks")
    crypts = {crypt.name for crypt in opened.manifest.layout.crypts}
    if strange := sorted(set(files) - crypts):
        raise ConfigError(
            f"the image has no LUKS container {strange[0]}", hint="`refloat show IMAGE` names what it has"
        )
    made = plan_restore(opened, options, runner)
    if only_plan:
        context.emit(_plan_dict(made), lambda: _plan_page(context, made))
        made.plan.require()
        return
    if not context.as_json:
        _plan_page(context, made)
    made.plan.require()
    retired = {action.spot.path for action in made.plan.actions if isinstance(action, RetireTwin)}
    confirm(made, confirmed, None if context.as_json or not sys.stdin.isatty() else _asking(made.holds, retired))
    attended = not context.as_json and sys.stdin.isatty()
    passphrase = _passphrases(files, attended)
    report = apply_restore(made, runner, context.monitor, passphrase)
    context.emit(msgspec.to_builtins(report), lambda: _report_page(context, report))
    report.require_boot()


def _asking(holds: dict[str, list[str]], retired: Collection[str] = ()) -> Callable[[str, str], str]:
    def ask(path: str, token: str) -> str:
        lost = "".join(f"\n  {_safe(line)}" for line in holds.get(path, ()))
        what = "lose the names of what is there twice" if path in retired else "be overwritten"
        text = f"{_safe(path)} will {what}. On it now:{lost}\nType {_safe(token)} to go on"
        return str(click.prompt(text, default="", show_default=False, err=True))

    return ask


def _pairs(given: tuple[str, ...], option: str) -> dict[str, str]:
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise ConfigError(f"{option} {text!r} is not of the form A=B", hint="see `refloat restore --help`")
        found[name] = value
    return found


def _passphrases(files: dict[str, str], attended: bool) -> AskPassphrase | None:
    """From the files given, else from the person; None where nobody can be asked and no file is given."""
    if not files and not attended:
        return None

    def ask(name: str, uuid: str) -> bytes:
        if name in files:
            return read_secret_file(Path(files[name]))
        if not attended:
            raise ConfigError(f"no passphrase is given for the LUKS container {name}", hint=f"--luks {name}=FILE")
        text = f"Passphrase of the LUKS container {_safe(name)} ({uuid})"
        return str(click.prompt(text, hide_input=True, err=True)).encode()

    return ask


def read_secret_file(path: Path) -> bytes:
    """A file's content without the newline that editors leave at its end."""
    try:
        return path.read_bytes().removesuffix(b"\n")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint="check the path and its permissions") from error


def _safe(text: str) -> str:
    """`plain` for a prompt, which has no markup to be escaped."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _plan_dict(made: Restoration) -> dict[str, object]:
    manifest = made.image.manifest
    return {
        "server": manifest.server.name,
        "image": manifest.image,
        "confirm": made.required,
        "holds": made.holds,
        "plan": plan_as_dict(made.plan),
    }


def _plan_page(context: Context, made: Restoration) -> None:
    manifest = made.image.manifest
    context.print(f"[bold]Plan: {manifest.server.name}/{manifest.image}[/bold] (taken {plain(manifest.taken_at)})")
    for path, token in made.required.items():
        device = made.inventory.device(path)
        context.print(
            f"  onto {plain(path)}  {format_size(device.size_bytes)}  {plain(device.model)}  "
            f"confirm with: [bold]{plain(token)}[/bold]"
        )
        for line in made.holds.get(path, ()):
            context.print(f"    on it now: {plain(line)}")
    for number, action in enumerate(made.plan.actions, 1):
        context.print(f"  {number:2}. {plain(action.describe())}")
    for warning in made.plan.warnings:
        context.print(f"  [yellow]warning[/yellow] {plain(warning)}")
    for refusal in made.plan.refusals:
        context.print(
            f"  [red]refused[/red] {plain(refusal.message)}"
            + (f"\n          {plain(refusal.hint)}" if refusal.hint else "")
        )


def _report_page(context: Context, report: RestoreReport) -> None:
    from rich.table import Table

    table = Table(title=f"{report.server}/{report.image} restored in {report.seconds:.1f} s")
    for column in ("volume", "written", "right already", "zeroed", "unused", "read back"):
        table.add_column(column, justify="left" if column == "volume" else "right")
    for each in report.volumes:
        table.add_row(
            plain(each.volume), format_size(each.written_bytes), format_size(each.equal_bytes),
            format_size(each.zeroed_bytes), f"{format_size(each.unused_bytes)} ({each.unused})",
            format_size(each.verified_bytes),
        )  # fmt: skip
    context.print(table)
    boot = report.boot
    for step in [*report.steps, *(boot.steps if boot else ())]:
        context.print(f"  done  {plain(step)}")
    for old, new in (boot.nics if boot else {}).items():
        context.print(f"  card  {plain(old)} is {plain(new)} now")
    for check in boot.checks if boot else ():
        mark = "[green]ok[/green]  " if check.ok else "[red]not[/red] "
        context.print(f"  {mark}  {plain(check.name)}: {plain(check.detail)}")
    for warning in [*report.warnings, *(boot.warnings if boot else ())]:
        context.print(f"  [yellow]warning[/yellow] {plain(warning)}")


@click.command()
@command(unlock=True)
@click.argument("image")
@click.argument("volume")
@click.option("-o", "--output", required=True, metavar="FILE|-", help="File to create, or - for stdout.")
def export(context: Context, image: str, volume: str, output: str) -> None:
    """Write one VOLUME of IMAGE, raw, to a file or a pipe; every block is checked. Unused blocks are zeros.
    An archive (SERVER/archives/TIME) goes to a file only.

    \b
    refloat export web1/latest vda-part3 -o root.img --kit fleet.kit
    refloat export web1/latest vda-part3 -o - --kit fleet.kit | ssh other 'cat > /dev/vdb1'
    """
    opened = Catalog(context.unlock(), context.monitor).open_any(image)
    names = [each.spec.name for each in opened.manifest.volumes]
    if volume not in names:
        raise ConfigError(f"the image has no volume {volume!r}", hint=f"it has: {', '.join(names)}")
    if output == "-":
        if context.as_json or os.isatty(sys.stdout.fileno()):
            raise ConfigError(
                "raw bytes go to a pipe, not to a terminal or beside --json", hint="redirect it, or -o FILE"
            )
        export_to_stream(opened, volume, sys.stdout.buffer, context.monitor)
        return
    report = export_to_file(opened, volume, Path(output), context.monitor)
    context.emit(msgspec.to_builtins(report), f"{output}: {format_size(report.size_bytes)}")
