"""What a token may do with which object: the table in `docs/vault.md`. Pure; imports `appliance.vault.tokens`."""

from __future__ import annotations

from enum import StrEnum

from appliance.vault.tokens import Role, Token

_APPENDED = ("packs", "maps", "images", "archives")


class Verb(StrEnum):
    """The five, as the vault tells them apart: reading is get, list and stat."""

    PUT = "put"
    READ = "read"
    DELETE = "delete"


def may(token: Token, verb: Verb, name: str) -> bool:
    """Whether `token` may do this with the object `name` (for a list: with everything below the folder `name`)."""
    if token.role is Role.OPERATOR:
        return True
    if verb is Verb.DELETE or (token.server and not name.startswith(f"servers/{token.server}/")):
        return False
    if verb is Verb.READ:
        return True
    top, _, rest = name.partition("/")
    folder, _, below = rest.partition("/")[2].partition("/")
    if token.role is Role.RESTORE:
        return top == "servers" and folder == "leases" and bool(below)
    return folder == "server.json" and not below or folder in _APPENDED and bool(below)
