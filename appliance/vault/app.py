"""The vault over HTTP: `docs/vault.md` as routes. An application factory; all it decides is how things are said.

May import `appliance.vault` and `core`. Bodies pass through in pieces, whole objects are never in memory.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgspec
from flask import Flask, Response, g, request

from appliance.vault.audit import Audit
from appliance.vault.limits import FailureLimit
from appliance.vault.openapi import openapi
from appliance.vault.tokens import Role, Token
from appliance.vault.vault import LARGEST_BYTES, Vault
from core.errors import ForbiddenError, FormatError, RefloatError, SiteFullError
from imager.sites.base import ObjectInfo

_BYTES = "application/octet-stream"
_CHUNK_BYTES = 1 << 20
_LISTED = 1000
_DIGEST, _RECEIVED = "blake3=", "Refloat-Received"
#: Where the fault is the caller's; else what the error's class says.
_STATUS = {"format": 400, "corrupt": 422, "config": 400}
#: A sender that is silent for so long is given up, in seconds: it holds one of the threads.
_SILENCE = 60.0


def create_app(vault: Vault, audit: Audit, limit: FailureLimit | None = None) -> Flask:
    """The WSGI application."""
    app = Flask(__name__, static_folder=None)
    failures = limit or FailureLimit()

    @app.before_request
    def require_token() -> Response | None:
        if request.path == "/openapi.json":
            return None
        connection = request.environ.get("gunicorn.socket")
        if connection is not None:
            connection.settimeout(_SILENCE)
        address = request.remote_addr or ""
        wait = failures.wait_seconds(address)
        if wait:
            return _problem(429, "too-many", "too many wrong tokens from this address", retry_after=round(wait) + 1)
        scheme, _, presented = request.headers.get("Authorization", "").partition(" ")
        token = vault.tokens.find(presented.strip()) if scheme.lower() == "bearer" else None
        if token is None:
            failures.failed(address)
            audit.write("refused", address=address, path=request.path)
            return _problem(401, "token", "no token, or not one that counts here", "see `refloat vault tokens`")
        g.token = token
        return None

    @app.errorhandler(RefloatError)
    def refuse(error: RefloatError) -> Response:
        _drain()
        if isinstance(error, SiteFullError | ForbiddenError):
            _note(audit, "refused", request.path, code=error.code)
        return _problem(_STATUS.get(error.code, error.http_status), error.code, error.message, error.hint)

    @app.errorhandler(404)
    @app.errorhandler(405)
    def no_route(_error: object) -> Response:
        return _problem(404, "missing", "there is no such route", "see /openapi.json")

    @app.put("/v1/objects/<path:name>")
    def put(name: str) -> Response:
        size = request.content_length
        if size is None:
            return _problem(411, "usage", "a body needs its Content-Length")
        digest = request.headers.get("Refloat-Digest", "")
        if not re.fullmatch(_DIGEST + "[0-9a-f]{64}", digest):
            raise FormatError("a body needs its digest", hint="Refloat-Digest: blake3=HEX")
        vault.put(_token(), name, size, digest.removeprefix(_DIGEST), request.stream.read)
        _note(audit, "put", name, size_bytes=size)
        return Response(status=201)

    @app.get("/v1/objects/<path:name>")
    def get(name: str) -> Response:
        info = vault.stat(_token(), name)
        size = info.size_bytes
        try:
            wanted = _range(request.headers.get("Range"), size)
        except ValueError:
            return _problem(416, "range", f"{name} has {size} bytes")
        start, end = wanted or (0, size)
        headers = {
            "Content-Length": str(end - start),
            "Content-Type": "application/octet-stream",
            "Accept-Ranges": "bytes",
            _RECEIVED: _time(info),
        }
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        if request.method == "HEAD":
            return Response(headers=headers)
        body = _pieces(vault, _token(), name, start, end)
        return Response(body, status=206 if wanted else 200, headers=headers, direct_passthrough=True)

    @app.delete("/v1/objects/<path:name>")
    def delete(name: str) -> Response:
        vault.delete(_token(), name)
        _note(audit, "delete", name)
        return Response(status=204)

    @app.get("/v1/list")
    def listing() -> Response:
        limit = min(max(request.args.get("limit", _LISTED, type=int), 1), _LISTED)
        found = vault.list(_token(), request.args.get("prefix", ""), request.args.get("after", ""))
        rows = list(islice(found, limit + 1))
        objects = [{"name": row.name, "size_bytes": row.size_bytes, "received": _time(row)} for row in rows[:limit]]
        return _json({"objects": objects, "more": len(rows) > limit})

    @app.get("/v1/self")
    def about() -> Response:
        token = _token()
        used = vault.used_bytes(token.server) if token.server and token.role is Role.SERVER else None
        return _json(
            {
                "vault": vault.id,
                "role": token.role,
                "server": token.server,
                "used_bytes": used,
                "quota_bytes": vault.tokens.quota_bytes(token.server) or None,
                "time": vault.time(),
            }  # fmt: skip
        )

    @app.get("/openapi.json")
    def description() -> Response:
        return _json(openapi())

    return app


def _token() -> Token:
    token: Token = g.token
    return token


def _drain() -> None:
    """Take what is left of a refused body: who is still sending would not hear the answer."""
    if request.method == "PUT" and (request.content_length or 0) <= LARGEST_BYTES:
        with contextlib.suppress(OSError):
            while request.stream.read(_CHUNK_BYTES):
                pass


def _note(audit: Audit, what: str, name: str, **more: object) -> None:
    token = _token()
    audit.write(what, token=token.id, role=token.role, address=request.remote_addr, name=name, **more)


def _pieces(vault: Vault, token: Token, name: str, start: int, end: int) -> Iterator[bytes]:
    while start < end:
        size = min(_CHUNK_BYTES, end - start)
        yield vault.get(token, name, start, size)
        start += size


def _range(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last that are wanted (RFC 9110, 14.1.2); None: all. ValueError: none such."""
    match = re.fullmatch(r"bytes=([0-9]{1,20})-([0-9]{0,20})", header or "")
    if match is None:
        return None
    start, end = int(match[1]), min(int(match[2]) + 1 if match[2] else size, size)
    if start >= end:
        raise ValueError("no such range")
    return start, end


def _time(info: ObjectInfo) -> str:
    return info.received.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(body: Any, status: int = 200, kind: str = "application/json") -> Response:
    return Response(msgspec.json.encode(body), status=status, content_type=kind)


def _problem(status: int, code: str, message: str, hint: str | None = None, retry_after: int = 0) -> Response:
    body = {"title": message, "status": status, "code": code, "message": message, "hint": hint}
    answer = _json(body, status, "application/problem+json")
    if retry_after:
        answer.headers["Retry-After"] = str(retry_after)
    return answer
