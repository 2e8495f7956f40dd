"""Has trees of files surveyed, filled and compared on filesystems that are mounted for that alone. Imports `core` and
`hardware.{privately,trees}`."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import msgspec

from core.errors import ToolError
from core.run import Runner
from hardware.privately import PrivateMount, mount_points, run_mounted
from hardware.trees.child import Answer, Order
from hardware.trees.same import Comparison
from hardware.trees.survey import Survey

_DAYS = 7 * 24 * 3600.0
#: By type, what it is mounted with: all of it, and also where its UUID is to be found elsewhere on this machine.
_ANY = {"xfs": ["nouuid"], "btrfs": ["subvolid=5"], "vfat": ["umask=0", "utf8", "shortname=mixed", "tz=UTC"]}


@dataclass(frozen=True)
class Filesystem:
    """A device and the type of what is on it."""

    device: str
    type: str


def survey_of(source: Filesystem, runner: Runner) -> Survey:
    """What a filesystem holds. Mounting it replays its journal. Raises ToolError."""
    with mount_points("source") as (folder,):
        order = Order(do="survey", source=folder)
        answer = _ask(order, [_mount(source, folder, "ro")], f"look through {source.type} on {source.device}", runner)
    assert answer.survey is not None  # noqa: S101 - what the order asked for
    return answer.survey


def fill(source: Filesystem, target: Filesystem, runner: Runner) -> None:
    """Copy every file. Raises ToolError."""
    with mount_points("source", "target") as (one, other):
        mounts = [_mount(source, one, "ro"), _mount(target, other, "rw")]
        _ask(Order(do="fill", source=one, target=other), mounts, f"copy files onto {target.device}", runner)


def compare(source: Filesystem, target: Filesystem, runner: Runner) -> Comparison:
    """Compare them, both mounted read-only and afresh: what is read comes from the disks. Raises ToolError."""
    with mount_points("source", "target") as (one, other):
        mounts = [_mount(source, one, "ro"), _mount(target, other, "ro")]
        order = Order(do="compare", source=one, target=other)
        answer = _ask(order, mounts, f"compare the files on {target.device}", runner)
    assert answer.comparison is not None  # noqa: S101 - what the order asked for
    return answer.comparison


def _mount(filesystem: Filesystem, folder: str, how: str) -> PrivateMount:
    options = ",".join([how, "noatime", *_ANY.get(filesystem.type, [])])
    return PrivateMount(filesystem.device, filesystem.type, options, folder)


def _ask(order: Order, mounts: list[PrivateMount], purpose: str, runner: Runner) -> Answer:
    code = f"import sys; sys.path[:] = {sys.path!r}; from hardware.trees.child import main; main()"
    argv = [sys.executable, "-c", code, msgspec.json.encode(order).decode()]
    done = run_mounted(mounts, argv, purpose=purpose, runner=runner, timeout=_DAYS)
    answer = msgspec.json.decode(done.stdout, type=Answer)
    if answer.error:
        raise ToolError(f"could not {purpose}: {answer.error}")
    return answer
