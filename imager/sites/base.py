"""What a site must do: five verbs on names and bytes. `tests/imager/test_sites.py` is the suite every driver passes.

Names are relative paths of `[A-Za-z0-9._+=-]` components separated by `/`; no component is empty or begins with a dot;
255 bytes a component, 1,000 a name. A driver checks them (`check_name`) before it touches anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from core.errors import FormatError

Buffer = bytes | bytearray | memoryview
_COMPONENT = re.compile(r"[A-Za-z0-9_+=-][A-Za-z0-9._+=-]{0,254}")


@dataclass(frozen=True)
class ObjectInfo:
    """One object as the site knows it; `received` is by the site's own clock (UTC)."""

    name: str
    size_bytes: int
    received: datetime


class Site(Protocol):
    """The contract. Every method raises SiteError (or its subclass) with `site` and `name` fields on failure, and may
    be called from several threads at once. The field `transient` is False where trying again cannot help."""

    name: str
    """What the config calls it; used in messages."""

    def put(self, name: str, body: Sequence[Buffer]) -> None:
        """Create `name` from the concatenated buffers, durable (file and folder) when this returns.

        Create-only: ObjectExistsError if the name is taken, and the object there is untouched. Nothing of a failed or
        killed put is ever visible under a name. SiteFullError when there is no room. The buffers are not kept.
        """
        ...

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes from `offset`, `length` of them (None: to the end).

        ObjectMissingError if there is no such object; CorruptError when fewer bytes come than were asked for.
        """
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object whose name begins with the folder `prefix` (`""` or ending in `/`), sorted by name."""
        ...

    def stat(self, name: str) -> ObjectInfo:
        """Size and time of one object. ObjectMissingError if there is none."""
        ...

    def delete(self, name: str) -> None:
        """Remove one object (retention role only). ObjectMissingError if there is none."""
        ...

    def place(self) -> str:
        """What is equal for two names of one and the same place (a folder reached by a link or a bind mount). SiteError
        when it cannot be told."""
        ...

    def close(self) -> None:
        """Release connections; the site is not used afterwards."""
        ...


def check_name(name: str) -> str:
    """The name itself if it is well-formed, else FormatError: names can come from hostile objects."""
    if len(name) > 1000 or not all(_COMPONENT.fullmatch(part) for part in name.split("/")):
        raise FormatError(f"not an object name: {name[:80]!r}")
    return name


def check_prefix(prefix: str) -> str:
    """The folder prefix itself if it is `""` or a well-formed name and `/`, else FormatError."""
    if prefix and (not prefix.endswith("/") or len(prefix) > 1000):
        raise FormatError(f"not a folder prefix: {prefix[:80]!r}")
    if prefix:
        check_name(prefix[:-1])
    return prefix


def total_bytes(body: Sequence[Buffer]) -> int:
    """Length of the concatenated buffers."""
    return sum(memoryview(part).nbytes for part in body)
