"""Hostile bytes, well signed and well sealed: only our own errors come out, in bounded time and memory.

A pinned server can sign anything, so the mutations here are structured: whole JSON trees, tables with counts that
fit, frames sealed with the right key. Raw bytes are left to `tests/fuzz`.
"""

from __future__ import annotations

import json
import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.config import Config
from appliance.image import ImageOptions, take_image
from appliance.seal import seal
from core.errors import ConfigError, CorruptError, FormatError, RefloatError, VersionError
from core.monitor import Monitor
from core.run import SystemRunner
from imager.keys import Identities, ServerKeys, seal_key
from imager.repository.manifest import MANIFEST_MAX, decode_manifest, open_envelope
from imager.repository.segments import DATA, Segment, digest_of
from imager.sites.base import check_name
from imager.spans import BLOCK_BYTES
from tests.fuzz.targets import (
    BODY,
    CARD,
    IDENTITY,
    IMAGE,
    KEY_ID,
    PACK,
    PIN,
    SEGMENT,
    SERVER_ID,
    TARGETS,
    frame,
    sign,
    walk_image,
)

SECONDS = 2.0
HOSTILE_NAMES = (
    "", ".", "..", "../../etc/passwd", "/etc/passwd", "a/b", "a\\b", "a\0b", "-rf", ".hidden", "x" * 5000, "é", "٣",
    "\x1b[2J", "vda", "latest", " ", "a\nb",
)  # fmt: skip
HOSTILE_NUMBERS = (
    -1,
    0,
    1,
    15,
    16,
    511,
    1 << 31,
    1 << 32,
    (1 << 47) - 1,
    1 << 47,
    1 << 63,
    1 << 64,
    10**30,
    -(1 << 63),
)

