"""Shrinking an ext filesystem on a copy-on-write view of the image, before a byte is written to the target.

e2fsck and resize2fs work on the view through FUSE; what they change goes to scratch space, the image stays as it is.
When they fail, nothing was lost: the restore is refused. May import `imager`, `core`.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from appliance.opened import Opened, need_any_place
from core.errors import TargetError, ToolError
from core.monitor import Monitor
from core.run import Runner
from core.sizes import KIB, format_size
from imager.repository.view import ImageView
from imager.scratch import Scratch
from imager.volumefs import VolumeFiles, served

_HOURS = 12 * 3600


@contextlib.contextmanager
def shrunk(
    image: Opened, sizes: Mapping[str, tuple[int, int]], folder: Path | None, runner: Runner, monitor: Monitor
) -> Iterator[dict[str, Scratch]]:
    """The volumes of `sizes` (name → (new size, scratch estimate), bytes) as overlays, shrunk to their new sizes.

    `folder` holds the scratch files (default: the system's temporary folder). Raises TargetError when there is no
    room for scratch or the filesystem cannot be made that small.
    """
    if not sizes:
        yield {}
        return
    place = folder or Path(tempfile.gettempdir())
    _need_room(place, sum(scratch for _, scratch in sizes.values()))
    image = need_any_place(image, "shrinking a filesystem")
    view = ImageView(image)
    with contextlib.ExitStack() as stack:
        overlays: dict[str, Scratch] = {}
        for name in sizes:
            overlays[name] = Scratch(view, image.manifest.volume(name), place)
            stack.callback(overlays[name].close)
        mount_point = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="refloat-shrink-", dir=place)))
        files = VolumeFiles(view, image.manifest, overlays)
        with served(files, mount_point, runner):
            for name, (size, _) in sizes.items():
                monitor.step(f"shrinking {name} to {format_size(size)} in a view of the image")
                _resize(mount_point / name, name, size, image.manifest.taken_at, runner, files)
        yield overlays


def _need_room(folder: Path, scratch_bytes: int) -> None:
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if free < scratch_bytes:
        raise TargetError(
            f"shrinking needs up to {format_size(scratch_bytes)} of scratch space, {folder} has {format_size(free)}",
            hint="give --scratch FOLDER on a disk with more room",
        )


def _resize(path: Path, name: str, size_bytes: int, taken_at: str, runner: Runner, files: VolumeFiles) -> None:
    # The tools stamp the time into superblocks. With the image's own time in its place the same shrink gives the same
    # bytes, so that a second restore finds nothing to write.
    moment = int(datetime.strptime(taken_at, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())
    clock = ["env", f"E2FSPROGS_FAKE_TIME={moment}", f"E2FSCK_TIME={moment}"]
    try:
        # 1: errors were corrected (the view's, not the image's); resize2fs wants a fresh check.
        check = [*clock, "e2fsck", "-f", "-p", str(path)]
        runner.run(check, purpose=f"check {name} in the view", ok=(0, 1), timeout=_HOURS)
        argv = [*clock, "resize2fs", str(path), f"{size_bytes // KIB}K"]
        runner.run(argv, purpose=f"shrink {name} in the view", timeout=_HOURS)
    except ToolError as error:
        if files.errors:
            raise files.errors[0] from error
        raise TargetError(
            f"{name} cannot be shrunk to {format_size(size_bytes)}: {error.message}",
            hint="take a larger target; nothing was written to it",
        ) from error
