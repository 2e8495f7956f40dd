"""Looks inside packs as one could who holds the recovery kit: every frame of an image in the clear."""

from __future__ import annotations

from collections.abc import Iterator

from imager.keys import Identities
from imager.repository.frames import FRAME_BYTES
from imager.repository.reader import OpenImage
from imager.repository.segments import DATA
from imager.repository.store import Repository
from imager.sites.file import FileSite
from tests.appliance.e2e.server import Server


def plain_frames(server: Server, image: str, site: str = "de") -> Iterator[bytes]:
    """Everything that was sealed into the frames an image refers to."""
    repository = Repository(FileSite(site, server.sites[site]), server.name)
    stored = repository.load(image, None)
    opened = OpenImage([repository], stored, Identities.parse(server.identity.read_text()))
    seen: set[tuple[bytes, int]] = set()
    buffer = memoryview(bytearray(FRAME_BYTES))
    for item in opened.items(stored.manifest.volumes):
        frame = item.frame
        if item.kind == DATA and frame is not None and frame.pack is not None:
            if (frame.pack.digest, frame.offset) not in seen:
                seen.add((frame.pack.digest, frame.offset))
                sealed = opened.fetch([frame])[0]
                yield bytes(opened.opener.open(frame, sealed, buffer))
    repository.site.close()
