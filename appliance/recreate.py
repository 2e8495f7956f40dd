"""Filesystems made anew on a target and filled file by file from the image, mounted through a copy-on-write view.

Everything that can be known is known before the first write: that it mounts, that its files can be copied and have
room, that mkfs takes the recipe. Afterwards both trees are compared; a difference is an error. May import `imager`,
`hardware`, `core`; lives as long as the restore.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.opened import Opened, need_any_place
from core.errors import TargetError, ToolError, WriteError
from core.monitor import Monitor, Task
from core.run import Runner
from core.sizes import format_size
from hardware.actions import RecreateFilesystem
from hardware.apply import clear_range
from hardware.attach import attach, settle
from hardware.facts import facts_of, read_sys, sys_folder
from hardware.mkfs import Recipe, make_filesystem, name_filesystem, recipe_of, rehearse
from hardware.recreate import own_bytes
from hardware.trees.survey import Survey
from hardware.trees.task import Filesystem, compare, fill, survey_of
from imager.placing import VolumeReport
from imager.repository.view import ImageView
from imager.scratch import Scratch
from imager.volumefs import VolumeFiles, served

_AGAIN = "the restore can be started again; this filesystem is then made once more, from the beginning"
#: What a file or folder takes beside its data, by type; for ext a quarter more inodes are made than there are files.
_INODE_BYTES = {"xfs": 512, "btrfs": 2048, "vfat": 64}
_INODE_BYTES_EXT = 320
_POLL_S = 0.5


@dataclass(frozen=True)
class Source:
    """A volume that is to be made anew: its view as a file, what it holds, and how it is made."""

    action: RecreateFilesystem
    view: Path
    survey: Survey
    recipe: Recipe
    files: VolumeFiles


@contextlib.contextmanager
def sources(
    image: Opened, actions: Sequence[RecreateFilesystem], folder: Path | None, runner: Runner, monitor: Monitor
) -> Iterator[dict[str, Source]]:
    """By name, the volumes to be made anew, looked through, and ready to be mounted. Raises before anything is written
    to a target: TargetError for what cannot be copied or has no room. `folder` holds the scratch files: little, what
    replaying a journal changes."""
    if not actions:
        yield {}
        return
    place = folder or Path(tempfile.gettempdir())
    image = need_any_place(image, "making a filesystem anew")
    view = ImageView(image)
    with contextlib.ExitStack() as stack:
        overlays = {each.volume: Scratch(view, image.manifest.volume(each.volume), place) for each in actions}
        for overlay in overlays.values():
            stack.callback(overlay.close)
        mount_point = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="refloat-recreate-", dir=place)))
        files = VolumeFiles(view, image.manifest, overlays)
        stack.enter_context(served(files, mount_point, runner))
        yield {each.volume: _looked_through(each, mount_point, place, files, runner, monitor) for each in actions}


def _looked_through(
    action: RecreateFilesystem, mount_point: Path, scratch: Path, files: VolumeFiles, runner: Runner, monitor: Monitor
) -> Source:
    monitor.step(f"looking through {action.volume} in a view of the image")
    view = mount_point / action.volume
    with _named(files), _shown(view, action, runner) as source:
        found = survey_of(source, runner)
        _require_room(action, found)
        recipe = recipe_of(source.device, action, found.inodes, runner)
    rehearse(recipe, action, scratch, runner)
    if recipe.note:
        monitor.warn(recipe.note)
    if found.lost:
        monitor.warn(f"{action.volume}: {found.lost} files lose their setting of compression or no-copy-on-write")
    return Source(action, view, found, recipe, files)


def _require_room(action: RecreateFilesystem, found: Survey) -> None:
    if found.foreign:
        raise TargetError(
            f"{action.volume} cannot be copied file by file: {'; '.join(found.foreign)}",
            hint="nothing was written; use a disk it fits on as it is",
        )
    files = found.data_bytes + found.inodes * _INODE_BYTES.get(action.type, _INODE_BYTES_EXT)
    need = files + own_bytes(action.type, action.size_bytes)
    if need > action.size_bytes:
        raise TargetError(
            f"{action.volume} would be made anew with {format_size(action.size_bytes)}, and its {found.inodes} files "
            f"need {format_size(need)}",
            hint="nothing was written; use a larger disk",
            need_bytes=need,
        )


def recreate(source: Source, runner: Runner, monitor: Monitor) -> VolumeReport:
    """Make the filesystem, copy, compare. Raises WriteError for a difference, ToolError."""
    action = source.action
    monitor.step(action.describe())
    if action.unused != "keep":
        clear_range(action.path, action.offset_bytes, action.size_bytes, action.unused, runner)
    with _named(source.files), _place(action, runner) as target:
        make_filesystem(source.recipe, target.device, runner)
        with _shown(source.view, action, runner) as one:
            with monitor.task(f"copying the files of {action.volume}", source.survey.data_bytes) as task:
                with _counting(target.device, task):
                    fill(one, target, runner)
            monitor.step(f"comparing {action.volume} with the image")
            same = compare(one, target, runner)
        if same.count:
            raise WriteError(
                f"{action.volume}: {same.count} differences after copying: {'; '.join(same.differences)}",
                hint=_AGAIN,
                path=action.path,
            )
        if source.recipe.rename:
            before = survey_of(target, runner)
            name_filesystem(source.recipe, target.device, runner)
            _forget(action, runner)
            if survey_of(target, runner) != before:
                raise WriteError(f"{action.volume} holds other files since it was given its UUID", hint=_AGAIN)
    settle(runner)
    return VolumeReport(
        action.volume,
        written_bytes=source.survey.data_bytes,
        verified_bytes=same.content_bytes,
        unused=action.unused,
    )


@contextlib.contextmanager
def _shown(view: Path, action: RecreateFilesystem, runner: Runner) -> Iterator[Filesystem]:
    # writable, so that mounting can replay a journal: what it changes is scratch, the image stays
    with attach(str(view), read_only=False, runner=runner) as node:
        _forget(action, runner)
        yield Filesystem(node, action.type)


def _forget(action: RecreateFilesystem, runner: Runner) -> None:
    """The kernel may remember the same UUID on a device that is not mounted, and take that for the newer one."""
    if action.type == "btrfs":
        runner.run(["btrfs", "device", "scan", "--forget"], purpose="forget btrfs that is not mounted", ok=(0, 1))


@contextlib.contextmanager
def _place(action: RecreateFilesystem, runner: Runner) -> Iterator[Filesystem]:
    facts = facts_of(action.path)
    with attach(
        action.path,
        offset_bytes=action.offset_bytes,
        size_bytes=action.size_bytes,
        sector_bytes=action.sector_bytes if facts.is_file else facts.sector_bytes,
        read_only=False,
        runner=runner,
    ) as node:
        yield Filesystem(node, action.type)


@contextlib.contextmanager
def _named(files: VolumeFiles) -> Iterator[None]:
    """A tool that failed because a block of the image could not be had: that is the error a person needs."""
    before = len(files.errors)
    try:
        yield
    except ToolError as error:
        if len(files.errors) > before:
            raise files.errors[before] from error
        raise


@contextlib.contextmanager
def _counting(node: str, task: Task) -> Iterator[None]:
    """Progress from what the kernel says it wrote to a device (Documentation/block/stat.rst: sectors of 512 bytes)."""
    folder = sys_folder(facts_of(node).rdev or (0, 0))
    stop = threading.Event()

    def written() -> int:
        return int(read_sys(folder / "stat").split()[6]) * 512

    def poll() -> None:
        last, ended = written(), False
        while not ended:
            ended = stop.wait(_POLL_S)
            now = written()
            task.advance(now - last)
            last = now

    thread = threading.Thread(target=poll, name="progress of a copy", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
