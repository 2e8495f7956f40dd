"""What is fuzzed: every parser of bytes that come from elsewhere, as functions of bytes.

A target raises nothing for what our own errors answer; anything else that comes out is a find. Used by atheris
(`tests.fuzz`) with raw bytes and by hypothesis (`tests/imager/test_format_fuzz.py`) with structured ones.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import struct
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pyrage
import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from appliance.config import parse_config
from appliance.kit import decode_kit, new_kit, open_kit, seal_kit
from appliance.receipt import decode_receipt, encode_receipt, receipt_of
from appliance.retention.records import Records
from appliance.seal import dearmor
from core.errors import RefloatError
from core.layout import Disk, Layout, Partition, Table, TableKind, volumes_of
from core.settings import example_text
from imager.blocks import digest_block
from imager.keys import Identities, fingerprint, seal_key
from imager.repository import journal
from imager.repository.frames import FRAME_BYTES, Frame, Opener, PackRef, Sealer
from imager.repository.journal import load_journals
from imager.repository.manifest import (
    Manifest,
    SegmentRef,
    ServerCard,
    ServerRef,
    Totals,
    decode_manifest,
    decode_server_card,
    open_envelope,
)
from imager.repository.moved import Place, decode_table, encode_table
from imager.repository.packs import PackBuilder, frames_of
from imager.repository.reader import OpenImage
from imager.repository.segments import DATA, UNUSED, ZERO, Item, Segment, SegmentBuilder, digest_of, run
from imager.repository.store import Repository
from imager.repository.view import ImageView
from imager.sites.base import check_name
from imager.sites.memory import MemorySite
from imager.spans import BLOCK_BYTES
from imager.volumes import Volume, volume_ids

SERVER_ID, KEY_ID, KEY, DIGEST_KEY = b"s" * 16, b"k" * 16, b"K" * 32, b"D" * 32
IMAGE = "20260101T020000Z"
#: A hostile server has a key that is pinned: it can sign anything.
SIGNER = Ed25519PrivateKey.from_private_bytes(b"test only, no secret of anybody!")
PUBLIC = SIGNER.public_key().public_bytes_raw()
PIN = fingerprint(PUBLIC)
IDENTITY = pyrage.x25519.Identity.generate()
IDENTITIES = Identities.parse(str(IDENTITY))
_RECIPIENT = str(IDENTITY.to_public())
_ITEMS_LOOKED_AT = 100_000
_BLOCK = bytes(range(256)) * 256


def _sealed(kind: str) -> str:
    key, key_id = (KEY, KEY_ID) if kind == "data" else (DIGEST_KEY, bytes(16))
    return base64.b64encode(
        seal_key(key, kind=kind, key_id=key_id, server_id=SERVER_ID, recipients=[_RECIPIENT])
    ).decode()


def sample_pack() -> tuple[bytes, list[Frame]]:
    """A pack of three frames, and the frames."""
    buffer = memoryview(bytearray(1 << 20))
    builder = PackBuilder(buffer, len(buffer))
    sealer = Sealer(KEY, KEY_ID, SERVER_ID, 1)
    for number, blocks in enumerate((1, 3, 2)):
        sealed = sealer.seal(number, memoryview(_BLOCK * blocks))
        builder.add(Frame(KEY_ID, number, blocks, len(sealed), bytes(32)), sealed)
    builder.finish()
    return bytes(builder.body), builder.frames


def sample_layout() -> Layout:
    """A GPT disk with two partitions, and a bare one."""
    parts = tuple(
        Partition(number=number, start_bytes=number << 20, size_bytes=1 << 20, type="83", uuid=f"u{number}")
        for number in (1, 2)
    )
    table = Table(kind=TableKind.GPT, id="g", first_bytes=17408, partitions=parts)
    return Layout(
        disks=(
            Disk(name="vda", size_bytes=8 << 20, sector_bytes=512, table=table),
            Disk(name="vdb", size_bytes=1 << 20, sector_bytes=4096),
        )
    )


def sample_segment(volumes: Iterable[Volume]) -> bytes:
    """Every block of the volumes: some data, zeros, the rest unused."""
    _, frames = sample_pack()
    builder = SegmentBuilder(SERVER_ID)
    for volume in sorted(volumes, key=lambda each: each.id):
        for slot in range(3):
            digest = digest_block(DIGEST_KEY, _BLOCK, volume.id, slot)
            builder.add(Item(volume.id, slot, 1, DATA, slot, 0, digest, frames[1]))
        builder.add(run(volume.id, 3, 2, ZERO))
        builder.add(run(volume.id, 5, volume.blocks - 5, UNUSED))
    return builder.build()


def sample_manifest() -> tuple[Manifest, bytes]:
    """A sound manifest and its one segment."""
    layout = sample_layout()
    specs = volumes_of(layout)
    ids = volume_ids(specs)
    volumes = tuple(Volume(id=ids[spec.name], spec=spec, method="whole", used_bytes=spec.size_bytes) for spec in specs)
    segment = sample_segment(volumes)
    parsed = Segment(segment)
    first, last = parsed.item(0), parsed.item(parsed.count - 1)
    ref = SegmentRef(
        digest=digest_of(segment), size_bytes=len(segment), items=parsed.count,
        first=(first.volume, first.block), last=(last.volume, last.end - 1),
    )  # fmt: skip
    manifest = Manifest(
        server=ServerRef(name="web1", id=SERVER_ID.hex()), image=IMAGE, taken_at="2026-01-01T02:00:00Z",
        finished_at="2026-01-01T02:01:00Z", agent="0", parent=None, note="a note", state="complete",
        digest_key=_sealed("digest"), keys={KEY_ID.hex(): _sealed("data")}, layout=layout, volumes=volumes,
        layers=((ref,),), totals=Totals(read_bytes=1, changed_bytes=1, stored_bytes=1),
    )  # fmt: skip
    return manifest, segment


def sign(kind: str, body: str) -> bytes:
    """The canonical, well-signed object around any body text."""
    signature = SIGNER.sign(f"refloat {kind} 1\n".encode() + body.encode("utf-8", "surrogatepass"))
    return msgspec.json.encode(
        {
            "refloat": kind,
            "version": 1,
            "body": body,
            "key": base64.b64encode(PUBLIC).decode(),
            "signature": base64.b64encode(signature).decode(),
        }
    )


def walk_image(data: bytes, segments: Iterable[bytes] = ()) -> None:
    """Everything that is done with a manifest's numbers and names before a target is chosen: load, open, read."""
    manifest, signer = decode_manifest(data, image=IMAGE, pin=PIN)
    assert signer == PIN and manifest.server_id
    for volume in manifest.volumes:
        check_name(f"x/{volume.spec.name}/{volume.spec.disk}")
        assert volume.blocks > 0 and ".." not in volume.spec.name and "/" not in volume.spec.name
    for disk in manifest.layout.disks:
        assert disk.size_bytes > 0 and disk.sector_bytes > 0
        for part in disk.table.partitions if disk.table else ():
            assert part.number > 0 and 0 <= part.start_bytes < part.end_bytes <= disk.size_bytes and part.attrs >= 0
    site = MemorySite("hostile")
    repository = Repository(site, "web1")
    site.put(repository.image_name(IMAGE), [data])
    site.put(repository.pack_name(Segment(SEGMENT).packs[0]), [PACK])
    for segment in segments:
        with contextlib.suppress(RefloatError):
            site.put(repository.map_name(digest_of(segment)), [segment])
    opened = OpenImage([repository], repository.load(IMAGE, PIN), IDENTITIES)
    seen: dict[int, int] = {}
    for item in itertools.islice(opened.items(manifest.volumes), _ITEMS_LOOKED_AT):
        assert item.block == seen.get(item.volume, 0) and item.count > 0
        seen[item.volume] = item.end
    for volume in manifest.volumes[:4]:
        view = ImageView(opened)
        view.read(volume, max(0, volume.spec.size_bytes - 5 * BLOCK_BYTES), 4 * BLOCK_BYTES)
        view.read(volume, BLOCK_BYTES // 2, 4 * BLOCK_BYTES)


def manifest_body(data: bytes) -> None:
    """`data` as the text that a server signed."""
    walk_image(sign("image", data.decode("utf-8", "replace")), [_SEGMENT])


def envelope(data: bytes) -> None:
    open_envelope("image", data, None)


def card(data: bytes) -> None:
    found, _ = decode_server_card(sign("server", data.decode("utf-8", "replace")), PIN)
    check_name(found.name)


def segment(data: bytes) -> None:
    """Also with the counts set to what the length allows, so that the tables behind them are reached."""
    for each in (data, fitting(data)):
        with contextlib.suppress(RefloatError):
            parsed = Segment(each)
            for frame in parsed.frames():
                assert frame.pack is not None and frame.offset + frame.length <= frame.pack.size_bytes
            last = (-1, 0)
            found = list(parsed.items())
            for index, item in enumerate(found):
                assert (item.volume, item.block) >= last and item.count > 0
                last = (item.volume, item.end)
                assert parsed.find(item.volume, item.block) == parsed.find(item.volume, item.end - 1) == index
    walk_image(_IMAGE_DATA, [data])


def fitting(data: bytes) -> bytes:
    """The bytes with magic, version and counts that fit their length: the rest becomes items, after one of each."""
    body = data[64:]
    fixed = 40 + 16 + 64
    items, tail = divmod(max(0, len(body) - fixed), 52)
    if len(body) < fixed:
        return data
    head = struct.pack("<8sII16sIIII16x", b"REFLMAP\0", 1, 0, SERVER_ID, 1, 1, 1, items)
    return head + body[: len(body) - tail]


def pack(data: bytes) -> None:
    """As it is, and behind a sound header."""
    for each in (data, b"REFLPACK" + struct.pack("<II", 1, 0) + data):
        with contextlib.suppress(RefloatError):
            for frame in frames_of(each):
                assert 0 < frame.length <= len(each) and frame.offset + frame.length <= len(each)


def frame(data: bytes) -> None:
    """`data` as what a server with the right key sealed in place of a zstd frame of 1 to 16 blocks."""
    blocks = 1 + (data[0] & 15 if data else 0)
    aad = b"refloat frame 1\0" + SERVER_ID + KEY_ID + (7).to_bytes(8, "little")
    sealed = AESGCM(KEY).encrypt((7).to_bytes(8, "little") + bytes(4), data[1:], aad)
    into = memoryview(bytearray(FRAME_BYTES))
    meant = Frame(KEY_ID, 7, blocks, len(sealed), bytes(32), 0, PackRef(bytes(32), 1 << 20))
    plain = Opener(SERVER_ID, {KEY_ID: KEY}).open(meant, sealed, into)
    assert len(plain) == blocks * BLOCK_BYTES


def sealed_frame(data: bytes) -> None:
    """`data` as the sealed bytes of a frame."""
    meant = Frame(KEY_ID, 7, 1, len(data), bytes(32), 0, PackRef(bytes(32), 1 << 20))
    Opener(SERVER_ID, {KEY_ID: KEY}).open(meant, data, memoryview(bytearray(FRAME_BYTES)))


def records(data: bytes) -> bytes:
    """`data` as records of a journal with sound frames: type, length, payload, again and again."""
    out = b""
    while len(data) > 3:
        kind, length = data[0] % 4, int.from_bytes(data[1:3], "little")
        payload, data = data[3 : 3 + length], data[3 + length :]
        out += journal._RECORD.pack(journal._MAGIC, kind, len(payload)) + payload + journal._sum(kind, payload)
    return out


def journal_file(data: bytes) -> None:
    """As it is, and as well-framed records. The checksum is the journal's own: it is local, and only torn, not hostile;
    still nothing but our errors may come out."""
    for each in (data, records(data), _JOURNAL_START + records(data)):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / f"{KEY_ID.hex()}.journal").write_bytes(each)
            usable, stale = load_journals(Path(folder), SERVER_ID)
            assert len(usable) + len(stale) == 1
            for found in usable:
                packs = {ref.hex for site in found.durable for ref in found.refs(site)}
                for _ in found.items(packs):
                    pass


