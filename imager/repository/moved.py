"""Where frames lie after packs were repacked: the site's relocation tables (`docs/format.md`, Moved).

Tables are not signed. What is read through one must have the digest that the signed map states: a hostile table makes
a read fail and does nothing else. A `Moved` lives as long as its Repository; it keeps one listing (8 bytes a table)
and the last few tables. May import `core`, `imager`.
"""

from __future__ import annotations

import bisect
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from core.errors import CorruptError, FormatError, ObjectMissingError, VersionError
from imager.repository.frames import SEALED_MAX, PackRef
from imager.repository.packs import FRAMES_MAX, PACK_MAX
from imager.sites.base import Site

TABLE_MAX = 1 << 20
#: How often a frame may have moved; more is a table written in a circle.
HOPS_MAX = 64
_VERSION = 1
#: Rows of tables kept in memory: about 50 MB.
_ROWS_KEPT = 200_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where sealed bytes lie: `length` of them from `offset` of `pack`."""

    pack: PackRef
    offset: int
    length: int


class _Object(msgspec.Struct, forbid_unknown_fields=True):
    refloat: str
    version: int
    pack: str
    packs: list[tuple[str, int]]
    frames: list[tuple[int, int, int, int]]


_DECODE = msgspec.json.Decoder(_Object)  # made by one thread, see `manifest`


class Table:
    """One pack's table: offset in the old pack → place."""

    def __init__(self, packs: Sequence[PackRef], rows: dict[int, tuple[int, int, int]]) -> None:
        self.packs, self._rows = list(packs), rows

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, offset: int, length: int) -> Place | None:
        """Where the frame of that offset and sealed length is; None when the table does not have it."""
        found = self._rows.get(offset)
        if found is None or found[0] != length:
            return None
        return Place(self.packs[found[1]], found[2], length)


def encode_table(pack: PackRef, places: dict[int, Place]) -> bytes:
    """The object for `pack`; `places` maps a frame's old offset to where it is now."""
    packs = list(dict.fromkeys(each.pack for each in places.values()))
    index = {ref: number for number, ref in enumerate(packs)}
    frames = [(offset, each.length, index[each.pack], each.offset) for offset, each in sorted(places.items())]
    return msgspec.json.encode(
        _Object("moved", _VERSION, pack.hex, [(ref.hex, ref.size_bytes) for ref in packs], frames)
    )


def decode_table(data: bytes, pack: str) -> Table:
    """The table in an object named for `pack` (hex). FormatError or VersionError."""
    try:
        found = _DECODE.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError("not a table of moved frames: its JSON has a wrong form") from error
    if found.version != _VERSION:
        raise VersionError(f"table version {found.version} is not known", hint="a newer Refloat wrote it; update this")
    if found.refloat != "moved" or found.pack != pack:
        raise FormatError("a table of moved frames is of another pack")
    packs = [_pack(digest, size) for digest, size in found.packs]
    rows: dict[int, tuple[int, int, int]] = {}
    last = -1
    for offset, length, number, at in found.frames:
        if not last < offset or not 0 < length <= SEALED_MAX or not 0 <= number < len(packs):
            raise FormatError("a row in a table of moved frames is wrong")
        if not 0 <= at <= packs[number].size_bytes - length or len(rows) >= FRAMES_MAX:
            raise FormatError("a row in a table of moved frames is wrong")
        rows[offset] = (length, number, at)
        last = offset
    return Table(packs, rows)


def _pack(digest: str, size: int) -> PackRef:
    try:
        raw = bytes.fromhex(digest)
    except ValueError as error:
        raise FormatError("a table of moved frames names no pack") from error
    if len(raw) != 32 or raw.hex() != digest or not 0 < size <= PACK_MAX:
        raise FormatError("a table of moved frames names no pack")
    return PackRef(raw, size)


def prefix_of(digest: bytes) -> int:
    """The first 8 bytes of a digest as a number: what listings are kept as. Where two share it, both are meant."""
    return int.from_bytes(digest[:8], "big")


def digest_in(name: str, suffix: str = "") -> bytes | None:
    """The digest that ends an object's name; None when it is not named so."""
    leaf = name.rsplit("/", 1)[1].removesuffix(suffix)
    try:
        raw = bytes.fromhex(leaf)
    except ValueError:
        return None
    return raw if len(raw) == 32 and leaf == raw.hex() and name.endswith(suffix) else None


class Moved:
    """The tables of one server at one site. Safe for several threads."""

    def __init__(self, site: Site, prefix: str) -> None:
        self._site, self._prefix = site, f"{prefix}moved/"
        self._names: array[int] | None = None
        self._tables: OrderedDict[bytes, Table] = OrderedDict()
        self._rows = 0
        self._lock = threading.Lock()

    def table_name(self, pack: PackRef) -> str:
        return f"{self._prefix}{pack.hex[:2]}/{pack.hex}.json"

    def digests(self) -> Iterator[bytes]:
        """Packs that have a table, ascending, from a new listing."""
        for info in self._site.list(self._prefix):
            digest = digest_in(info.name, ".json")
            if digest is not None:
                yield digest

    def is_listed(self, pack: PackRef) -> bool:
        """Whether the pack has a table by a listing, made once. SiteError when the site cannot be listed."""
        if self._names is None:
            names = array("Q", (prefix_of(each) for each in self.digests()))
            with self._lock:
                self._names = names
        wanted = prefix_of(pack.digest)
        at = bisect.bisect_left(self._names, wanted)
        return at < len(self._names) and self._names[at] == wanted

    def table(self, pack: PackRef) -> Table | None:
        """The pack's table, None when there is none. CorruptError when it is damaged."""
        with self._lock:
            if pack.digest in self._tables:
                self._tables.move_to_end(pack.digest)
                return self._tables[pack.digest]
        found = self._load(pack)
        if found is not None:  # what is not there can come
            with self._lock:
                if pack.digest not in self._tables:
                    self._rows += len(found)
                self._tables[pack.digest] = found
                while self._rows > _ROWS_KEPT and len(self._tables) > 1:
                    self._rows -= len(self._tables.popitem(last=False)[1])
        return found

    def _load(self, pack: PackRef) -> Table | None:
        name = self.table_name(pack)
        try:
            if self._site.stat(name).size_bytes > TABLE_MAX:
                raise FormatError("a table of moved frames is too large")
            return decode_table(self._site.get(name), pack.hex)
        except ObjectMissingError:
            return None
        except (CorruptError, VersionError) as error:
            error.fields.update(site=self._site.name, object=name, problem=error.message)
            error.message = f"{name} at site {self._site.name}: {error.message}"
            raise

    def now(self, place: Place) -> Place:
        """Where a frame is by the listing: through as many tables as there are, `place` itself where it never moved.

        CorruptError when a table is damaged or goes in a circle.
        """
        for _ in range(HOPS_MAX):
            found = self.next(place) if self.is_listed(place.pack) else None
            if found is None:
                return place
            place = found
        raise self._circle(place)

    def next(self, place: Place) -> Place | None:
        """One step further, whatever the listing says; None when no table has the frame: then it never moved.
        CorruptError when the table is damaged."""
        table = self.table(place.pack)
        return table.find(place.offset, place.length) if table is not None else None

    def _circle(self, place: Place) -> CorruptError:
        name = self.table_name(place.pack)
        problem = "tables of moved frames go in a circle"
        return CorruptError(
            f"{name} at site {self._site.name}: {problem}", site=self._site.name, object=name, problem=problem
        )