values = st.recursive(
    st.sampled_from(HOSTILE_NAMES) | st.sampled_from(HOSTILE_NUMBERS) | st.none() | st.booleans() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(HOSTILE_NAMES), inner, max_size=3),
    max_leaves=4,
)


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON tree, as a path of keys and indices."""
    found = [path] if path else []
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in inner:
        found += places(value, (*path, key))
    return found


PLACES = places(json.loads(BODY))


def _has(tree: Any, key: Any) -> bool:
    if isinstance(tree, list):
        return isinstance(key, int) and key < len(tree)
    return isinstance(tree, dict) and key in tree


def mutate(tree: Any, path: tuple[Any, ...], how: str, value: Any) -> None:
    """Put `value` at the place, or drop, double or swap what is there; a path that is gone by now is left."""
    for key in path[:-1]:
        if not _has(tree, key):
            return
        tree = tree[key]
    key = path[-1]
    if not _has(tree, key):
        return
    if how == "set":
        tree[key] = value
    elif how == "drop":
        del tree[key]
    elif isinstance(tree, list):
        tree.insert(key, json.loads(json.dumps(tree[key])))
    elif isinstance(tree[key], int):
        tree[key] = tree[key] * 65_537 + 1
    else:
        tree["more"] = value


mutations = st.lists(
    st.tuples(st.sampled_from(PLACES), st.sampled_from(("set", "set", "drop", "double")), values),
    min_size=1,
    max_size=3,
)


@given(mutations)
@settings(max_examples=600)
def test_any_manifest_that_a_pinned_server_signs(changes: list[tuple[tuple[Any, ...], str, Any]]) -> None:
    body = json.loads(BODY)
    for path, how, value in changes:
        mutate(body, path, how, value)
    began = time.monotonic()
    try:
        walk_image(sign("image", json.dumps(body)), [SEGMENT])
    except RefloatError as error:
        assert error.message
    assert time.monotonic() - began < SECONDS


def _body(**changes: Any) -> dict[str, Any]:
    return {**json.loads(BODY), **changes}


def _volume(**changes: Any) -> dict[str, Any]:
    volume = json.loads(BODY)["volumes"][0]
    return {**volume, **changes, "spec": {**volume["spec"], **changes.get("spec", {})}}


def _disk(**changes: Any) -> dict[str, Any]:
    disk = json.loads(BODY)["layout"]["disks"][0]
    part = changes.pop("part", None)
    if part is not None:
        disk["table"]["partitions"][0] |= part
    return {"disks": [{**disk, **changes}, json.loads(BODY)["layout"]["disks"][1]]}


def _segment(**changes: Any) -> list[list[dict[str, Any]]]:
    return [[{**json.loads(BODY)["layers"][0][0], **changes}]]


@pytest.mark.parametrize(
    "body",
    [
        _body(volumes=[*json.loads(BODY)["volumes"], _volume()]),
        _body(volumes=[_volume(), _volume(spec={"name": "other"})]),
        *(_body(volumes=[_volume(spec={"name": name})]) for name in ("", "..", "../x", "/x", "a/b", "a\0", ".x")),
        _body(volumes=[_volume(spec={"name": "x" * 121})]),
        *(_body(volumes=[_volume(spec={"size_bytes": size})]) for size in (-1, 0, 1 << 62, 1 << 64, 10**30)),
        *(_body(volumes=[_volume(spec={"offset_bytes": at})]) for at in (-1, 8 << 20, 1 << 63)),
        *(_body(volumes=[_volume(id=number)]) for number in (-1, 1 << 32)),
        _body(volumes=[_volume(spec={"disk": "nobody"})]),
        _body(volumes=[_volume(unreadable=[[-1, 5]])]),
        _body(volumes=[_volume(unreadable=[[0, 0]])]),
        _body(layout=_disk(name="../../dev/sda")),
        _body(layout=_disk(name="vdb")),
        *(_body(layout=_disk(size_bytes=size)) for size in (-1, 0, 1 << 64, 10**30)),
        *(_body(layout=_disk(sector_bytes=size)) for size in (-512, 0, 1, 513, 1 << 17)),
        *(_body(layout=_disk(part=part)) for part in (
            {"start_bytes": -1}, {"size_bytes": -1}, {"size_bytes": 1 << 60}, {"number": 0}, {"attrs": 1 << 64},
        )),
        _body(server={"name": "../web1", "id": SERVER_ID.hex()}),
        _body(server={"name": "web1", "id": "zz" * 16}),
        _body(layers=[[] for _ in range(300)]),
        _body(layers=_segment(items=0)),
        _body(layers=_segment(items=65_537)),
        _body(layers=_segment(size_bytes=1 << 40)),
        _body(layers=_segment(digest="../" * 21 + "x")),
        _body(layers=_segment(first=[5, 0], last=[4, 0])),
        _body(layers=[_segment()[0] * 2]),
        _body(note="x" * 5000),
        _body(keys={KEY_ID.hex(): "A" * (65 << 10)}),
        _body(parent={"image": "20270101T020000Z", "digest": "0" * 64}),
        _body(totals={"read_bytes": -1, "changed_bytes": 0, "stored_bytes": 0}),
    ],
)  # fmt: skip
def test_the_impossible_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        decode_manifest(sign("image", json.dumps(body)), image=IMAGE, pin=PIN)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 1_000_000,
        b'{"refloat":' + b"[" * 500_000,
        b'{"version":' + b"9" * 100_000 + b"}",
        b'{"version":' + b"9" * 4200 + b"}",
        b'{"version":2}',
        b'{"version":-1,"body":"\\ud800"}',
        b"\xff\xfe",
        b"",
        b"null",
        sign("image", "[" * 200_000),
        sign("image", '{"note":' + "{" * 200_000),
        sign("image", '{"note":' + "9" * 200_000),
        bytes(MANIFEST_MAX + 1),
    ],
    ids=range(13),
)
def test_no_form_of_json_hurts(data: bytes) -> None:
    began = time.monotonic()
    with pytest.raises((FormatError, VersionError)):
        open_envelope("image", data, None)
        decode_manifest(data, image=IMAGE, pin=None)
    assert time.monotonic() - began < SECONDS


@given(st.lists(st.tuples(st.integers(0, len(SEGMENT) - 1), st.sampled_from((0, 1, 2, 0x7F, 0x80, 0xFF))), max_size=8))
@settings(max_examples=400)
def test_any_segment_that_a_pinned_server_lists(changes: list[tuple[int, int]]) -> None:
    """Bytes changed, and the manifest made to list just this segment: overlaps, disorder, lies about frames."""
    spoilt = bytearray(SEGMENT)
    for at, value in changes:
        spoilt[at] = value
    _list_and_walk(bytes(spoilt))


def _list_and_walk(*segments: bytes, layers: bool = False) -> None:
    refs = []
    for data in segments:
        items = struct.unpack_from("<I", data, 44)[0]
        row = {**json.loads(BODY)["layers"][0][0], "digest": digest_of(data), "size_bytes": len(data), "items": items}
        refs.append(row)
    body = _body(layers=[[row] for row in refs] if layers else [refs])
    try:
        walk_image(sign("image", json.dumps(body)), segments)
    except RefloatError as error:
        assert error.message


items = st.lists(
    st.tuples(
        st.sampled_from([number["id"] for number in json.loads(BODY)["volumes"]] + [0, (1 << 32) - 1]),
        st.sampled_from((0, 1, 2, 3, 5, 15, 16, 63, (1 << 47) - 1, 1 << 47, (1 << 64) - 1)),
        st.sampled_from((0, 1, 2, 3, 16, 1000, (1 << 32) - 1)),
        st.sampled_from((0, 1, 2, 3, 255)),
        st.sampled_from((0, 1, 2, 15, 16, 255)),
    ),
    min_size=1,
    max_size=12,
)


def _made(rows: list[tuple[int, int, int, int, int]], ordered: bool) -> bytes:
    """A segment of these items behind the sample's tables, counts fitting."""
    packs, keys, frames, _ = struct.unpack_from("<IIII", SEGMENT, 32)
    tables = SEGMENT[64 : 64 + 40 * packs + 16 * keys + 64 * frames]
    head = struct.pack("<8sII16sIIII16x", b"REFLMAP\0", 1, 0, SERVER_ID, packs, keys, frames, len(rows))
    rows = sorted(rows) if ordered else rows
    body = bytearray()
    for volume, block, place, kind, slot in rows:
        data = (slot, 0, b"\1" * 32) if kind == DATA else (0, 0, b"")
        body += struct.pack("<IQIBBH32s", volume, block, place, kind, *data)
    return bytes(head + tables + body)


