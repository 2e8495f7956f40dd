"""`refloat doctor`: is this machine able to image and restore? May import `appliance`, `imager.sites`, `core`."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click

from appliance.check import reach_sites
from appliance.cli.common import Context, FilePath, command
from appliance.cli.findings import emit_findings
from appliance.doctor import examine_machine, examine_server, stoppers
from appliance.kit import open_kit
from appliance.places import open_place
from appliance.receipt import Receipt, decode_receipt, receipt_of
from appliance.unlock import read_text
from core.errors import ToolError
from core.run import SystemRunner


@click.command()
@command(passphrase=True)
@click.option("--kit", "kit_file", type=FilePath(), help="Compare with this recovery kit, or its receipt.")
@click.option("--offline", is_flag=True, help="Do not ask the sites whether they are there.")
@click.option("--rescue", is_flag=True, help="Look at the machine alone, as in a rescue environment.")
def doctor(context: Context, kit_file: Path | None, offline: bool, rescue: bool) -> None:
    """Check this machine: tools, disks, keys, clock, sites, and whether the recovery kit is up to date.

    Exits with 60 when something is missing that would stop an image or a restore. Where no server is configured, as on
    a replacement, the kit says which sites to ask.

    \b
    refloat doctor
    refloat doctor --kit fleet.kit
    refloat doctor --kit fleet.kit.receipt --json
    """
    receipt = _receipt(context, kit_file) if kit_file else None
    findings = examine_machine(SystemRunner())
    if not (rescue or (receipt and context.lacks_config)):
        findings += examine_server(context.config, receipt, SystemRunner(), offline=offline)
    elif receipt and not offline:
        findings += reach_sites((site.name, partial(open_place, site.without_secrets())) for site in receipt.sites)
    emit_findings(context, findings)
    if stopped := stoppers(findings):
        raise ToolError(
            f"not fit to image and restore: {', '.join(dict.fromkeys(stopped))}", hint="see the lines marked FAIL"
        )


def _receipt(context: Context, file: Path) -> Receipt:
    """What a kit (asks for its passphrase) or a receipt holds."""
    text = read_text(file, "recovery kit")
    if text.lstrip().startswith("{"):
        return decode_receipt(text.encode())
    return receipt_of(open_kit(text, context.passphrase()), text, opened=datetime.now(UTC))
