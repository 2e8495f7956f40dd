"""Who may do what: tokens, rights, and the limit on wrong tokens."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from appliance.vault.limits import FAILURES, WITHIN_SECONDS, FailureLimit
from appliance.vault.rights import Verb, may
from appliance.vault.tokens import Role, Token, Tokens
from core.errors import ConfigError, FormatError

OWN = [f"servers/web1/{rest}" for rest in ("packs/ab/x", "maps/x", "images/t.json", "archives/t/p", "server.json")]
KEPT = [
    f"servers/web1/{rest}" for rest in ("receipts/t.json", "moved/x", "trash/x", "keep/x", "leases/x", "packs", "x")
]
OTHERS = ["servers/web10/packs/ab/x", "servers/web2/images/t.json", "refloat-site.json", "servers/web1", "x"]


def _token(role: Role, server: str = "") -> Token:
    return Token(id="x" * 12, role=role, server=server, secret="0" * 64, made_at="2026-11-23T00:00:00Z")


def test_a_server_appends_and_reads_its_own() -> None:
    token = _token(Role.SERVER, "web1")
    assert all(may(token, Verb.PUT, name) for name in OWN)
    assert not any(may(token, Verb.PUT, name) for name in (*KEPT, *OTHERS))
    assert all(may(token, Verb.READ, name) for name in (*OWN, *KEPT))
    assert not any(may(token, Verb.READ, name) for name in OTHERS)
    assert not any(may(token, Verb.DELETE, name) for name in (*OWN, *KEPT, *OTHERS))


def test_a_restore_reads_and_leaves_leases() -> None:
    one, fleet = _token(Role.RESTORE, "web1"), _token(Role.RESTORE)
    assert all(may(one, Verb.READ, name) for name in (*OWN, *KEPT)) and not any(may(one, Verb.READ, n) for n in OTHERS)
    assert all(may(fleet, Verb.READ, name) for name in (*OWN, *KEPT, *OTHERS))
    for token in (one, fleet):
        assert [n for n in (*OWN, *KEPT, *OTHERS) if may(token, Verb.PUT, n)] == ["servers/web1/leases/x"]
        assert not any(may(token, Verb.DELETE, name) for name in (*OWN, *KEPT, *OTHERS))
    assert may(fleet, Verb.PUT, "servers/web2/leases/x") and not may(one, Verb.PUT, "servers/web2/leases/x")


def test_an_operator_may_all() -> None:
    token = _token(Role.OPERATOR)
    assert all(may(token, verb, name) for verb in Verb for name in (*OWN, *KEPT, *OTHERS))


def test_tokens_are_shown_once_and_kept_as_hashes(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "tokens.json", lambda: datetime(2026, 11, 23, tzinfo=UTC))
    text = tokens.issue(Role.SERVER, "web1")
    found = tokens.find(text)
    assert found is not None and (found.role, found.server) == (Role.SERVER, "web1")
    kept = (tmp_path / "tokens.json").read_text()
    assert text.split("_", 2)[2] not in kept and found.id in kept
    assert (tmp_path / "tokens.json").stat().st_mode & 0o777 == 0o600
    other = text[:-1] + ("A" if text[-1] != "A" else "B")
    assert not any(tokens.find(each) for each in (other, "", "rft_", text[4:], f" {text}", text + "x"))


def test_a_revoked_token_counts_no_more_anywhere(tmp_path: Path) -> None:
    here, there = Tokens(tmp_path / "tokens.json"), Tokens(tmp_path / "tokens.json")
    text = here.issue(Role.OPERATOR)
    found = there.find(text)
    assert found is not None
    here.revoke(found.id)
    assert there.find(text) is None and here.all()[0].revoked_at
    with pytest.raises(ConfigError):
        here.revoke("nobody")


def test_quotas_are_a_servers(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "tokens.json")
    tokens.set_quota("web1", 5)
    tokens.issue(Role.SERVER, "web1")
    assert (tokens.quota_bytes("web1"), tokens.quota_bytes("web2")) == (5, 0)
    tokens.set_quota("web1", 0)
    assert tokens.quota_bytes("web1") == 0 and len(tokens.all()) == 1


@pytest.mark.parametrize(("role", "server"), [(Role.SERVER, ""), (Role.SERVER, "../x"), (Role.RESTORE, "A")])
def test_names_that_cannot_be(role: Role, server: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Tokens(tmp_path / "tokens.json").issue(role, server)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"refloat":"kit","version":1}', '{"refloat":"vault-tokens","version":2}']
)
def test_a_broken_list_lets_nobody_in(text: str, tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "tokens.json")
    made = tokens.issue(Role.OPERATOR)
    (tmp_path / "tokens.json").write_text(text)
    with pytest.raises(FormatError):
        tokens.find(made)


def test_who_fails_waits() -> None:
    now = [0.0]
    limit = FailureLimit(lambda: now[0])
    for _ in range(FAILURES):
        assert limit.wait_seconds("a") == 0
        limit.failed("a")
        now[0] += 1
    assert limit.wait_seconds("a") == WITHIN_SECONDS - FAILURES and limit.wait_seconds("b") == 0
    now[0] = WITHIN_SECONDS + 0.5
    assert limit.wait_seconds("a") == 0