def sealed_key(data: bytes) -> None:
    """As the age file, and as what a well-formed one holds."""
    whole = pyrage.encrypt(data, [IDENTITY.to_public()])
    for each in (data, bytes(whole)):
        with contextlib.suppress(RefloatError):
            IDENTITIES.open_key(each, kind="data", key_id=KEY_ID, server_id=SERVER_ID)


def kit(data: bytes) -> None:
    """As a sealed text, and as what was in one. (Opening costs scrypt work: the frame is tried, not the passphrase.)"""
    with contextlib.suppress(RefloatError):
        dearmor(data.decode("utf-8", "replace"))
    with contextlib.suppress(RefloatError):
        decode_kit(data)
    decode_receipt(data)


def config(data: bytes) -> None:
    parse_config(data.decode("utf-8", "replace"))


_MANIFEST, _SEGMENT = sample_manifest()
_IMAGE_DATA = sign("image", msgspec.json.encode(_MANIFEST).decode())
BODY = msgspec.json.encode(_MANIFEST)
CARD = msgspec.json.encode(ServerCard(name="web1", id=SERVER_ID.hex(), created_at="2026-01-01T02:00:00Z"))
SEGMENT, PACK = _SEGMENT, sample_pack()[0]
_START = msgspec.msgpack.encode({"server": SERVER_ID.hex(), "key_id": KEY_ID.hex(), "sealed": b"sealed"})
_JOURNAL_START = records(bytes([1]) + len(_START).to_bytes(2, "little") + _START)


