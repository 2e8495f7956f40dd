"""The step that sees to drivers: each kernel's initrd must reach the root filesystem on this hardware.

Imports `core` and `hardware.boot.{config,devices,initrd,job,kernels,values,waiting}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.errors import RefloatError
from hardware.boot.config import replaced_in_initrd
from hardware.boot.devices import kernel_basename
from hardware.boot.initrd import complete, examine, missing, missing_programs
from hardware.boot.job import Job
from hardware.boot.kernels import Driven, Modules, card_chain, chain_of, find_kernels, stack_of
from hardware.boot.values import Kernel
from hardware.boot.waiting import asks_for_volumes, keeps_asking

#: What joins several paths to one disk, and tells its partitions.
_JOINING = ("multipath", "kpartx")


@dataclass(frozen=True)
class Needs:
    """What it takes to reach the root filesystem: devices on the way, modules and programs of what it is stacked on."""

    chain: tuple[Driven, ...]
    modules: tuple[str, ...]
    programs: tuple[str, ...]


def needs_of(job: Job) -> Needs:
    """Read from what this environment itself uses to reach it."""
    early = [place for place in job.places if place.where in ("/", "/usr")]
    bases = [kernel_basename(place.path) for place in early] + [kernel_basename(disk) for disk in job.request.disks]
    chain = dict.fromkeys(driven for base in bases for driven in chain_of(base))
    stack = dict.fromkeys(pair for place in early for pair in stack_of(kernel_basename(place.path), job.request.layout))
    kinds = [{"ext2": "ext4", "ext3": "ext4"}.get(place.type, place.type) for place in early]
    return Needs(
        tuple(chain),
        tuple([*(module for module, _program in stack), *kinds]),
        tuple(name for _m, name in stack if name),
    )


def see_to_drivers(job: Job, links: Mapping[str, bytes]) -> None:
    """Complete every initrd; record a check for the newest kernel, warnings for the others."""
    job.report.kernels += find_kernels(job.root)
    if not job.report.kernels:
        job.report.check("kernel", False, "no kernel with modules in /boot")
        return
    needs = needs_of(job)
    remembered: set[str] = set()
    for kernel in job.report.kernels:
        try:
            troubles = _complete_one(job, kernel, needs, links, remembered)
        except (RefloatError, OSError) as error:
            troubles = [str(error)]
        words = "; ".join(troubles) or "its initrd reaches the root filesystem here"
        if kernel.version == job.report.kernels[0].version:
            job.report.check(f"kernel {kernel.image}", not troubles, words)
        elif troubles:
            job.report.warnings.append(f"kernel {kernel.version}: {words}")
    if job.family.remember(job.root, sorted(remembered)):
        job.done(f"the next initrd will hold {', '.join(sorted(remembered))} too")
    if keeps_asking(job.root):
        job.done("the next initrd will ask for its volume groups again, too")
    _see_to_cards(job, job.report.kernels[0])


def _complete_one(
    job: Job, kernel: Kernel, needs: Needs, links: Mapping[str, bytes], remembered: set[str]
) -> list[str]:
    """What still stands between this kernel and the root filesystem, in words."""
    modules = Modules.load(job.root, kernel.version)
    wanted, troubles = _wanted(modules, needs)
    if not kernel.initrd:
        return [*troubles, "it has no initrd"]
    held = examine(job.root.read(kernel.initrd) or b"", job.runner)
    lacking = missing(held, modules, wanted)
    replaced = replaced_in_initrd(job, held, links)
    replaced |= asks_for_volumes(held)
    if lacking or replaced:
        job.monitor.step(f"complete {kernel.initrd}")
        if complete(job.root, kernel, held, modules, lacking, replaced, job.runner):
            job.done(f"{kernel.initrd}: appended {', '.join([*lacking, *sorted(replaced)])}")
        remembered.update(lacking)
        troubles += [f"its initrd lacks {', '.join(lacking)}"] if lacking and job.root.read_only else []
    programs = missing_programs(held, needs.programs)
    if alone := [name for name in programs if name in _JOINING]:  # it starts all the same, from the path that is first
        job.report.warnings.append(
            f"{kernel.initrd} lacks {', '.join(alone)}: the server starts from one path alone; "
            "install multipath-tools-boot there"
        )
    if programs := [name for name in programs if name not in _JOINING]:
        troubles.append(f"the initrd lacks {', '.join(programs)}, which the root filesystem needs now")
    return troubles


def _wanted(modules: Modules, needs: Needs) -> tuple[list[str], list[str]]:
    wanted, troubles = [name for name in needs.modules if modules.has(name)], list[str]()
    troubles += [f"it has no {name}" for name in needs.modules if not modules.has(name)]
    for driven in needs.chain:
        names, known = driven.wanted(modules)
        wanted += names
        if not known:
            troubles.append(f"it has no driver for {driven.device} ({driven.module or driven.driver} here)")
    return wanted, troubles


def _see_to_cards(job: Job, kernel: Kernel) -> None:
    modules = Modules.load(job.root, kernel.version)
    cards: Sequence[str] = [nic.name for nic in job.request.nics_now if nic.mac.lower() in job.nics.values()]
    for name in cards:
        for driven in card_chain(name):
            if not driven.wanted(modules)[1]:
                job.report.warnings.append(f"kernel {kernel.version} has no driver for the network card {name}")
