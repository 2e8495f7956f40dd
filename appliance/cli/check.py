"""`refloat check`: the set-up against the promise. May import `appliance`, `imager.sites`."""

from __future__ import annotations

from functools import partial

import click

from appliance.check import check_policy, failed, reach_sites
from appliance.cli.common import Context, command
from appliance.cli.findings import emit_findings
from appliance.places import open_place
from core.errors import PolicyError


@click.command()
@command()
@click.option("--offline", is_flag=True, help="Do not ask the sites whether they are there.")
def check(context: Context, offline: bool) -> None:
    """Check the set-up: two sites, two countries of the EU or EEA, who can open images, what is not protected.

    Exits with 11 when the promise is broken, unless the configuration accepts it in words.

    \b
    refloat check
    refloat check --offline --json
    """
    findings = check_policy(context.config)
    if not offline:
        findings += reach_sites([(site.name, partial(open_place, site)) for site in context.config.sites])
    emit_findings(context, findings)
    if failed(findings):
        raise PolicyError("the set-up does not keep the promise", hint="see the lines marked FAIL")
