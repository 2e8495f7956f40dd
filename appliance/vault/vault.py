"""What a vault keeps and how it takes it in; knows objects, tokens and quotas, nothing of HTTP.

One Vault serves a folder, in one process with many threads. May import `imager.sites` and `core`.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from blake3 import blake3

from appliance.vault.rights import Verb, may
from appliance.vault.tokens import Token, Tokens
from core.errors import CorruptError, ForbiddenError, ObjectExistsError, ObjectMissingError, SiteError, SiteFullError
from core.files import write_new
from core.sizes import MIB, format_size
from imager.sites.base import ObjectInfo, check_name, check_prefix
from imager.sites.file import FileSite

#: The largest object: a pack (docs/format.md) and a little.
LARGEST_BYTES = 65 * MIB
#: What stays free on the disk, so that a manifest and its receipt find room when packs no longer do.
RESERVE_BYTES = 64 * MIB
_CHUNK_BYTES = MIB
_ADDRESSED = re.compile(r"servers/[^/]+/(?:packs/[0-9a-f]{2}|maps)/([0-9a-f]{64})")
_MANIFEST = re.compile(r"servers/([^/]+)/images/([^/]+)\.json")

#: `read(n)` gives at most n bytes of a body, none at its end.
Read = Callable[[int], bytes]


class Vault:
    """The folder `root`. A server without a quota may fill the disk, but for a reserve."""

    def __init__(self, root: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.root, self._now = root, now
        self.site = FileSite("vault", root)
        self.own = root / ".vault"
        self.tokens = Tokens(self.own / "tokens.json", now)
        self._lock = threading.Lock()
        self._used: dict[str, int] = {}

    def open(self) -> None:
        """Make what a vault has of its own, where it is missing. Raises SiteError, StateError."""
        self.site.make()
        self.own.mkdir(mode=0o700, exist_ok=True)
        try:
            write_new(self.own / "id", secrets.token_hex(16).encode())
        except FileExistsError:
            return

    def time(self) -> str:
        """This vault's clock, RFC 3339, UTC."""
        return self._now().isoformat(timespec="milliseconds").replace("+00:00", "Z")

    @property
    def id(self) -> str:
        """32 hex digits that stand for this vault wherever it is reached."""
        return (self.own / "id").read_text().strip()

    def put(self, token: Token, name: str, size_bytes: int, digest: str, read: Read) -> None:
        """Take an object in, in constant memory; durable when this returns.

        Raises ForbiddenError, ObjectExistsError, SiteFullError (quota or disk), CorruptError when the body is not what
        name, `digest` (BLAKE3, hex) and size say.
        """
        check_name(name)
        if not may(token, Verb.PUT, name):
            raise ForbiddenError(f"this token may not write {name}", name=name)
        if size_bytes > LARGEST_BYTES:
            raise CorruptError(f"{name} has {size_bytes} bytes, objects have {LARGEST_BYTES} at most", name=name)
        addressed = _ADDRESSED.fullmatch(name)
        wanted = addressed[1] if addressed else digest
        self._require_room(name, size_bytes)
        with self._counted(token, size_bytes):
            self.site.create(name, lambda handle: _take(handle, name, size_bytes, wanted, read))
        manifest = _MANIFEST.fullmatch(name)
        if manifest:
            self._receipt(manifest[1], manifest[2], digest)

    def get(self, token: Token, name: str, offset: int, length: int | None) -> bytes:
        """Bytes of an object. Raises ObjectMissingError also for what is not this token's to see."""
        self._require_seen(token, name)
        return self.site.get(name, offset, length)

    def stat(self, token: Token, name: str) -> ObjectInfo:
        """Size and time of an object. Raises ObjectMissingError likewise."""
        self._require_seen(token, name)
        return self.site.stat(name)

    def list(self, token: Token, prefix: str, after: str) -> Iterator[ObjectInfo]:
        """The objects below a folder that this token may see, from the name behind `after` on."""
        check_prefix(prefix)
        base = prefix
        if token.server and not prefix.startswith(f"servers/{token.server}/"):
            base = f"servers/{token.server}/"
            if not base.startswith(prefix):
                return
        for info in self.site.list_after(base, after):
            if may(token, Verb.READ, info.name):
                yield info

    def delete(self, token: Token, name: str) -> None:
        """Remove an object; operators only. Raises ForbiddenError, ObjectMissingError."""
        check_name(name)
        if not may(token, Verb.DELETE, name):
            raise ForbiddenError(f"this token may not delete {name}", name=name)
        size = self.site.stat(name).size_bytes
        self.site.delete(name)
        server = _server_of(name)
        with self._lock:
            if server in self._used:
                self._used[server] -= size

    def used_bytes(self, server: str) -> int:
        """What a server's objects take; read from the disk once, counted from then on."""
        with self._lock:
            known = self._used.get(server)
        if known is not None:
            return known
        found = sum(info.size_bytes for info in self.site.list(f"servers/{server}/"))
        with self._lock:
            return self._used.setdefault(server, found)

    def _require_seen(self, token: Token, name: str) -> None:
        check_name(name)
        if not may(token, Verb.READ, name):
            raise ObjectMissingError(f"{name} is not here", name=name)

    def _require_room(self, name: str, size_bytes: int) -> None:
        found = os.statvfs(self.root)
        small = _MANIFEST.fullmatch(name) is not None
        if not small and found.f_bavail * found.f_frsize < size_bytes + RESERVE_BYTES:
            raise SiteFullError("the vault's disk is full", hint="prune, or give the vault a larger disk", name=name)

    def _counted(self, token: Token, size_bytes: int) -> _Counted:
        return _Counted(self, token, size_bytes)

    def _receipt(self, server: str, image: str, digest: str) -> None:
        body = {
            "refloat": "receipt", "version": 1, "image": image, "digest": digest,
            "received": self.time(), "vault": self.id,
        }  # fmt: skip
        with contextlib.suppress(ObjectExistsError):  # the first receipt counts: no later put makes it younger
            self.site.put(f"servers/{server}/receipts/{image}.json", [msgspec.json.encode(body)])


