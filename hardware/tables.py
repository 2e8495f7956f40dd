"""One disk's partition table, read three ways that must agree: pyparted, `sfdisk --json`, and the bytes of both GPTs.

Nothing is kept. Imports `core` and `hardware.{attach,facts,gpt}`; pyparted opens the device by itself.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import parted

from core.errors import SourceError, ToolError
from core.layout import EXTENDED_TYPES, Partition, Role, Table, TableKind
from core.run import Runner
from hardware.attach import attach
from hardware.facts import Facts, read_range
from hardware.gpt import Copy, Gpt, read_gpt

_CHECK_HINT = "look at it with `sgdisk --verify` and `sfdisk --list`, repair the table, and try again"


@dataclass(frozen=True)
class Signatures:
    """What blkid sees at one place: `type` of a filesystem or member, `table` kind; `ambiguous`: it will not choose."""

    type: str = ""
    table: str = ""
    uuid: str = ""
    label: str = ""
    ambiguous: bool = False


def signatures(path: str, offset_bytes: int, size_bytes: int, runner: Runner) -> Signatures:
    """Low-level probing of a range, past every cache. Raises SourceError when the range cannot be read."""
    edge = min(size_bytes, 1 << 20)
    read_range(path, offset_bytes, edge)  # blkid takes what it cannot read for empty
    read_range(path, offset_bytes + size_bytes - edge, edge)
    argv = [
        "blkid",
        "--probe",
        "--output",
        "udev",
        "--offset",
        str(offset_bytes),
        "--size",
        str(size_bytes),
        path,
    ]
    result = runner.run(argv, purpose=f"probe {path}", ok=(0, 2, 8))
    if result.code == 8:
        return Signatures(ambiguous=True)
    fields = dict(line.split("=", 1) for line in result.text.splitlines() if "=" in line)
    return Signatures(
        type=fields.get("ID_FS_TYPE", ""),
        table=fields.get("ID_PART_TABLE_TYPE", ""),
        uuid=fields.get("ID_FS_UUID", ""),
        label=_unescape(fields.get("ID_FS_LABEL_ENC", "")),
    )


def _unescape(text: str) -> str:
    """udev's encoding: `\\x20` for bytes that are not safe in a name, everything else as it is."""
    raw, out, at = text.encode(), bytearray(), 0
    while at < len(raw):
        if raw[at : at + 2] == b"\\x":
            out.append(int(raw[at + 2 : at + 4], 16))
            at += 4
        else:
            out.append(raw[at])
            at += 1
    return out.decode("utf-8", "replace")


def look_at_gpt(facts: Facts) -> Gpt:
    """Both GPT copies of a disk as they are, whole or not."""
    return read_gpt(lambda offset, length: read_range(facts.path, offset, length), facts.sector_bytes, facts.size_bytes)


def read_table(facts: Facts, runner: Runner) -> tuple[Table | None, Signatures]:
    """The table, its partitions without content, or None for a disk without one; and what blkid said of the whole disk.

    Raises SourceError for a table that is broken, of two minds, hybrid, or of a kind that is not handled: such a disk
    is neither blank nor to be trusted.
    """
    if facts.size_bytes < 4 * facts.sector_bytes:
        raise SourceError(
            f"{facts.path} is too small to be a disk ({facts.size_bytes} bytes)",
            hint="name a disk or an image of one; is there a medium in it?",
            path=facts.path,
        )
    with _node(facts, runner) as node:
        seen = signatures(node, 0, facts.size_bytes, runner)
        return _judge(facts, node, seen, runner), seen


def _judge(facts: Facts, node: str, seen: Signatures, runner: Runner) -> Table | None:
    gpt = look_at_gpt(facts)
    if gpt.signature_at or gpt.copies or seen.table in ("gpt", "PMBR"):
        _check_gpt(facts, gpt, seen)
        return _compare(facts, node, _from_gpt(facts, gpt), runner)
    if seen.ambiguous or (seen.table and seen.type):
        raise _broken(
            facts, "it carries signatures of more than one kind", "remove the stale one: `wipefs --no-act` lists them"
        )
    if seen.table == "dos":
        return _compare(facts, node, None, runner)
    if seen.table:
        raise _broken(facts, f"a partition table of kind {seen.table} is not handled", "use GPT or dos")
    return None


@contextlib.contextmanager
def _node(facts: Facts, runner: Runner) -> Iterator[str]:
    """The path itself, or a loop device where sectors are not of 512 bytes: the libraries take every file for such."""
    if facts.is_file and facts.sector_bytes != 512:
        with attach(facts.path, sector_bytes=facts.sector_bytes, runner=runner) as node:
            yield node
    else:
        yield facts.path


def _broken(facts: Facts, what: str, hint: str = _CHECK_HINT) -> SourceError:
    return SourceError(f"the partition table of {facts.path} cannot be trusted: {what}", hint=hint, path=facts.path)


