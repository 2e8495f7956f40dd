"""What is on a disk now, in lines for a person who is about to overwrite it.

Reads only. Imports `core` and `hardware.{facts,tables}`. What cannot be read is said to be so: it is never "empty".
"""

from __future__ import annotations

from core.errors import RefloatError
from core.layout import Partition, Role, TableKind
from core.run import Runner
from core.sizes import format_size
from hardware.facts import Facts, facts_of
from hardware.tables import Signatures, read_table, signatures

NOTHING = "nothing recognised"


def holdings(path: str, runner: Runner, *, sector_bytes: int | None = None) -> list[str]:
    """The table and a line for each partition, or what the disk holds without one. Never empty, raises nothing."""
    try:
        facts = facts_of(path, sector_bytes)
        table, seen = read_table(facts, runner)
    except RefloatError as error:
        return [_unread(error)]
    if table is None:
        return [_named(seen, whole=True)]
    kind = "GPT" if table.kind is TableKind.GPT else "dos table"
    count = len(table.partitions)
    parts = sorted(table.partitions, key=lambda part: part.start_bytes)
    return [f"{kind} with {count} partition{'s' * (count != 1)}", *(_line(facts, part, runner) for part in parts)]


def _line(facts: Facts, part: Partition, runner: Runner) -> str:
    if part.role is Role.EXTENDED:
        what = "extended partition"
    else:
        try:
            what = _named(signatures(facts.path, part.start_bytes, part.size_bytes, runner))
        except RefloatError as error:
            what = _unread(error)
    name = f" ({part.name})" if part.name else ""
    return f"partition {part.number}{name}, {format_size(part.size_bytes)}: {what}"


def _named(seen: Signatures, *, whole: bool = False) -> str:
    if seen.ambiguous:
        return "signatures of more than one kind"
    if seen.type:
        return seen.type + (f" {seen.label!r}" if seen.label else "") + (" without a table" if whole else "")
    return f"{seen.table} table" if seen.table else NOTHING


def _unread(error: RefloatError) -> str:
    return f"cannot be read: {error.message}"