def _record(kind: int, payload: bytes) -> bytes:
    return bytes([kind]) + len(payload).to_bytes(2, "little") + payload


def _kit_seeds() -> list[bytes]:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    made = new_kit([str(IDENTITY)], now=now)
    text = seal_kit(made, "correct horse battery", work=2)
    assert open_kit(text, "correct horse battery") == made
    return [text.encode(), msgspec.json.encode(made), encode_receipt(receipt_of(made, text))]


def _journal_seeds() -> list[bytes]:
    marks = msgspec.msgpack.encode({"site": "de", "pack": Segment(SEGMENT).packs[0].hex})
    return [_record(2, bytes(4) + SEGMENT) + _record(3, marks), _JOURNAL_START]


def _frame_seeds() -> list[bytes]:
    sizeless = zstandard.ZstdCompressor(write_content_size=False).compress(_BLOCK)
    return [b"\0" + each for each in (zstandard.compress(_BLOCK), sizeless, zstandard.compress(_BLOCK * 2), b"")]


@dataclass(frozen=True)
class Target:
    """A parser as a function of bytes, and what it takes gladly."""

    parse: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]

    def __call__(self, data: bytes) -> None:
        """Parse; our own errors are answers."""
        with contextlib.suppress(RefloatError):
            self.parse(data)