def _check_gpt(facts: Facts, gpt: Gpt, seen: Signatures) -> None:
    if gpt.signature_at not in (None, facts.sector_bytes):
        raise _broken(
            facts,
            f"it is a GPT for sectors of {gpt.signature_at} bytes on a disk of {facts.sector_bytes}",
            f"for an image file, state sector_bytes = {gpt.signature_at}",
        )
    if gpt.hybrid:
        raise _broken(facts, "it is a GPT with a hybrid MBR", "make the MBR protective again (gdisk: x, n, w)")
    if gpt.primary is None or gpt.backup is None:
        lost = " and ".join(name for name, copy in (("primary", gpt.primary), ("backup", gpt.backup)) if copy is None)
        raise _broken(
            facts, f"the {lost} GPT is damaged", "`gdisk DISK` with v, w (or r, b) rebuilds one from the other"
        )
    if gpt.primary.says != gpt.backup.says:
        raise _broken(
            facts, "primary and backup GPT disagree", "choose one with `gdisk DISK` (r: b or c) and write it with w"
        )
    if gpt.primary.entries_lba != 2:
        raise _broken(facts, "its entries do not begin at LBA 2", "this layout (some ARM boards) is not handled yet")
    if not seen.ambiguous and seen.table != "gpt":
        raise _broken(facts, "it is a GPT without a protective MBR")


def _from_gpt(facts: Facts, gpt: Gpt) -> Table:
    copy: Copy | None = gpt.primary
    assert copy is not None  # noqa: S101 - _check_gpt saw both
    sector = facts.sector_bytes
    parts = tuple(
        Partition(
            number=row.number, start_bytes=row.first * sector, size_bytes=(row.last - row.first + 1) * sector,
            type=row.type, uuid=row.uuid, name=row.name, attrs=row.attrs,
        )
        for row in copy.rows
    )  # fmt: skip
    return Table(
        kind=TableKind.GPT, id=copy.guid, first_bytes=copy.first * sector, entries=copy.entries, partitions=parts
    )


def _compare(facts: Facts, node: str, ours: Table | None, runner: Runner) -> Table:
    """Ask libparted and libfdisk, and raise unless they say the same as each other and (GPT) as the bytes do."""
    theirs = _from_sfdisk(facts, node, runner)
    places = _from_parted(facts, node)
    table = ours or theirs
    if {(part.number, part.start_bytes, part.size_bytes) for part in theirs.partitions} != places:
        raise _broken(facts, "libparted and libfdisk read it differently")
    if ours and {_short(part) for part in ours.partitions} != {_short(part) for part in theirs.partitions}:
        raise _broken(facts, "libfdisk reads something else than its bytes say")
    if theirs.kind is not table.kind or theirs.id.lower() != table.id.lower():
        raise _broken(facts, "libfdisk takes it for another table")
    return table


def _short(part: Partition) -> tuple[object, ...]:
    return (part.number, part.start_bytes, part.size_bytes, part.type.upper(), part.uuid.upper())


def _from_parted(facts: Facts, node: str) -> set[tuple[int, int, int]]:
    """(number, start, size) of each partition, in bytes."""
    try:
        device = parted.getDevice(node)
        try:
            disk = parted.newDisk(device)
            unit = device.sectorSize
            return {(part.number, part.geometry.start * unit, part.geometry.length * unit) for part in disk.partitions}
        finally:
            device.removeFromCache()  # libparted would remember the size of a path for ever
    except Exception as error:  # _ped raises a dozen unrelated classes, some of them bare Exceptions
        raise _broken(facts, f"libparted says: {str(error).strip()}") from error


def _from_sfdisk(facts: Facts, node: str, runner: Runner) -> Table:
    try:
        raw = runner.run(["sfdisk", "--json", node], purpose=f"read the table of {facts.path}").stdout
    except ToolError as error:
        raise _broken(facts, f"libfdisk says: {error.message}") from error
    if not raw.startswith(b"{"):  # complaints about damage come first, on the same stream, and the exit code is 0
        raise _broken(facts, f"libfdisk says: {raw.split(b'{')[0].decode('utf-8', 'replace').strip()}")
    found: dict[str, Any] = json.loads(raw)["partitiontable"]
    unit = int(found.get("sectorsize", 512))
    if found.get("unit") != "sectors" or unit != facts.sector_bytes:
        raise _broken(facts, "libfdisk counts in another unit")
    kind, table_id = TableKind(found["label"]), str(found["id"])
    parts = [_sfdisk_row(each, unit, kind, table_id) for each in found.get("partitions", ())]
    return Table(kind=kind, id=table_id, partitions=_roles(parts, kind))


def _sfdisk_row(row: dict[str, Any], unit: int, kind: TableKind, table_id: str) -> Partition:
    # libfdisk has a name of its own for a mapping (`/dev/mapper/NAME-part1`), and `p` after a name that ends in a digit
    number = int(re.findall(r"\d+$", row["node"])[0])
    dos = kind is TableKind.DOS
    return Partition(
        number=number,
        start_bytes=int(row["start"]) * unit,
        size_bytes=int(row["size"]) * unit,
        type=str(row["type"]),
        uuid=f"{table_id.removeprefix('0x')}-{number:02x}" if dos else str(row.get("uuid", "")),
        name=str(row.get("name", "")),
        active=bool(row.get("bootable", False)),
    )


def _roles(parts: list[Partition], kind: TableKind) -> tuple[Partition, ...]:
    if kind is TableKind.GPT:
        return tuple(parts)

    def role(part: Partition) -> Role:
        return (
            Role.LOGICAL if part.number > 4 else Role.EXTENDED if part.type.lower() in EXTENDED_TYPES else Role.PRIMARY
        )

    from msgspec.structs import replace

    return tuple(replace(part, role=role(part)) for part in parts)
