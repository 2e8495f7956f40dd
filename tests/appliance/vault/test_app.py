"""The vault's routes, asked as a client would, without a network: rights, digests, quotas, receipts, the audit log."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from appliance.vault.app import create_app
from appliance.vault.audit import Audit
from appliance.vault.limits import FAILURES
from appliance.vault.tokens import Role
from appliance.vault.vault import LARGEST_BYTES, Vault

BODY = b"sealed bytes"
PACK = f"servers/web1/packs/{blake3(BODY).hexdigest()[:2]}/{blake3(BODY).hexdigest()}"
IMAGE = "servers/web1/images/20261123T020000Z.json"


@dataclass
class Asked:
    vault: Vault
    client: FlaskClient
    folder: Path

    def __call__(self, verb: str, path: str, token: str = "", **more: Any) -> TestResponse:
        headers = {**more.pop("headers", {}), **({"Authorization": f"Bearer {token}"} if token else {})}
        return self.client.open(path, method=verb, headers=headers, **more)

    def put(self, name: str, token: str, body: bytes = BODY, digest: str = "") -> TestResponse:
        told = {"Refloat-Digest": f"blake3={digest or blake3(body).hexdigest()}"}
        return self("PUT", f"/v1/objects/{name}", token, data=body, headers=told)

    def audit(self) -> list[dict[str, Any]]:
        return [
            json.loads(line) for path in (self.folder / "audit").glob("*") for line in path.read_text().splitlines()
        ]


@pytest.fixture
def ask(tmp_path: Path) -> Asked:
    vault = Vault(tmp_path)
    vault.open()
    return Asked(vault, create_app(vault, Audit(tmp_path / "audit")).test_client(), tmp_path)


ROUTES = [
    ("PUT", f"/v1/objects/{PACK}"), ("GET", f"/v1/objects/{PACK}"), ("HEAD", f"/v1/objects/{PACK}"),
    ("DELETE", f"/v1/objects/{PACK}"), ("GET", "/v1/list"), ("GET", "/v1/self"),
]  # fmt: skip


def test_every_route_wants_a_token(ask: Asked) -> None:
    described = ask("GET", "/openapi.json").get_json()["paths"]
    assert {path for path in described} == {"/v1/objects/{name}", "/v1/list", "/v1/self"}
    rules = {(rule.rule, verb) for rule in ask.client.application.url_map.iter_rules() for verb in rule.methods or ()}
    asked = {("/v1/objects/<path:name>" if "objects" in path else path, verb) for verb, path in ROUTES}
    assert {each for each in rules if each[1] != "OPTIONS"} - asked == {
        ("/openapi.json", "GET"), ("/openapi.json", "HEAD"), ("/v1/list", "HEAD"), ("/v1/self", "HEAD"),
    }  # fmt: skip


@pytest.mark.parametrize(("verb", "path"), ROUTES, ids=lambda text: text[:8])
@pytest.mark.parametrize("token", ["", "rft_AAAAAAAAAAAA_" + "A" * 43], ids=["none", "wrong"])
def test_without_a_token_nothing_is_told(ask: Asked, verb: str, path: str, token: str) -> None:
    assert ask.put(PACK, ask.vault.tokens.issue(Role.SERVER, "web1")).status_code == 201
    assert ask(verb, path, token).status_code == 401
    assert ask.audit()[-1]["what"] == "refused"
    assert ask.vault.site.get(PACK) == BODY


@pytest.mark.parametrize(("verb", "path"), ROUTES[:4], ids=lambda text: text[:8])
def test_another_servers_token_sees_and_changes_nothing(ask: Asked, verb: str, path: str) -> None:
    ask.put(PACK, ask.vault.tokens.issue(Role.SERVER, "web1"))
    other = ask.vault.tokens.issue(Role.SERVER, "web2")
    answer = ask.put(PACK, other) if verb == "PUT" else ask(verb, path, other)
    assert answer.status_code == (404 if verb in ("GET", "HEAD") else 403)
    assert ask("GET", "/v1/list", other).get_json() == {"objects": [], "more": False}
    assert ask("GET", "/v1/list?prefix=servers/web1/", other).get_json() == {"objects": [], "more": False}
    assert ask.vault.site.get(PACK) == BODY


def test_a_server_can_neither_delete_nor_overwrite(ask: Asked) -> None:
    token = ask.vault.tokens.issue(Role.SERVER, "web1")
    assert ask.put(IMAGE, token).status_code == 201
    assert ask.put(IMAGE, token, b"other").status_code == 409
    assert ask("DELETE", f"/v1/objects/{IMAGE}", token).status_code == 403
    assert ask.put("servers/web1/receipts/20261123T020000Z.json", token).status_code == 403
    assert ask.vault.site.get(IMAGE) == BODY
    operator = ask.vault.tokens.issue(Role.OPERATOR)
    assert ask("DELETE", f"/v1/objects/{IMAGE}", operator).status_code == 204
    assert [each["what"] for each in ask.audit()] == ["put", "refused", "refused", "delete"]


def test_a_body_is_what_its_name_and_digest_say(ask: Asked) -> None:
    token = ask.vault.tokens.issue(Role.SERVER, "web1")
    assert ask.put(PACK, token, b"another").status_code == 422
    assert ask.put(IMAGE, token, b"one", blake3(b"two").hexdigest()).status_code == 422
    assert ask("PUT", f"/v1/objects/{IMAGE}", token, data=b"one").status_code == 400
    assert list(ask.vault.site.list()) == [] and ask.vault.used_bytes("web1") == 0
    assert ask.put(IMAGE, token, bytes(LARGEST_BYTES + 1)).status_code == 422


def test_a_manifest_gets_a_receipt_by_the_vaults_clock(ask: Asked) -> None:
    token = ask.vault.tokens.issue(Role.SERVER, "web1")
    assert ask.put(IMAGE, token).status_code == 201
    receipt = json.loads(ask.vault.site.get("servers/web1/receipts/20261123T020000Z.json"))
    assert (receipt["image"], receipt["digest"]) == ("20261123T020000Z", blake3(BODY).hexdigest())
    assert receipt["vault"] == ask.vault.id and receipt["received"].endswith("Z")


def test_a_quota_is_kept(ask: Asked) -> None:
    token = ask.vault.tokens.issue(Role.SERVER, "web1")
    ask.vault.tokens.set_quota("web1", 20)
    assert ask.put(PACK, token).status_code == 201
    answer = ask.put(IMAGE, token, b"nine more")
    assert answer.status_code == 507 and "quota" in answer.get_json()["hint"]
    assert ask.put(IMAGE, token, b"8 bytes.").status_code == 201
    about = ask("GET", "/v1/self", token).get_json()
    assert (about["used_bytes"], about["quota_bytes"], about["role"], about["server"]) == (20, 20, "server", "web1")
    assert ask.put("servers/web2/packs/x/y", ask.vault.tokens.issue(Role.SERVER, "web2")).status_code == 201


def test_ranges(ask: Asked) -> None:
    token = ask.vault.tokens.issue(Role.SERVER, "web1")
    ask.put(PACK, token)
    got = {each: ask("GET", f"/v1/objects/{PACK}", token, headers={"Range": each}) for each in (
        "bytes=0-", "bytes=2-3", "bytes=7-99", "bytes=12-", "bytes=3-2", "lines=1-2", "bytes=x",
    )}  # fmt: skip
    assert [answer.status_code for answer in got.values()] == [206, 206, 206, 416, 416, 200, 200]
    assert [got[each].data for each in ("bytes=0-", "bytes=2-3", "bytes=7-99")] == [BODY, BODY[2:4], BODY[7:]]
    assert got["bytes=2-3"].headers["Content-Range"] == f"bytes 2-3/{len(BODY)}"


def test_a_list_is_paged(ask: Asked) -> None:
    token = ask.vault.tokens.issue(Role.OPERATOR)
    names = [f"servers/web1/{folder}/{n}" for folder in ("maps", "packs/00", "packs/01") for n in range(3)]
    for name in [*names, "servers/web10/maps/0", "servers/web1.json"]:
        ask.put(name, token)
    found, after = [], ""
    while True:
        page = ask("GET", f"/v1/list?prefix=servers/web1/&limit=2&after={after}", token).get_json()
        found += [row["name"] for row in page["objects"]]
        if not page["more"]:
            break
        after = found[-1]
    assert found == names


def test_wrong_tokens_from_one_address_wait(ask: Asked) -> None:
    good = ask.vault.tokens.issue(Role.OPERATOR)
    for _ in range(FAILURES):
        assert ask("GET", "/v1/self", "rft_x").status_code == 401
    answer = ask("GET", "/v1/self", good)
    assert answer.status_code == 429 and int(answer.headers["Retry-After"]) > 0
    assert ask("GET", "/v1/self", good, environ_base={"REMOTE_ADDR": "192.0.2.7"}).status_code == 200


def test_hostile_names_are_refused(ask: Asked) -> None:
    token = ask.vault.tokens.issue(Role.OPERATOR)
    for name in ("../x", "a/../b", ".vault/tokens.json", "a%2f..%2fb", "a//b", "%00", "a" * 1001):
        for verb in ("PUT", "GET", "DELETE"):
            answer = ask.put(name, token) if verb == "PUT" else ask(verb, f"/v1/objects/{name}", token)
            assert answer.status_code in (308, 400, 404), (verb, name)
    assert list(ask.vault.site.list()) == []