_OLD, _NEW = PackRef(b"\1" * 32, 1 << 20), PackRef(b"\2" * 32, 1 << 20)
MOVED = encode_table(_OLD, {16: Place(_NEW, 56, 1000), 2000: Place(_NEW, 1100, 7)})
RECORDS = [
    b'{"refloat":"lease","version":1,"image":"20260101T020000Z","until":"2026-01-02T00:00:00Z"}',
    b'{"refloat":"receipt","version":1,"image":"20260101T020000Z","digest":"00","received":"2026-01-01T02:00:00Z","vault":""}',
    b'{"refloat":"trash","version":1,"images":[{"image":"20260101T020000Z","digest":"","reason":"","dropped":true}]}',
]


def moved_table(data: bytes) -> None:
    """A table of moved frames."""
    with contextlib.suppress(RefloatError):
        table = decode_table(data, _OLD.hex)
        for offset in (16, 2000):
            place = table.find(offset, 1000)
            assert place is None or place.offset + place.length <= place.pack.size_bytes


def operator_records(data: bytes) -> None:
    """Leases, receipts and the trash of a site."""
    site = MemorySite()
    for folder, stem in (("leases", "a"), ("receipts", "20260101T020000Z"), ("trash", "a")):
        site.put(f"servers/web1/{folder}/{stem}.json", [data])
    records = Records(Repository(site, "web1"))
    records.leases()
    with contextlib.suppress(RefloatError):
        records.receipt(records.receipts()["20260101T020000Z"])
    with contextlib.suppress(RefloatError):
        records.trash()


TARGETS = {
    "manifest": Target(manifest_body, lambda: [BODY]),
    "envelope": Target(envelope, lambda: [_IMAGE_DATA, sign("server", CARD.decode())]),
    "card": Target(card, lambda: [CARD]),
    "segment": Target(segment, lambda: [SEGMENT]),
    "pack": Target(pack, lambda: [PACK[:2000], PACK[16:2000]]),
    "frame": Target(frame, _frame_seeds),
    "journal": Target(journal_file, _journal_seeds),
    "key": Target(sealed_key, lambda: [base64.b64decode(_MANIFEST.digest_key)]),
    "kit": Target(kit, _kit_seeds),
    "moved": Target(moved_table, lambda: [MOVED]),
    "records": Target(operator_records, lambda: RECORDS),
    "config": Target(config, lambda: [example_text().encode()]),
}