class _Counted:
    """Bytes that are counted before they are written, so that two puts cannot share the last of a quota, and given back
    when they did not come."""

    def __init__(self, vault: Vault, token: Token, size_bytes: int) -> None:
        self._vault, self._token, self._size = vault, token, size_bytes

    def __enter__(self) -> None:
        vault, server, quota = self._vault, self._token.server, self._vault.tokens.quota_bytes(self._token.server)
        if not server:
            return
        vault.used_bytes(server)
        with vault._lock:
            if quota and vault._used[server] + self._size > quota:
                raise SiteFullError(
                    f"{server} has used {format_size(vault._used[server])} of its {format_size(quota)}",
                    hint="prune its images, or raise the quota: `refloat vault quota`",
                    server=server,
                )
            vault._used[server] += self._size

    def __exit__(self, kind: object, *_rest: object) -> None:
        if kind is not None and self._token.server:
            with self._vault._lock:
                self._vault._used[self._token.server] -= self._size


def _take(handle: int, name: str, size_bytes: int, digest: str, read: Read) -> None:
    hasher, left = blake3(), size_bytes
    while left:
        try:
            data = read(min(left, _CHUNK_BYTES))
        except OSError as error:  # the client's connection, not our disk
            raise SiteError(f"{name}: the sender went away", name=name) from error
        if not data:
            raise CorruptError(f"{name} ended {left} bytes early", name=name)
        hasher.update(data)
        left -= len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
    if hasher.hexdigest() != digest:
        raise CorruptError(f"{name} is not what its digest says", hint="send it again", name=name)
    os.fsync(handle)


def _server_of(name: str) -> str:
    parts = name.split("/")
    return parts[1] if len(parts) > 2 and parts[0] == "servers" else ""
