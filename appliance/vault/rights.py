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
    if verb is Verb.DELETE or (verb is Verb.PUT and token.role is not Role.SERVER):
        return False
    if not token.server:
        return verb is Verb.READ
    own = f"servers/{token.server}/"
    if verb is Verb.READ:
        return name.startswith(own)
    rest = name.removeprefix(own)
    return rest != name and (rest == "server.json" or rest.partition("/")[0] in _APPENDED and "/" in rest)
