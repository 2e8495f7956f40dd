"""`image.json`: what an archive holds (`docs/archive.md`). Parsing here is hostile-input parsing, behind the signature.

Pure; may import `imager.volumes`, `core`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import msgspec

from core.errors import FormatError, TrustError, VersionError
from core.layout import Layout, VolumeSpec
from imager.volumes import SERVER_NAME, TIME, Volume, all_natural, check_volumes, need

VERSION = 1
DESCRIPTION_MAX = 64 << 20
PART_MAX = 64 << 20
FULL, DIFFERENTIAL = "full", "differential"
_HEX_ID = re.compile(r"[0-9a-f]{32}")
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class ArchiveServer(_Strict, frozen=True, kw_only=True):
    name: str
    id: str


class Base(_Strict, frozen=True, kw_only=True):
    """The full that a differential is against: its TIME, and the SHA-256 (hex) of its SHA256SUMS."""

    image: str
    sums: str


class Description(_Strict, frozen=True, kw_only=True):
    """What an archive is. `part_bytes` are the sizes of its parts in order; `data_bytes` what its members hold."""

    refloat: str
    version: int
    server: ArchiveServer
    image: str
    taken_at: str
    finished_at: str
    agent: str
    kind: str
    base: Base | None
    note: str
    state: str
    layout: Layout
    volumes: tuple[Volume, ...]
    part_bytes: tuple[int, ...]
    data_bytes: int

    def volume(self, name: str) -> Volume:
        """The volume of that name. Raises KeyError."""
        for volume in self.volumes:
            if volume.spec.name == name:
                return volume
        raise KeyError(name)


# Made here, by one thread; see imager.repository.manifest.
_DECODE = msgspec.json.Decoder(Description)
_DECODE_ANY = msgspec.json.Decoder()


def decode_description(data: bytes, *, server: str, image: str) -> Description:
    """The description of archive `image` of `server`. FormatError, VersionError, or TrustError when it is another's."""
    try:
        loose = _DECODE_ANY.decode(data)
        if isinstance(loose, dict) and isinstance(loose.get("version"), int) and loose["version"] != VERSION:
            raise VersionError(
                f"archive version {loose['version']} is not known", hint="a newer Refloat wrote it; update this one"
            )
        found = _DECODE.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise FormatError(f"not the description of an archive: {error}") from error
    if (found.server.name, found.image) != (server, image):
        raise TrustError(
            f"the archive says it is {found.server.name}/{found.image}, not {server}/{image}",
            hint="the site answered with another one",
        )
    _check(found)
    return found


def _check(found: Description) -> None:
    need(found.refloat == "archive", "kind of object")
    need(SERVER_NAME.fullmatch(found.server.name) is not None and TIME.fullmatch(found.image) is not None, "name")
    need(_HEX_ID.fullmatch(found.server.id) is not None, "server id")
    need(found.state in ("complete", "damaged") and len(found.note) <= 4096, "state or note")
    need((found.kind, found.base is None) in ((FULL, True), (DIFFERENTIAL, False)), "kind")
    if found.base is not None:
        need(TIME.fullmatch(found.base.image) is not None and found.base.image < found.image, "base")
        need(_HEX_DIGEST.fullmatch(found.base.sums) is not None, "base")
    need(all_natural(found.layout), "numbers")
    need(all(0 < size <= PART_MAX for size in found.part_bytes) and found.data_bytes >= 0, "parts")
    check_volumes(found.layout, found.volumes)


def geometry(server: str, specs: Sequence[VolumeSpec], layout: Layout) -> str:
    """What must be equal for a differential: which volumes there are, where, and what tables the disks have; hex."""
    rows = [(each.name, each.key, each.disk, each.offset_bytes, each.size_bytes) for each in specs]
    tables = [
        (disk.name, disk.size_bytes, disk.sector_bytes, disk.table and disk.table.id)
        + tuple(
            (part.number, part.start_bytes, part.size_bytes, part.type, part.uuid, part.name)
            for part in (disk.table.partitions if disk.table else ())
        )
        for disk in layout.disks
    ]
    return hashlib.sha256(msgspec.json.encode([server, sorted(rows), sorted(tables, key=str)])).hexdigest()
