"""The recovery kit as a value: what goes in comes out, what is foreign is refused, what is missing is told."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.check import Status
from appliance.config import Config, SiteConfig
from appliance.kit import (
    Kit,
    KitServer,
    KitSite,
    decode_kit,
    extend,
    new_identity,
    new_kit,
    open_kit,
    parse_server,
    seal_kit,
)
from appliance.kitpage import CODES_MAX, code_texts, printable
from appliance.receipt import compare_kit, decode_receipt, encode_receipt, receipt_of
from core.errors import ConfigError, FormatError, KeyMissingError, RefloatError, VersionError

DATA = Path(__file__).parent / "data"
NOW, LATER = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), datetime(2026, 2, 2, tzinfo=UTC)
PASSPHRASE = "correct horse battery"
PIN = "web1:" + "0a" * 16 + ":SHA256:" + "A" * 43
SERVER = parse_server(PIN)
SITES = (
    KitSite(name="de", country="DE", url="file:///de", addresses=("192.0.2.1",), credentials={"token": "s3cret-token"}),
    KitSite(name="fr", country="FR", url="file:///fr"),
)
KIT = new_kit([new_identity()], servers=[SERVER], sites=SITES, now=NOW)
TEXT = seal_kit(KIT, PASSPHRASE, work=2)
PLAIN = msgspec.json.encode(KIT)


def test_round_trip_and_no_secret_in_the_open() -> None:
    assert open_kit(TEXT, PASSPHRASE) == KIT
    for shown in (TEXT, printable(TEXT, receipt_of(KIT, TEXT)), encode_receipt(receipt_of(KIT, TEXT)).decode()):
        assert KIT.identities[0] not in shown and "AGE-SECRET" not in shown and "s3cret-token" not in shown


def test_version_1_still_opens() -> None:
    """The file stands for kits in safes: this test never changes, whatever later versions write."""
    kit = open_kit((DATA / "version1.kit").read_text(), PASSPHRASE)
    assert msgspec.to_builtins(kit) == msgspec.to_builtins(
        msgspec.json.decode((DATA / "version1.json").read_bytes(), type=Kit)
    )
    assert kit.keys().secrets


def test_short_passphrases_are_refused() -> None:
    with pytest.raises(ConfigError, match="shorter than 12"):
        seal_kit(KIT, "elevenchars")


def test_extending_keeps_what_old_images_need() -> None:
    newer = KitServer(name="web1", id="0b" * 16, fingerprint="SHA256:" + "B" * 43)
    second = new_identity()
    moved = KitSite(name="fr", country="FR", url="file:///fr2")
    kit = extend(KIT, identities=[second], servers=[newer, SERVER], sites=[moved], now=LATER)
    assert kit.servers == (SERVER, newer)
    assert [site.url for site in kit.sites] == ["file:///de", "file:///fr2"]
    assert kit.identities == (*KIT.identities, second) and len(kit.recipients) == 2
    assert (kit.created_at, kit.updated_at) == ("2026-01-02T03:04:05Z", "2026-02-02T00:00:00Z")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "web1",
        "web1:xx:SHA256:" + "A" * 43,
        "Web1:" + "0a" * 16 + ":SHA256:" + "A" * 43,
        PIN[:-1],
        PIN + "A",
        PIN + ":x",
    ],
)
def test_pins_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="not a server's pin"):
        parse_server(text)


def test_a_pin_reads_back() -> None:
    assert str(parse_server(f" {PIN}\n")) == PIN


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"refloat": "receipt"}, FormatError, "not a recovery kit"),
        ({"version": 2}, VersionError, "version 2"),
        ({"version": "1"}, FormatError, "wrong form"),
        ({"extra": 1}, FormatError, "wrong form"),
        ({"identities": []}, FormatError, "recipients are not those"),
        ({"identities": ["AGE-SECRET-KEY-1X"]}, FormatError, "no identity"),
        ({"recipients": ["age1x"]}, FormatError, "recipients are not those"),
        (
            {"servers": [{"name": "../x", "id": "0a" * 16, "fingerprint": "SHA256:" + "A" * 43}]},
            FormatError,
            "wrong form",
        ),
        ({"servers": [{"name": "x", "id": "0a" * 16, "fingerprint": "MD5:00"}]}, FormatError, "wrong form"),
        ({"sites": [{"name": "x", "country": "Germany", "url": "file:///x"}]}, FormatError, "wrong form"),
        ({"sites": [{"name": "x", "country": "DE", "url": "a\nb"}]}, FormatError, "wrong form"),
        ({"created_at": "yesterday"}, FormatError, "wrong form"),
    ],
)
def test_foreign_contents(change: dict[str, object], error: type[RefloatError], message: str) -> None:
    """Sealed is not trusted: whoever made the file knew the passphrase, that is all."""
    with pytest.raises(error, match=message):
        decode_kit(json.dumps({**json.loads(PLAIN), **change}).encode())


@given(
    st.binary(max_size=200)
    | st.tuples(st.integers(0, len(PLAIN)), st.binary(max_size=8)).map(lambda x: PLAIN[: x[0]] + x[1] + PLAIN[x[0] :])
)
def test_any_plaintext_gives_a_kit_or_our_error(data: bytes) -> None:
    try:
        assert decode_kit(data).keys().secrets
    except RefloatError as error:
        assert error.message


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "id", "url", "country"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.sampled_from(sorted(json.loads(PLAIN))), _JSON)
def test_any_field_swapped_gives_a_kit_or_our_error(field: str, value: object) -> None:
    for decode, encoded in ((decode_kit, PLAIN), (decode_receipt, encode_receipt(receipt_of(KIT, TEXT)))):
        try:
            decode(json.dumps({**json.loads(encoded), field: value}).encode())
        except RefloatError as error:
            assert error.message


@given(st.binary(max_size=100))
def test_any_bytes_are_no_receipt(data: bytes) -> None:
    with pytest.raises((FormatError, VersionError)):
        decode_receipt(data)


def test_deep_nesting_is_refused() -> None:
    for decode in (decode_kit, decode_receipt):
        with pytest.raises(FormatError):
            decode(b'{"refloat":' + b"[" * 500_000)


def test_too_large_a_fleet() -> None:
    servers = [KitServer(name=f"web{n}", id=f"{n:032x}", fingerprint="SHA256:" + "A" * 43) for n in range(8000)]
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        seal_kit(extend(KIT, servers=servers, now=NOW), PASSPHRASE, work=2)


# The kit against a server


def _config(
    *, recipients: tuple[str, ...] = KIT.recipients, sites: tuple[tuple[str, str, str], ...] | None = None
) -> Config:
    places = sites if sites is not None else tuple((site.name, site.country, site.url) for site in SITES)
    return Config(
        server="web1",
        state="/s",
        recipients=recipients,
        sites=tuple(SiteConfig(name=name, country=country, url=url) for name, country, url in places),
    )


OPENED = receipt_of(KIT, TEXT, opened=LATER)
OTHER = KitServer(name="web1", id="0c" * 16, fingerprint="SHA256:" + "C" * 43)


def test_a_kit_that_holds_everything() -> None:
    found = compare_kit(OPENED, _config(), SERVER)
    assert [each.status for each in found] == [Status.OK]


@pytest.mark.parametrize(
    ("config", "server", "status", "message"),
    [
        (_config(recipients=("age1other",)), SERVER, Status.FAIL, "opens none of the images"),
        (_config(recipients=(*KIT.recipients, "age1other")), SERVER, Status.WARN, "does not hold recipient age1other"),
        (_config(), OTHER, Status.FAIL, "older than this server's keys"),
        (
            _config(sites=(("de", "DE", "file:///de"), ("at", "AT", "file:///at"))),
            SERVER,
            Status.FAIL,
            "older than site at",
        ),
        (_config(sites=(("de", "DE", "file:///moved"),)), SERVER, Status.FAIL, "site de has moved"),
        (_config(sites=(("de", "AT", "file:///de"),)), SERVER, Status.FAIL, "site de has moved"),
    ],
)
def test_a_kit_that_is_too_old(config: Config, server: KitServer, status: Status, message: str) -> None:
    found = compare_kit(OPENED, config, server)
    assert [each.status for each in found] == [status]
    assert message in found[0].message and found[0].hint


def test_a_kit_nobody_has_opened() -> None:
    found = compare_kit(receipt_of(KIT, TEXT), _config(), SERVER)
    assert [each.status for each in found] == [Status.WARN]
    assert "nobody has opened" in found[0].message


def test_receipts_read_back_and_change_with_a_token() -> None:
    receipt = receipt_of(KIT, TEXT)
    assert decode_receipt(encode_receipt(receipt)) == receipt
    changed = msgspec.structs.replace(SITES[0], credentials={"token": "another"})
    other = receipt_of(extend(KIT, sites=[changed], now=NOW), TEXT)
    assert receipt.sites[0].tokens["token"] != other.sites[0].tokens["token"]


# On paper


def test_the_codes_joined_are_the_kit() -> None:
    assert open_kit("".join(code_texts(TEXT)), PASSPHRASE) == KIT
    page = printable(TEXT, OPENED)
    assert page.count("<svg") == len(code_texts(TEXT)) > 1
    for line in TEXT.splitlines():
        assert line in page


def test_the_page_stands_alone_and_escapes() -> None:
    site = KitSite(name="de", country="DE", url="file:///<script>alert(1)</script>")
    kit = extend(KIT, sites=[site], now=NOW)
    page = printable(TEXT, receipt_of(kit, TEXT))
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "src=" not in page and "href=" not in page


def test_a_kit_too_large_for_paper_is_said_to_be() -> None:
    servers = [KitServer(name=f"web{n}", id=f"{n:032x}", fingerprint="SHA256:" + "A" * 43) for n in range(200)]
    kit = extend(KIT, servers=servers, now=NOW)
    text = seal_kit(kit, PASSPHRASE, work=2)
    assert len(code_texts(text)) > CODES_MAX
    page = printable(text, receipt_of(kit, text))
    assert "<svg" not in page and "too many for paper" in page and "web199" in page


def test_wrong_passphrase() -> None:
    with pytest.raises(KeyMissingError):
        open_kit(TEXT, "Correct horse battery")
