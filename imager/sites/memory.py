"""A site in memory, for tests: same contract and errors, gone with the object. Imports core and `base` only."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

from core.errors import CorruptError, ObjectExistsError, ObjectMissingError, SiteFullError
from imager.sites.base import Buffer, ObjectInfo, check_name, check_prefix


class MemorySite:
    """Objects in a dict. `capacity_bytes` limits what all of them hold; `clock` gives the site's time (UTC)."""

    def __init__(
        self,
        name: str = "memory",
        *,
        capacity_bytes: int | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.name = name
        self._capacity = capacity_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._objects: dict[str, tuple[bytes, ObjectInfo]] = {}

    def put(self, name: str, body: Sequence[Buffer]) -> None:
        """See Site.put."""
        check_name(name)
        data = b"".join(body)
        with self._lock:
            if name in self._objects:
                raise ObjectExistsError(f"{name} exists already at {self.name}", site=self.name, name=name)
            held = sum(info.size_bytes for _, info in self._objects.values())
            if self._capacity is not None and held + len(data) > self._capacity:
                raise SiteFullError(f"{self.name} has no room for {name}", hint="make room", site=self.name, name=name)
            self._objects[name] = (data, ObjectInfo(name, len(data), self._clock()))

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See Site.get. An offset past the end is CorruptError, too."""
        if offset < 0 or (length is not None and length < 0):
            raise ValueError("negative range")
        data, info = self._find(name)
        end = max(offset, info.size_bytes) if length is None else offset + length
        if end > info.size_bytes:
            raise CorruptError(
                f"{name} at {self.name} is too short: {info.size_bytes} bytes, {end} wanted", site=self.name, name=name
            )
        return data[offset:end]

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See Site.list: what was there when it was called."""
        check_prefix(prefix)
        with self._lock:
            found = [info for name, (_, info) in self._objects.items() if name.startswith(prefix)]
        return iter(sorted(found, key=lambda info: info.name))

    def stat(self, name: str) -> ObjectInfo:
        """See Site.stat."""
        return self._find(name)[1]

    def delete(self, name: str) -> None:
        """See Site.delete."""
        with self._lock:
            if self._objects.pop(check_name(name), None) is None:
                raise self._missing(name)

    def place(self) -> str:
        """See Site.place."""
        return f"memory:{id(self)}"

    def close(self) -> None:
        """Nothing to release; what was put stays with the object."""

    def _find(self, name: str) -> tuple[bytes, ObjectInfo]:
        with self._lock:
            found = self._objects.get(check_name(name))
        if found is None:
            raise self._missing(name)
        return found

    def _missing(self, name: str) -> ObjectMissingError:
        return ObjectMissingError(f"{name} is not at {self.name}", site=self.name, name=name)
