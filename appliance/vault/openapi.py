"""The vault's routes for machines: OpenAPI 3.1, the table of `docs/vault.md`. Constant data; imports nothing."""

from __future__ import annotations

from typing import Any

_ANSWERS = {
    400: "not a request this vault understands", 401: "no token that counts", 403: "not for this token",
    404: "not here", 409: "the name is taken", 411: "no length", 416: "no such range", 422: "not what its digest says",
    429: "too many wrong tokens", 507: "full, or over the quota",
}  # fmt: skip
_NAME = {
    "name": "name",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1, "maxLength": 1000},
}


def openapi() -> dict[str, Any]:
    """The document."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Refloat vault", "version": "1"},
        "security": [{"token": []}],
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}, "schemas": _SCHEMAS},
        "paths": {
            "/v1/objects/{name}": {"parameters": [_NAME], **_OBJECT},
            "/v1/list": {"get": _LIST},
            "/v1/self": {"get": _SELF},
        },
    }


def _answers(good: dict[int, dict[str, Any]], *bad: int) -> dict[str, Any]:
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    told = {status: {"description": _ANSWERS[status], "content": problem} for status in sorted({401, 429, *bad})}
    return {str(status): answer for status, answer in (good | told).items()}


def _some(what: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"description": what, "content": content}


def _header(name: str, pattern: str, *, required: bool) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": required, "schema": {"type": "string", "pattern": pattern}}


def _query(name: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema}


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


_TEXT = {"type": "string"}
_TIME = {"type": "string", "format": "date-time"}
_COUNT = {"type": "integer"}
_SIZE = {"type": ["integer", "null"]}
_SCHEMAS: dict[str, Any] = {
    "Problem": {
        "type": "object",
        "required": ["title", "status", "code", "message"],
        "properties": {
            "title": _TEXT, "status": _COUNT, "code": _TEXT, "message": _TEXT, "hint": {"type": ["string", "null"]},
        },
    },
    "Page": {
        "type": "object",
        "required": ["objects", "more"],
        "properties": {
            "objects": {
                "type": "array",
                "maxItems": 1000,
                "items": {
                    "type": "object",
                    "required": ["name", "size_bytes", "received"],
                    "properties": {"name": _TEXT, "size_bytes": _COUNT, "received": _TIME},
                },
            },
            "more": {"type": "boolean"},
        },
    },
    "Self": {
        "type": "object",
        "required": ["vault", "role", "server", "time"],
        "properties": {
            "vault": _TEXT, "role": {"enum": ["server", "restore", "operator"]}, "server": _TEXT, "time": _TIME,
            "used_bytes": _SIZE, "quota_bytes": _SIZE,
        },
    },
}  # fmt: skip
_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_OBJECT: dict[str, Any] = {
    "put": {
        "operationId": "put",
        "parameters": [
            {
                "name": "Refloat-Digest",
                "in": "header",
                "required": True,
                "schema": {"type": "string", "pattern": "^blake3=[0-9a-f]{64}$"},
            }
        ],
        "requestBody": {"required": True, "content": _BYTES},
        "responses": _answers({201: {"description": "durable"}}, 400, 403, 404, 409, 411, 422, 507),
    },
    "get": {
        "operationId": "get",
        "parameters": [
            {
                "name": "Range",
                "in": "header",
                "required": False,
                "schema": {"type": "string", "pattern": "^bytes=[0-9]+-[0-9]*$"},
            }
        ],
        "responses": _answers(
            {200: {"description": "all of it", "content": _BYTES}, 206: {"description": "a part", "content": _BYTES}},
            400,
            404,
            416,
        ),
    },
    "delete": {"operationId": "delete", "responses": _answers({204: {"description": "gone"}}, 400, 403, 404)},
}
_LIST: dict[str, Any] = {
    "operationId": "list",
    "parameters": [
        _query("prefix", type="string", maxLength=1000), _query("after", type="string", maxLength=1000),
        _query("limit", type="integer", minimum=1, maximum=1000),
    ],
    "responses": _answers({200: _some("names in order", _json("Page"))}, 400),
}  # fmt: skip
_SELF: dict[str, Any] = {
    "operationId": "self", "responses": _answers({200: _some("who asks, and whom", _json("Self"))}),
}  # fmt: skip
