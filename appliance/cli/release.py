"""`refloat release`: a restored server that was held may use its network and its timers again.

May import `appliance`, `hardware`, `imager`, `core`.
"""

from __future__ import annotations

import click

from appliance.cli.common import Context, command
from core.run import SystemRunner
from hardware.boot.hold import is_held
from hardware.boot.hold import release as let_go
from hardware.boot.inside import Root
from imager.repository.parents import adopt as take_over


@click.command()
@command()
@click.option("--adopt", is_flag=True, help="Go on from the newest image at the sites, although it was not made here.")
def release(context: Context, adopt: bool) -> None:
    """Run on a restored server, once it is certain that the old one will not come back.

    After a restore Refloat's timers are off, so that two servers never write one history; with --hold-network the
    network is off too. This takes the hold away and starts what was held.

    \b
    refloat release
    refloat release --adopt              restored from an older image than the newest
    """
    runner = SystemRunner()
    if adopt:
        take_over(context.config.state_path)
    with Root("/") as root:
        held = is_held(root)
        units = let_go(root)
    if not held:
        context.emit({"released": []}, "the next image goes on from the newest" if adopt else "this server is not held")
        return
    runner.run(["systemctl", "daemon-reload"], purpose="tell systemd of the release")
    started = []
    for unit in units:
        name = unit.replace("@.service", "@*.service")
        if "-.service" in name or "*" in name:  # templates and name patterns: their timers start them
            continue
        enabled = runner.run(["systemctl", "is-enabled", "--quiet", name], purpose=f"look at {name}", ok=range(256))
        if enabled.code == 0:
            runner.run(["systemctl", "start", "--no-block", name], purpose=f"start {name}")
            started.append(name)
    context.emit({"released": units}, f"released; started: {', '.join(started) or 'nothing'}")
