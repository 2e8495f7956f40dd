"""`https://`: a vault (`docs/vault.md`) as a site, by requests with kept connections. One HttpsSite for one run.

May import core and `imager.sites.base`. Trust in the other end: the machine's certificate authorities, or pins, SHA-256
of the vault's own certificate. Trying again is `wrap.Retry`'s part.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec
import requests
from blake3 import blake3
from requests.adapters import HTTPAdapter

from core.errors import (
    ConfigError,
    CorruptError,
    ForbiddenError,
    ObjectExistsError,
    ObjectMissingError,
    RefloatError,
    SiteError,
    SiteFullError,
)
from imager.sites.base import Buffer, ObjectInfo, check_name, check_prefix, total_bytes

#: To connect, and between two pieces of an answer, in seconds; a put is answered when it is durable.
TIMEOUTS = (30, 120)
_PAGE = 1000
_MAX_JSON = 4 << 20
_ERRORS: Mapping[int, type[RefloatError]] = {
    403: ForbiddenError, 404: ObjectMissingError, 409: ObjectExistsError, 416: CorruptError,
    422: CorruptError, 507: SiteFullError,
}  # fmt: skip


_HOW = "`site.token` names the file of a server's token; in a kit: `refloat kit add --credential SITE:token=FILE`"


Ways = list[str]


class _Row(msgspec.Struct, frozen=True):
    name: str
    size_bytes: int
    received: datetime


class _Page(msgspec.Struct, frozen=True):
    objects: tuple[_Row, ...]
    more: bool


class HttpsSite:
    """The vault at `url`, spoken to with `token`; `pins` are SHA-256 of certificates that count, hex, with or without
    colons; none: certificate authorities decide. `addresses` are tried where the name does not resolve. Safe in
    several threads: each has a connection of its own."""

    def __init__(
        self, name: str, url: str, *, token: str, pins: Sequence[str] = (), addresses: Sequence[str] = ()
    ) -> None:
        parts = urlsplit(url)
        if not parts.hostname or parts.query or parts.fragment or parts.username or parts.path.strip("/"):
            raise ConfigError(f"site {name}: {url!r} names no vault", hint="write https://HOST:PORT", site=name)
        self.name = name
        self._token = token
        # behind a pin an address is as good as the name; without one nothing would tell who answers there
        self._bases = [url.rstrip("/"), *(_at(parts, each) for each in addresses if pins)]
        self._headers = {"Authorization": f"Bearer {token}", "User-Agent": "refloat", "Accept-Encoding": "identity"}
        self._pins = [pin.replace(":", "").lower() for pin in pins]
        self._mine = threading.local()
        self._lock = threading.Lock()
        self._sessions: list[requests.Session] = []

    def put(self, name: str, body: Sequence[Buffer]) -> None:
        """See Site.put."""
        check_name(name)
        hasher = blake3()
        for part in body:
            hasher.update(memoryview(part).cast("B"))
        digest = {"Refloat-Digest": f"blake3={hasher.hexdigest()}"}
        with _Body(body) as data:
            self._body(self._ask("PUT", f"/v1/objects/{name}", name, data=data, headers=digest), name)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See Site.get. An offset past the end is CorruptError, too."""
        check_name(name)
        if offset < 0 or (length is not None and length < 0):
            raise ValueError("negative range")
        if length == 0:
            if offset > self.stat(name).size_bytes:
                raise self._short(name, 0, 0)
            return b""
        last = "" if length is None else str(offset + length - 1)
        headers = {"Range": f"bytes={offset}-{last}"} if offset or last else {}
        try:
            answer = self._ask("GET", f"/v1/objects/{name}", name, headers=headers)
        except CorruptError:
            if length is None and offset == self.stat(name).size_bytes:
                return b""  # the rest of an object, asked for at its very end
            raise
        data = self._body(answer, name, None if length is None else length)
        if headers and answer.status_code != 206:
            raise CorruptError(f"{self.name} gave {name} whole, a part was asked for", site=self.name, name=name)
        if length is not None and len(data) != length:
            raise self._short(name, len(data), length)
        return data

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See Site.list; a page of a thousand is in memory at a time."""
        check_prefix(prefix)
        return self._list(prefix)

    def stat(self, name: str) -> ObjectInfo:
        """See Site.stat."""
        check_name(name)
        answer = self._ask("HEAD", f"/v1/objects/{name}", name)
        try:
            received = datetime.fromisoformat(answer.headers["Refloat-Received"])
            return ObjectInfo(name, int(answer.headers["Content-Length"]), received)
        except (KeyError, ValueError) as error:
            raise self._strange(name) from error
        finally:
            self._body(answer, name)  # a connection whose answer was read to its end is kept

    def delete(self, name: str) -> None:
        """See Site.delete."""
        check_name(name)
        self._body(self._ask("DELETE", f"/v1/objects/{name}", name), name)

    def place(self) -> str:
        """See Site.place: the id that the vault drew for itself."""
        answer = self._ask("GET", "/v1/self", "")
        try:
            return f"vault:{msgspec.json.decode(self._body(answer, ''), type=dict[str, Any])['vault']}"
        except (msgspec.MsgspecError, KeyError) as error:
            raise self._strange("") from error

    def close(self) -> None:
        """Let every connection go."""
        with self._lock:
            for session in self._sessions:
                session.close()
            self._sessions.clear()
            self._mine = threading.local()

    def _list(self, prefix: str) -> Iterator[ObjectInfo]:
        after = ""
        while True:
            query = {"prefix": prefix, "after": after, "limit": str(_PAGE)}
            answer = self._ask("GET", "/v1/list", prefix, params=query)
            try:
                page = msgspec.json.decode(self._body(answer, prefix, most=_MAX_JSON), type=_Page)
            except msgspec.MsgspecError as error:
                raise self._strange(prefix) from error
            for row in page.objects:
                # sorted and new, or a site that lies could keep us here for ever
                if row.name <= after or not row.name.startswith(prefix) or row.received.tzinfo is None:
                    raise self._strange(prefix)
                after = row.name
                yield ObjectInfo(row.name, row.size_bytes, row.received)
            if not page.more:
                return
            if not page.objects:
                raise self._strange(prefix)

    def _ask(self, method: str, path: str, name: str, **more: Any) -> requests.Response:
        if not self._token:
            raise ConfigError(f"site {self.name}: no token is known", hint=_HOW, site=self.name)
        headers = {**self._headers, **more.pop("headers", {})}
        try:
            answer = self._send(method, path, headers=headers, **more)
        except requests.exceptions.SSLError as error:
            if not _untrusted(error):
                raise SiteError(f"{self.name} broke off: {error}", site=self.name, name=name) from error
            hint = "is it the right vault? `site.pin` is its certificate's SHA-256; is this machine's clock right?"
            raise SiteError(
                f"{self.name} is not trusted: {error}", hint=hint, site=self.name, name=name, transient=False
            ) from error
        except (requests.exceptions.RequestException, OSError) as error:
            raise SiteError(f"{self.name} does not answer: {error}", site=self.name, name=name) from error
        if 200 <= answer.status_code < 300:
            return answer
        try:
            raise self._problem(answer, name)
        finally:
            answer.close()

    def _send(self, method: str, path: str, **more: Any) -> requests.Response:
        """To the first place and by the first pin that does; what did is kept to. A body is sent once at most: names
        are resolved and certificates looked at before its first byte."""
        while True:
            base, pin = self._bases[0], self._pins[0] if self._pins else ""
            try:
                return self._session(pin).request(
                    method, base + path, timeout=TIMEOUTS, stream=True, allow_redirects=False, verify=not pin, **more
                )
            except requests.exceptions.SSLError as error:
                if not _untrusted(error) or not self._skip(self._pins, pin):
                    raise
            except requests.exceptions.ConnectionError as error:
                if "NameResolutionError" not in repr(error) or not self._skip(self._bases, base):
                    raise

    def _skip(self, ways: Ways, way: str) -> bool:
        """Forget a way that did not do; False when it was the last."""
        with self._lock:
            if way in ways and len(ways) > 1:
                ways.remove(way)
                return True
            return way not in ways

    def _problem(self, answer: requests.Response, name: str) -> RefloatError:
        said: dict[str, Any] = {}
        try:
            said = msgspec.json.decode(self._body(answer, name, most=_MAX_JSON) or b"{}", type=dict[str, Any])
        except (RefloatError, msgspec.MsgspecError):
            said = {}
        status = answer.status_code
        message = f"{self.name}: {name or 'the vault'}: {said.get('message') or f'status {status}'}"
        hint = said.get("hint")
        fields = {"site": self.name, "name": name}
        kind = _ERRORS.get(status)
        if kind is not None:
            return kind(message, hint=hint if isinstance(hint, str) else None, **fields)
        transient = status in (408, 429) or status >= 500
        if status == 401:
            hint = hint or "is `site.token` the token that this vault gave this server, and not revoked?"
        return SiteError(message, hint=hint if isinstance(hint, str) else None, **fields, transient=transient)

    def _body(self, answer: requests.Response, name: str, most: int | None = None) -> bytes:
        """The answer's bytes, `most` of them: a site that goes on for ever is not listened to for ever."""
        data = bytearray()
        try:
            for piece in answer.iter_content(1 << 20):
                data += piece
                if most is not None and len(data) > most:
                    raise self._strange(name)
        except (requests.exceptions.RequestException, OSError) as error:
            raise SiteError(f"{self.name} broke off: {error}", site=self.name, name=name) from error
        finally:
            answer.close()
        return bytes(data)

    def _session(self, pin: str) -> requests.Session:
        known, session = getattr(self._mine, "session", (None, None))
        if session is None or known != pin:
            session = requests.Session()
            if pin:
                session.mount("https://", _Pinned(pin))
            self._mine.session = pin, session
            with self._lock:
                self._sessions.append(session)
        return session

    def _short(self, name: str, got: int, wanted: int) -> CorruptError:
        return CorruptError(
            f"{name} at {self.name} is too short: {got} bytes came, {wanted} were wanted",
            hint="`refloat verify` finds what else is damaged; restore from the other site",
            site=self.name,
            name=name,
        )

    def _strange(self, name: str) -> SiteError:
        return SiteError(
            f"{self.name} answered what no vault answers: {name}", site=self.name, name=name, transient=False
        )


