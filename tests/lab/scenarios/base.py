"""What a scenario is, and the chains that most of them are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.lab.cache import Artifact
from tests.lab.imaging import imaged
from tests.lab.lab import Lab
from tests.lab.proving import dead, proven
from tests.lab.restoring import restored
from tests.lab.servers.base import Server
from tests.lab.targets import Target

Imaging = Callable[[Lab, Server], Artifact]
#: What a restore is told so that it puts bytes back and repairs nothing.
UNREPAIRED = "--no-repair"


@dataclass(frozen=True)
class Scenario:
    """`run` raises when the scenario fails. `essential` ones are part of `make test`."""

    name: str
    what: str
    run: Callable[[Lab], None]
    essential: bool = False


def onto(
    server: Server,
    target: Target,
    what: str,
    *,
    options: str = "",
    essential: bool = False,
    image: Imaging = imaged,
    name: str = "",
) -> Scenario:
    """A server's image onto a machine, which then boots and is the server."""

    def run(lab: Lab) -> None:
        taken = image(lab, server)
        disks = restored(lab, server, taken, target, options)
        proven(lab, server, taken, disks, target)

    return Scenario(name or f"{server.name}-onto-{target.name}", what, run, essential)


def control(server: Server, target: Target, *, options: str = "", image: Imaging = imaged) -> Scenario:
    """The same without repair, which must not come up."""

    def run(lab: Lab) -> None:
        disks = restored(lab, server, image(lab, server), target, f"{options} {UNREPAIRED}".strip())
        dead(lab, server, disks, target)

    what = f"the same bytes on {target.name}, not repaired, do not come up"
    return Scenario(f"{server.name}-onto-{target.name}-unrepaired", what, run)
