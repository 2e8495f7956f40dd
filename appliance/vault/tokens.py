"""Who may speak to a vault: tokens, kept as hashes in one file. Lives as long as the vault; imports `core`.

The file is read again when it has changed, so that a token made or revoked by the command line counts at once.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec

from core.errors import ConfigError, FormatError, StateError
from core.files import locked, replace
from core.settings import NAME_PATTERN

_TOKEN = re.compile(r"rft_([A-Za-z0-9_-]{12})_([A-Za-z0-9_-]{43})")
_NAME = re.compile(NAME_PATTERN)


class Role(StrEnum):
    """What a token is for."""

    SERVER = "server"
    RESTORE = "restore"
    OPERATOR = "operator"


class Token(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One token. `server` is empty for all servers; `secret` SHA-256 of the secret part, hex; times RFC 3339, UTC."""

    id: str
    role: Role
    server: str = ""
    secret: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    made_at: str
    revoked_at: str = ""
    note: str = ""


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    refloat: str = "vault-tokens"
    version: int = 1
    tokens: tuple[Token, ...] = ()
    quotas: dict[str, int] = {}


class Tokens:
    """The file `tokens.json`. Safe to use from several threads and processes."""

    def __init__(self, path: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._path, self._now = path, now
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._file = _File()

    def all(self) -> tuple[Token, ...]:
        """Every token, in the order they were made. Raises StateError, FormatError."""
        return self._current().tokens

    def find(self, presented: str) -> Token | None:
        """The token that was presented, unless it is unknown or revoked."""
        match = _TOKEN.fullmatch(presented)
        known = self._by_id(match[1]) if match else None
        # the same work for a token that is not there: its absence must not be faster
        digest = _digest(match[2] if match else "")
        right = hmac.compare_digest(digest, known.secret if known else "0" * 64)
        return known if known is not None and right and not known.revoked_at else None

    def issue(self, role: Role, server: str = "", note: str = "") -> str:
        """A new token's text, which is kept nowhere. Raises ConfigError for a server that cannot be called so."""
        if server:
            _check_server(server)
        if role is Role.SERVER and not server:
            raise ConfigError("a server's token is for one server", hint="name it")
        name, secret = secrets.token_urlsafe(9), secrets.token_urlsafe(32)
        token = Token(id=name, role=role, server=server, secret=_digest(secret), made_at=self._stamp(), note=note[:200])
        self._change(lambda file: msgspec.structs.replace(file, tokens=(*file.tokens, token)))
        return f"rft_{name}_{secret}"

    def revoke(self, name: str) -> Token:
        """End a token by its id. Raises ConfigError when there is none."""
        found = self._by_id(name)
        if found is None:
            raise ConfigError(f"there is no token {name!r}", hint="`refloat vault tokens` lists them")
        ended = msgspec.structs.replace(found, revoked_at=found.revoked_at or self._stamp())
        self._change(
            lambda file: msgspec.structs.replace(
                file, tokens=tuple(ended if each.id == name else each for each in file.tokens)
            )
        )
        return ended

    def quota_bytes(self, server: str) -> int:
        """What a server may take; 0: no limit."""
        return self._current().quotas.get(server, 0)

    def set_quota(self, server: str, size_bytes: int) -> None:
        """Limit a server; 0 ends the limit."""
        _check_server(server)

        def change(file: _File) -> _File:
            quotas = {name: size for name, size in file.quotas.items() if name != server}
            return msgspec.structs.replace(file, quotas={**quotas, server: size_bytes} if size_bytes else quotas)

        self._change(change)

    def _by_id(self, name: str) -> Token | None:
        return next((each for each in self._current().tokens if each.id == name), None)

    def _change(self, change: Callable[[_File], _File]) -> None:
        with locked(self._path.with_name(".tokens.lock")):
            self._seen = None
            body = msgspec.json.encode(change(self._current()))
            replace(self._path, msgspec.json.format(body, indent=1) + b"\n")
            self._seen = None

    def _current(self) -> _File:
        with self._lock:
            try:
                status = os.stat(self._path)
            except FileNotFoundError:
                return _File()
            except OSError as error:
                raise StateError(f"{self._path} cannot be read: {error.strerror}") from error
            mark = (status.st_ino, status.st_mtime_ns, status.st_size)
            if mark != self._seen:
                self._file, self._seen = _read(self._path), mark
            return self._file

    def _stamp(self) -> str:
        return self._now().isoformat(timespec="seconds").replace("+00:00", "Z")


def _read(path: Path) -> _File:
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} has a wrong form: {error}", hint="it is written by `refloat vault` only") from error
    if file.refloat != "vault-tokens" or file.version != 1:
        raise FormatError(f"{path} is not a list of tokens that this version knows")
    return file


def _check_server(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name of a server", hint="lower case, digits, `.`, `_`, `-`")


def _digest(secret: str) -> str:
    """A plain hash is enough for 256 random bits: there is nothing to guess."""
    return hashlib.sha256(secret.encode()).hexdigest()
