"""One volume of an image as a file or a stream, raw. May import `imager`, `core`."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from appliance.opened import Opened, need_any_place, write_volumes
from core.errors import ConfigError, WriteError
from core.monitor import Monitor
from imager.placing import VolumeTarget
from imager.repository.view import ImageView
from imager.target import Target

_CHUNK = 4 << 20


@dataclass(frozen=True)
class ExportReport:
    """What was written where."""

    volume: str
    output: str
    size_bytes: int


def export_to_file(image: Opened, name: str, path: Path, monitor: Monitor) -> ExportReport:
    """Create `path`, sparse where the volume is zero or unused. ConfigError when it exists; nothing half is left
    behind."""
    volume = image.manifest.volume(name)
    size = volume.spec.size_bytes
    partial = path.with_name(f"{path.name}.partial")
    try:
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise ConfigError(
            f"{partial} exists", hint="another export is under way, or one was killed: remove it"
        ) from error
    except OSError as error:
        raise WriteError(
            f"cannot create {partial}: {error.strerror}", hint="name a file in a folder that is there and writable"
        ) from error
    try:
        if path.exists():
            raise ConfigError(f"{path} exists", hint="name another file, or remove it")
        os.ftruncate(handle, size)
        os.close(handle)
        disk = Target(str(partial))
        with contextlib.closing(disk):
            write_volumes(
                image, [VolumeTarget(name, str(partial), 0, size)], {str(partial): disk}, monitor, read_back=False
            )
        os.rename(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return ExportReport(name, str(path), size)


def export_to_stream(image: Opened, name: str, stream: BinaryIO, monitor: Monitor) -> None:
    """Write the volume in order; unused blocks are zeros. TargetError for an archive, whose order is its own."""
    volume, view = image.manifest.volume(name), ImageView(need_any_place(image, "a stream in order"))
    with monitor.task(f"export {name}", volume.spec.size_bytes) as task:
        for offset in range(0, volume.spec.size_bytes, _CHUNK):
            data = view.read(volume, offset, _CHUNK)
            try:
                stream.write(data)
            except BrokenPipeError as error:
                raise WriteError("the reader of the export went away", hint="what it got is incomplete") from error
            task.advance(len(data))
        stream.flush()
