"""Makes a restored server bootable: the steps in their order. Lives as long as one repair.

The devices must be there and active (arrays run, containers open, volumes active), and nothing mounted. May be run
again after any interruption. Imports `core` and everything else in `hardware.boot`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

from core.errors import RefloatError
from core.monitor import Monitor
from core.run import Runner
from hardware.boot.clone import check_name, make_clone
from hardware.boot.config import correct_files
from hardware.boot.devices import Names, Now, devices_now
from hardware.boot.drivers import see_to_drivers
from hardware.boot.families import family_of, os_release
from hardware.boot.hold import hold_network, hold_timers
from hardware.boot.job import Job
from hardware.boot.loader import check_fstab, see_to_loader
from hardware.boot.mounts import mounted_server
from hardware.boot.network import correct_network
from hardware.boot.nics import checked_map, map_nics
from hardware.boot.values import BootReport, BootRequest, Restored


def make_bootable(request: BootRequest, runner: Runner, monitor: Monitor) -> BootReport:
    """Repair what keeps the restored server from booting here, and check it; with `request.repair` off only look.

    Raises TargetError for a mapping or name that cannot be, ToolError when the devices cannot be read. What could not
    be repaired is a check that is not ok.
    """
    if request.clone_as is not None:
        check_name(request.clone_as)
    before, now = request.interfaces_before, request.nics_now
    nics = map_nics(before, now) if request.nic_map is None else checked_map(request.nic_map, before, now)
    seen = devices_now(runner)
    report = BootReport(nics=nics)
    request = replace(request, filesystems=_by_kernel_name(request, seen, report))
    names = Names(request, seen)
    # the same for every run of this repair, another for an image of another day
    repair = hashlib.sha256(repr((request.layout, request.filesystems, request.disks)).encode()).hexdigest()[:12]
    mounted = mounted_server(request.filesystems, names, report, runner, read_only=not request.repair, repair=repair)
    with mounted as found:
        if found is None:
            report.check("root filesystem", False, "none of the restored filesystems holds a Linux system")
            return report
        root, places = found
        family = family_of(root)
        report.family, report.root = family.name, places[0].path
        report.system = os_release(root).get("PRETTY_NAME", "")
        report.check("root filesystem", True, f"{report.system or 'Linux'} on {places[0].path}")
        report.warnings += family.warnings(root, request.firmware)
        if not family.repairs:
            for asked, name in ((request.hold_network, "holding the network"), (request.clone_as, "a name of its own")):
                if asked:
                    report.check(name, False, "not done: how this system is set up is not known")
        if family.repairs:
            _repair(Job(request, root, places, names, family, report, nics, runner, monitor))
        report.changed += sorted(set(root.changed))
        if root.changed:
            report.steps.append(f"what was changed in the server is kept below {root.before}")
    return report


def _by_kernel_name(request: BootRequest, seen: Sequence[Now], report: BootReport) -> tuple[Restored, ...]:
    """The filesystems by the path that blkid knows them by (`/dev/vg0/root` is a symlink); a check for each that is
    not there."""
    paths = {os.path.realpath(device.path): device.path for device in seen}
    found = []
    for each in request.filesystems:
        path = paths.get(os.path.realpath(each.path))
        if path is not None:
            found.append(replace(each, path=path))
        else:
            report.check(each.node, False, f"{each.path} is not here, or holds nothing that is known")
    return tuple(found)


def _repair(job: Job) -> None:
    """The steps in order. One that fails is a check that is not ok, and the next are tried all the same: half a repair
    is more than none, and the report says which half."""
    request, links = job.request, dict[str, bytes]()
    with _step(job, "files that name the old disks"):
        correct_files(job)
    with _step(job, "network"):
        links = _see_to_network(job)
    if request.clone_as is not None:
        with _step(job, "a name and keys of its own"):
            make_clone(job.root, request.clone_as, job.report)
    if request.hold_network:
        with _step(job, "holding the network"):
            hold_network(job.root, job.report)
    with _step(job, "holding Refloat's timers"):
        hold_timers(job.root, job.report)
    with _step(job, "drivers"):
        see_to_drivers(job, links)
    with _step(job, "loader"):
        see_to_loader(job)
    with _step(job, "fstab"):
        check_fstab(job)


@contextlib.contextmanager
def _step(job: Job, name: str) -> Iterator[None]:
    job.monitor.step(f"make bootable: {name}")
    try:
        yield
    except (RefloatError, OSError) as error:
        job.report.check(name, False, str(error))


def _see_to_network(job: Job) -> dict[str, bytes]:
    cards = job.request.interfaces_before
    job.report.warnings += [
        f"no network card here takes the place of {card.name}"
        for card in cards
        if card.addresses and card.mac and card.mac.lower() not in job.nics
    ]
    return correct_network(job.root, job.nics, cards, job.report, clone=job.request.clone_as is not None)
