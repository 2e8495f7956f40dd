"""Volumes of an image as files, through FUSE: read-only for people and tools, writable over a Scratch for resize2fs.

Each volume is one raw file, so that `mount -o loop,ro`, `qemu-img` and `dd` work on it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mfusepy

from core.errors import RefloatError, ToolError
from core.run import Runner
from imager.repository.manifest import Manifest
from imager.repository.view import ImageView
from imager.scratch import Scratch
from imager.volumes import Volume

log = logging.getLogger("refloat.mount")


class VolumeFiles(mfusepy.Operations):  # type: ignore[misc]  # mfusepy comes without types
    """The folder of volumes. A block that cannot be read is an I/O error for the reader, told in the log."""

    use_ns = True

    def __init__(self, view: ImageView, manifest: Manifest, scratch: Mapping[str, Scratch] | None = None) -> None:
        self._view, self._scratch = view, dict(scratch or {})
        self._volumes: dict[str, Volume] = {
            f"/{volume.spec.name}": volume
            for volume in manifest.volumes
            if scratch is None or volume.spec.name in self._scratch
        }
        self._time = int(time.time() * 1e9)
        self.errors: list[RefloatError] = []
        self.mounted = False

    @property
    def read_only(self) -> bool:
        """Whether the kernel refuses every change by itself."""
        return not self._scratch

    def init(self, path: str) -> None:
        """FUSE calls this once the mount stands."""
        self.mounted = True

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        times = dict.fromkeys(("st_atime", "st_mtime", "st_ctime"), self._time)
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o555, "st_nlink": 2, **times}
        volume = self._find(path)
        mode = 0o600 if self._scratch else 0o400
        return {"st_mode": stat.S_IFREG | mode, "st_nlink": 1, "st_size": volume.spec.size_bytes, **times}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *(name[1:] for name in self._volumes)]

    def open(self, path: str, flags: int) -> int:
        self._find(path)
        if not self._scratch and flags & os.O_ACCMODE != os.O_RDONLY:
            raise mfusepy.FuseOSError(errno.EROFS)
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        volume = self._find(path)
        with self._as_io_error():
            held = self._scratch.get(volume.spec.name)
            return held.read(offset, size) if held else self._view.read(volume, offset, size)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        volume = self._find(path)
        held = self._scratch.get(volume.spec.name)
        if held is None:
            raise mfusepy.FuseOSError(errno.EROFS)
        with self._as_io_error():
            return held.write(offset, data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        # resize2fs cuts a plain file to the new size; the volume's size is the plan's business.
        if not self._scratch:
            raise mfusepy.FuseOSError(errno.EROFS)
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        return 0

    def _find(self, path: str) -> Volume:
        if path not in self._volumes:
            raise mfusepy.FuseOSError(errno.ENOENT)
        return self._volumes[path]

    @contextlib.contextmanager
    def _as_io_error(self) -> Iterator[None]:
        try:
            yield
        except RefloatError as error:
            if len(self.errors) < 100:
                self.errors.append(error)
            log.error("%s", error.message)
            raise mfusepy.FuseOSError(errno.EIO) from error


def serve(files: VolumeFiles, folder: Path) -> None:
    """Mount on `folder` and serve until it is unmounted, or a signal (Ctrl-C) unmounts it: both are a normal end.

    Raises ToolError when FUSE refuses.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            mfusepy.FUSE(
                files, str(folder), foreground=True, nothreads=True, fsname="refloat", subtype="refloat",
                default_permissions=True, auto_unmount=True, ro=files.read_only,
            )  # fmt: skip
    except RuntimeError as error:
        # fuse_main returns non-zero for a loop that a signal ended, too; by then it has unmounted.
        if files.mounted:
            return
        raise ToolError(
            f"cannot mount on {folder}", hint="is it an empty folder, and are /dev/fuse and fusermount3 there?"
        ) from error


@contextlib.contextmanager
def served(files: VolumeFiles, folder: Path, runner: Runner) -> Iterator[Path]:
    """The same in a thread, for the length of a block."""
    failure: list[ToolError] = []

    def run() -> None:
        try:
            serve(files, folder)
        except ToolError as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="fuse", daemon=True)
    thread.start()
    try:
        _wait_until(lambda: os.path.ismount(folder) or bool(failure), folder)
        if failure:
            raise failure[0]
        yield folder
    finally:
        if os.path.ismount(folder):
            runner.run(["fusermount3", "-u", "-z", str(folder)], purpose=f"unmount {folder}")
        thread.join(10)


def _wait_until(ready: Any, folder: Path) -> None:
    deadline = time.monotonic() + 20
    while not ready():
        if time.monotonic() > deadline:
            raise ToolError(f"the mount on {folder} did not come up", hint="is /dev/fuse there?")
        time.sleep(0.02)
