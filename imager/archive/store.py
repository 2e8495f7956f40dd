"""Archives of one server at one site: listing, and loading with every check that needs no secret. May import `imager`
(not `imager.repository`), `core`."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from core.errors import CorruptError, FormatError, RefloatError
from imager.archive.description import DESCRIPTION_MAX, Description, decode_description
from imager.archive.sums import (
    DESCRIPTION,
    SIGNATURE,
    SIGNATURE_MAX,
    SUMS,
    SUMS_MAX,
    check_sums,
    parse_sums,
    part_name,
)
from imager.archive.writer import archives_prefix
from imager.sites.base import Site
from imager.volumes import TIME


@dataclass(frozen=True)
class StoredArchive:
    """A loaded archive: `sums` name → SHA-256 (hex), `digest` the SHA-256 of SHA256SUMS, `signer` who signed it."""

    description: Description
    sums: dict[str, str]
    digest: str
    signer: str


@dataclass(frozen=True)
class ArchiveRow:
    """One archive as a listing shows it."""

    image: str
    received: datetime


class ArchiveShelf:
    """What one server keeps as archives at one site."""

    def __init__(self, site: Site, server: str) -> None:
        self.site, self.server = site, server

    def name(self, image: str, object_name: str = SUMS) -> str:
        """The name at the site of an object of an archive."""
        return f"{archives_prefix(self.server)}{image}/{object_name}"

    def archives(self) -> list[ArchiveRow]:
        """All committed archives, oldest first."""
        rows = []
        for info in self.site.list(archives_prefix(self.server)):
            image, _, last = info.name.removeprefix(archives_prefix(self.server)).partition("/")
            if last == SUMS and TIME.fullmatch(image):
                rows.append(ArchiveRow(image, info.received))
        return rows

    def load(self, image: str, pin: str | None) -> StoredArchive:
        """SHA256SUMS and what it lists first, checked against the pinned fingerprint (None: any signer)."""
        with self._blamed(image):
            sums = self._get(self.name(image), SUMS_MAX)
            signer = check_sums(sums, self._get(self.name(image, SIGNATURE), SIGNATURE_MAX), pin)
            listed = parse_sums(sums)
            raw = self._get(self.name(image, DESCRIPTION), DESCRIPTION_MAX)
            if hashlib.sha256(raw).hexdigest() != listed[DESCRIPTION]:
                raise CorruptError("image.json is not what SHA256SUMS states", hint="take it from another site")
            description = decode_description(raw, server=self.server, image=image)
            if len(description.part_bytes) != len(listed) - 2:
                raise FormatError("image.json and SHA256SUMS list different parts")
        return StoredArchive(description, listed, hashlib.sha256(sums).hexdigest(), signer)

    def part(self, stored: StoredArchive, number: int) -> bytes:
        """One part, checked against SHA256SUMS. CorruptError when it is not what was signed."""
        name = part_name(number)
        where = self.name(stored.description.image, name)
        data = self.site.get(where, 0, stored.description.part_bytes[number])
        if hashlib.sha256(data).hexdigest() != stored.sums[name]:
            raise CorruptError(
                f"{where} at site {self.site.name} is not what SHA256SUMS states",
                hint="take it from another site", site=self.site.name, object=where,
            )  # fmt: skip
        return data

    def missing(self, stored: StoredArchive) -> list[str]:
        """Parts that are not at the site with their size; one listing."""
        image = stored.description.image
        there = {info.name: info.size_bytes for info in self.site.list(self.name(image, ""))}
        sizes = stored.description.part_bytes
        return [
            part_name(number)
            for number, size in enumerate(sizes)
            if there.get(self.name(image, part_name(number))) != size
        ]

    def _get(self, name: str, limit: int) -> bytes:
        if self.site.stat(name).size_bytes > limit:
            raise FormatError(f"{name} is too large")
        return self.site.get(name)

    @contextlib.contextmanager
    def _blamed(self, image: str) -> Iterator[None]:
        try:
            yield
        except RefloatError as error:
            if "object" not in error.fields:
                error.fields.update(site=self.site.name, object=self.name(image))
                error.message = f"archive {image} at site {self.site.name}: {error.message}"
            raise