@given(st.lists(st.tuples(items, st.booleans()).map(lambda x: _made(*x)), min_size=1, max_size=4), st.booleans())
@settings(max_examples=400)
def test_layers_that_overlap_or_lie(segments: list[bytes], layers: bool) -> None:
    for data in segments:
        try:
            found = list(Segment(data).items())
            assert all(
                one.volume < two.volume or one.end <= two.block for one, two in zip(found, found[1:], strict=False)
            )
        except RefloatError:
            pass
    _list_and_walk(*segments, layers=layers)


@given(st.lists(st.tuples(st.integers(0, len(PACK) - 1), st.integers(0, 255)), max_size=6), st.integers(0, len(PACK)))
def test_any_pack(changes: list[tuple[int, int]], length: int) -> None:
    spoilt = bytearray(PACK)
    for at, value in changes:
        spoilt[at] = value
    TARGETS["pack"](bytes(spoilt[:length]))


ONE = bytes(range(256)) * 256


def _sized(size: int, *payload: bytes) -> bytes:
    """A zstd frame of `payload` whose header says `size` (RFC 8878, 3.1.1: single segment, 8-byte content size)."""
    stream = zstandard.ZstdCompressor(write_content_size=False, write_checksum=False).compressobj()
    plain = b"".join([*(stream.compress(part) for part in payload), stream.flush()])
    body = plain[6:]  # magic, descriptor, window
    return plain[:4] + b"\xe0" + struct.pack("<Q", size) + body