def _untrusted(error: requests.exceptions.SSLError) -> bool:
    """Whether it is the certificate that is wrong; else the connection just broke."""
    return any(word in repr(error) for word in ("CERTIFICATE", "Fingerprint", "certificate", "Hostname"))


def _at(parts: SplitResult, address: str) -> str:
    host = f"[{address}]" if ":" in address else address
    return f"https://{host}:{parts.port or 443}"


class _Pinned(HTTPAdapter):
    """Connections to one certificate, whoever signed it."""

    def __init__(self, fingerprint: str) -> None:
        self._fingerprint = fingerprint
        super().__init__()

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        super().init_poolmanager(*args, assert_fingerprint=self._fingerprint, **more)


class _Body:
    """Buffers as a file that requests can send: it has a length, so that nothing is sent in chunks."""

    def __init__(self, parts: Sequence[Buffer]) -> None:
        self._views = [memoryview(part).cast("B") for part in parts if memoryview(part).nbytes]
        self._size, self._index, self._at = total_bytes(parts), 0, 0

    def __enter__(self) -> _Body:
        return self

    def __exit__(self, *_: object) -> None:
        """Let the buffers go, whoever still holds this."""
        for view in self._views:
            view.release()
        self._views, self._index = [], 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        while data := self.read(1 << 20):
            yield data

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes of one buffer; nothing at the end."""
        if self._index == len(self._views):
            return b""
        view = self._views[self._index]
        end = len(view) if size < 0 else min(self._at + size, len(view))
        data = bytes(view[self._at : end])
        self._index, self._at = (self._index + 1, 0) if end == len(view) else (self._index, end)
        return data
