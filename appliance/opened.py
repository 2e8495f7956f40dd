"""Images of either mechanism, opened: the few things in which their restores differ. May import `imager`, `core`."""

from __future__ import annotations

from collections.abc import Sequence

from core.errors import ObjectMissingError, TargetError
from core.monitor import Monitor
from imager.archive.reader import OpenArchive
from imager.archive.restore import ArchiveRestore
from imager.placing import VolumeReport, VolumeTarget
from imager.repository.reader import OpenImage
from imager.repository.restore import Restore
from imager.repository.view import ImageView
from imager.target import Target
from imager.volumes import Volume

#: Both have `manifest` (server, image, taken_at, layout, volumes, volume()) and `complaints`.
Opened = OpenImage | OpenArchive


def write_volumes(
    image: Opened, targets: Sequence[VolumeTarget], disks: dict[str, Target], monitor: Monitor, *, read_back: bool
) -> list[VolumeReport]:
    """Put volumes where they belong; durable and checked when this returns."""
    if isinstance(image, OpenArchive):
        return ArchiveRestore(image, targets, disks, monitor, read_back=read_back).run()
    return Restore(image, targets, disks, monitor, read_back=read_back).run()


def read_small(image: Opened, volume: Volume) -> bytes:
    """All of a small volume, such as a LUKS header. An archive is read from its beginning to its end for it."""
    if isinstance(image, OpenArchive):
        return image.read(volume, 0, volume.spec.size_bytes)
    return ImageView(image).read(volume, 0, volume.spec.size_bytes)


def need_any_place(image: Opened, what: str) -> OpenImage:
    """The image, if any place of it can be read when it is asked for. TargetError for an archive, which is a stream."""
    if isinstance(image, OpenArchive):
        raise TargetError(
            f"{what} from an archive is not possible: it can only be read from its beginning to its end",
            hint="take an image of the repository, or a target as large as the old disk and with sectors like it",
        )
    return image


def require_parts(image: OpenArchive) -> None:
    """ObjectMissingError when parts of an archive, or of its full, are at no site: said before anything is written."""
    for time, names in image.missing().items():
        raise ObjectMissingError(
            f"archive {time} is not whole: {names[0]} is missing or has another size ({len(names)} in all)",
            hint="take another archive or image; `refloat images` lists them",
            object=names[0],
        )