GIB = [bytes(1 << 20)] * 1024  # a MiB of memory
BOMBS: dict[str, Callable[[], bytes]] = {
    "1 GiB of zeros": lambda: _sized(1 << 30, *GIB),
    "1 GiB of zeros that says 64 KiB": lambda: _sized(BLOCK_BYTES, *GIB),
    "64 KiB that says 1 EiB": lambda: _sized(1 << 60, ONE),
    "no size": lambda: zstandard.ZstdCompressor(write_content_size=False).compress(ONE),
    "too short": lambda: _sized(BLOCK_BYTES, ONE[:-1]),
    "cut": lambda: zstandard.compress(ONE)[:-3],
    "no zstd": lambda: b"plain",
    "empty": lambda: b"",
    "a skippable frame first": lambda: struct.pack("<II", 0x184D2A50, 4) + b"skip" + zstandard.compress(ONE),
    "a dictionary that is nowhere": lambda: b"\x28\xb5\x2f\xfd\x21\x07\x00\x01",
    "a window of 2 GiB": lambda: zstandard.compress(ONE)[:4] + b"\x80\xa8" + struct.pack("<I", BLOCK_BYTES) + b"\1\0\0",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_frame_sealed_by_the_right_key_is_no_bomb(name: str) -> None:
    bomb = BOMBS[name]()
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    if name == "1 GiB of zeros that says 64 KiB":
        # zstd learns of the lie at the end only; what it gives until then is all there is room for
        TARGETS["frame"](b"\0" + bomb)
    else:
        with pytest.raises(CorruptError):
            frame(b"\0" + bomb)
    assert time.monotonic() - began < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_what_follows_a_frame_is_not_looked_at() -> None:
    for tail in (b"tail", zstandard.compress(ONE)):
        frame(b"\0" + zstandard.compress(ONE) + tail)


@given(st.integers(0, 255), st.binary(max_size=60), st.integers(0, 40))
def test_any_frame(blocks: int, tail: bytes, keep: int) -> None:
    TARGETS["frame"](bytes([blocks]) + zstandard.compress(ONE[:300])[:keep] + tail)
    TARGETS["frame"](bytes([blocks]) + _sized((1 + (blocks & 15)) * BLOCK_BYTES, ONE)[: keep * 8] + tail)


records = st.lists(
    st.tuples(st.integers(0, 4), st.binary(max_size=80) | st.just(bytes(4) + SEGMENT) | st.just(SEGMENT[:100])),
    max_size=6,
)


@given(records, st.binary(max_size=30))
@settings(max_examples=60)
def test_any_journal(rows: list[tuple[int, bytes]], torn: bytes) -> None:
    data = b"".join(bytes([kind]) + len(payload).to_bytes(2, "little") + payload for kind, payload in rows)
    TARGETS["journal"](data + torn)


@given(st.dictionaries(st.sampled_from(("key", "key_id", "kind", "server", "x")), values, max_size=5) | values)
def test_any_key_that_is_well_sealed(inner: Any) -> None:
    TARGETS["key"](json.dumps(inner).encode())


@pytest.mark.parametrize("secret", [b"short", bytes(31), bytes(33), b""])
def test_a_sealed_key_of_another_length_kind_or_server(secret: bytes) -> None:
    recipients = [str(IDENTITY.to_public())]
    opener = Identities.parse(str(IDENTITY))
    sealed = seal_key(secret, kind="data", key_id=KEY_ID, server_id=SERVER_ID, recipients=recipients)
    with pytest.raises(FormatError):
        opener.open_key(sealed, kind="data", key_id=KEY_ID, server_id=SERVER_ID)
    sound = seal_key(bytes(32), kind="digest", key_id=KEY_ID, server_id=SERVER_ID, recipients=recipients)
    for kind, key_id, server in (
        ("data", KEY_ID, SERVER_ID),
        ("digest", bytes(16), SERVER_ID),
        ("digest", KEY_ID, KEY_ID),
    ):
        with pytest.raises(FormatError):
            opener.open_key(sound, kind=kind, key_id=key_id, server_id=server)
    with pytest.raises(FormatError):
        opener.open_key(bytes(1 << 20), kind="data", key_id=KEY_ID, server_id=SERVER_ID)


def test_a_passphrase_file_in_place_of_a_key_costs_no_memory() -> None:
    """age's scrypt recipient can ask for any work; a sealed key that has one must not be worked on."""
    sealed = seal(b"x", "known to the attacker", work=4).replace(b" 4\n", b" 30\n", 1)
    began = time.monotonic()
    with pytest.raises(RefloatError):
        Identities.parse(str(IDENTITY)).open_key(sealed, kind="data", key_id=KEY_ID, server_id=SERVER_ID)
    assert time.monotonic() - began < 0.5


@given(st.sampled_from(("name", "id", "created_at", "more")), values)
def test_any_card(field: str, value: Any) -> None:
    TARGETS["card"](json.dumps({**json.loads(CARD), field: value}).encode())


@given(st.sampled_from(HOSTILE_NAMES) | st.text(max_size=40))
def test_no_name_leads_out_of_a_site(name: str) -> None:
    try:
        parts = check_name(f"servers/{name}").split("/")
    except FormatError:
        return
    assert all(part and not part.startswith(".") and part.isascii() and part.isprintable() for part in parts)


def test_a_note_no_reader_takes_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    ServerKeys.create(tmp_path / "state", "web1")
    with pytest.raises(ConfigError, match="note"):
        take_image(
            Config(server="web1", state=str(tmp_path / "state")),
            ImageOptions(note="x" * 4097),
            SystemRunner(),
            Monitor(),
        )


def test_the_samples_are_sound() -> None:
    """What is mutated above is read to its end when nothing is changed."""
    walk_image(sign("image", BODY.decode()), [SEGMENT])
