"""Archives below the program: sums and signatures, names of members, descriptions from a hostile site, a slow site."""

from __future__ import annotations

import base64
import random
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pyrage
import pytest

from core.errors import FormatError, RefloatError, TrustError, VersionError
from core.layout import Disk, Layout, VolumeRole, VolumeSpec
from imager.archive.description import decode_description
from imager.archive.digests import ZERO, DigestList, list_path, load_record
from imager.archive.members import Extent, data_name, header, parse_name, zero_name
from imager.archive.reader import OpenArchive
from imager.archive.store import ArchiveShelf
from imager.archive.sums import check_sums, format_sums, parse_sums, sign_sums
from imager.archive.writer import ArchiveRequest, ArchiveWriter, LateError
from imager.keys import Identities, ServerKeys
from imager.sites.base import Buffer
from imager.sites.memory import MemorySite
from imager.spans import BLOCK_BYTES, Idle
from imager.volumes import Volume

SPEC = VolumeSpec(
    name="vda", key="disk:1", disk="vda", role=VolumeRole.WHOLE, offset_bytes=0, size_bytes=100 * BLOCK_BYTES + 512
)
LAYOUT = Layout(disks=(Disk(name="vda", size_bytes=SPEC.size_bytes, sector_bytes=512),))
SUMS = {"README.txt": "1" * 64, "image.json": "2" * 64, "part-000000": "3" * 64, "part-000001": "4" * 64}


@pytest.fixture
def keys(tmp_path: Path) -> ServerKeys:
    return ServerKeys.create(tmp_path / "keys", "web1")


def test_sums_and_signature(keys: ServerKeys) -> None:
    data = format_sums(SUMS)
    assert parse_sums(data) == SUMS
    made = sign_sums(data, keys.public_key, keys.sign)
    assert check_sums(data, made, keys.fingerprint) == keys.fingerprint
    with pytest.raises(TrustError):
        check_sums(data + b" ", made, keys.fingerprint)
    with pytest.raises(TrustError):
        check_sums(data, made, "SHA256:another")


def test_no_bit_of_a_signature_is_free(keys: ServerKeys) -> None:
    """Every flipped bit of the blob, and another armour, is refused."""
    data = format_sums(SUMS)
    lines = sign_sums(data, keys.public_key, keys.sign).decode().splitlines()
    blob = base64.b64decode("".join(lines[1:-1]))
    for at in range(len(blob)):
        wrong = blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]
        armoured = "\n".join([lines[0], base64.b64encode(wrong).decode(), lines[-1]])
        with pytest.raises((FormatError, TrustError)):
            check_sums(data, armoured.encode(), keys.fingerprint)
    for wrong_text in (b"", b"\xff", "\n".join(lines[1:]).encode(), "\n".join(lines[:-1]).encode()):
        with pytest.raises(FormatError):
            check_sums(data, wrong_text, keys.fingerprint)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"README.txt": "1" * 64, "image.json": "2" * 64},
        {**SUMS, "part-000003": "5" * 64},
        {"image.json": "2" * 64, "README.txt": "1" * 64, "part-000000": "3" * 64},
        {**SUMS, "../etc/passwd": "5" * 64},
    ],
    ids=["empty", "no-part", "gap", "order", "path"],
)
def test_sums_that_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(FormatError):
        parse_sums(format_sums(wrong))


def test_names_of_members() -> None:
    assert parse_name(data_name("vda-part1", 65536), 10) == Extent("vda-part1", 65536, 10, False)
    assert parse_name(zero_name("vda", 0, 1 << 40), 0) == Extent("vda", 0, 1 << 40, True)
    for name in (
        "restore.sh",
        "data/vda/-1",
        "data/../x/1",
        "data/vda/1/2",
        "zero/vda/1",
        "data/vda/99999999999999999999",
    ):
        assert parse_name(name, 0) is None
    assert parse_name(zero_name("vda", 0, 512), 1) is None
    long = data_name("v" * 120, (1 << 63) - 1)
    assert len(header(long, 4 << 20, 0)) == 512


def _request(keys: ServerKeys, tmp_path: Path, recipient: str, image: str) -> ArchiveRequest:
    moment = datetime(2026, 11, 20, tzinfo=UTC)
    return ArchiveRequest(keys, (recipient,), LAYOUT, (SPEC,), image, moment, tmp_path, part_bytes=256 << 10)


def _volume() -> Volume:
    return Volume(id=1, spec=SPEC, method="whole", used_bytes=SPEC.size_bytes)


def _feed(writer: ArchiveWriter, blocks: dict[int, bytes]) -> None:
    """One span of these first blocks, the rest zeros that were not read."""
    count = max(blocks) + 1
    data = b"".join(blocks.get(at, bytes(1)) * BLOCK_BYTES for at in range(count))
    digests = [blocks[at] * 32 if at in blocks else None for at in range(count)]
    writer.blocks("vda", 0, memoryview(data), digests)
    writer.idle("vda", Idle(count, 100 - count, unused=False))
    writer.idle("vda", Idle(100, 1, unused=True))


def _read(opened: OpenArchive) -> bytes:
    return opened.read(_volume(), 0, SPEC.size_bytes)


@pytest.mark.block
def test_a_full_and_its_differentials(keys: ServerKeys, tmp_path: Path) -> None:
    """Each night against the full, not against the night before; zeros that were data are explicit."""
    identity = pyrage.x25519.Identity.generate()
    site = MemorySite("de")
    nights = {
        "20261101T000000Z": {0: b"a", 1: b"b", 3: b"c"},
        "20261102T000000Z": {0: b"x", 3: b"c"},
        "20261103T000000Z": {0: b"a", 1: b"b", 2: b"y", 3: b"c"},
        "20261201T000000Z": {0: b"a", 1: b"b", 2: b"y"},
    }
    shelf, stored = ArchiveShelf(site, "web1"), {}
    for image, blocks in nights.items():
        writer = ArchiveWriter(site, _request(keys, tmp_path, str(identity.to_public()), image))
        _feed(writer, blocks)
        result = writer.finish([_volume()])
        writer.close()
        assert (result.kind, result.base) == (
            ("full", None) if image[6:8] == "01" else ("differential", "20261101T000000Z")
        )
        stored[image] = shelf.load(image, keys.fingerprint)
    assert [row.image for row in shelf.archives()] == sorted(nights)
    for image, blocks in nights.items():
        base = stored[image].description.base
        full = stored[base.image] if base else None
        opened = OpenArchive([shelf], stored[image], full, Identities((identity,)))
        wanted = b"".join(blocks.get(at, bytes(1)) * BLOCK_BYTES for at in range(100)) + bytes(512)
        assert _read(opened) == wanted and not opened.missing()
    third = OpenArchive([shelf], stored["20261103T000000Z"], None, Identities((identity,)))
    assert {each.offset for each, _ in third.extents(third.stored)} == {2 * BLOCK_BYTES}
    record = load_record(tmp_path / "archive", "de")
    assert record is not None and record.image == "20261201T000000Z"
    assert [each.name for each in (tmp_path / "archive").glob("*.list")] == ["de-20261201T000000Z.list"]
    known = DigestList(list_path(tmp_path / "archive", "de", record.image), (SPEC,), create=False)
    assert known.read("vda", 0, 4) == b"a" * 16 + b"b" * 16 + b"y" * 16 + ZERO
    known.close()


@pytest.mark.block
def test_a_full_that_is_not_whole_at_the_site_is_no_base(keys: ServerKeys, tmp_path: Path) -> None:
    identity, site = pyrage.x25519.Identity.generate(), MemorySite("de")
    kinds = []
    for night in ("20261101T000000Z", "20261102T000000Z", "20261103T000000Z"):
        writer = ArchiveWriter(site, _request(keys, tmp_path, str(identity.to_public()), night))
        _feed(writer, {0: b"a"})
        kinds.append(writer.finish([_volume()]).kind)
        writer.close()
        if night == "20261102T000000Z":
            site.delete("servers/web1/archives/20261101T000000Z/part-000000")
    assert kinds == ["full", "differential", "full"]


class _Stuck(MemorySite):
    """A site whose puts do not come back before they are let go."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.go = threading.Event()

    def put(self, name: str, body: Sequence[Buffer]) -> None:
        self.go.wait(60)
        super().put(name, body)


@pytest.mark.block
def test_a_site_that_is_stuck_is_left_behind(keys: ServerKeys, tmp_path: Path) -> None:
    """Feeding goes on within the grace, and what was sent there is no archive."""
    identity, site = pyrage.x25519.Identity.generate(), _Stuck("de")
    writer = ArchiveWriter(site, _request(keys, tmp_path, str(identity.to_public()), "20261101T000000Z"))
    noise = memoryview(random.Random(1).randbytes(16 * BLOCK_BYTES))
    started = datetime.now(UTC)
    for turn in range(200):
        writer.blocks("vda", 0, noise, [bytes([turn % 255 + 1]) * 32] * 16)
    assert (datetime.now(UTC) - started).total_seconds() < 30
    with pytest.raises(LateError):
        writer.finish([_volume()])
    site.go.set()
    writer.close()
    assert ArchiveShelf(site, "web1").archives() == []


@pytest.mark.block
def test_a_description_is_not_believed(keys: ServerKeys, tmp_path: Path) -> None:
    identity, site = pyrage.x25519.Identity.generate(), MemorySite("de")
    writer = ArchiveWriter(site, _request(keys, tmp_path, str(identity.to_public()), "20261101T000000Z"))
    _feed(writer, {0: b"a"})
    writer.finish([_volume()])
    writer.close()
    good = ArchiveShelf(site, "web1").load("20261101T000000Z", keys.fingerprint).description
    wrong: dict[str, object] = {
        "kind": "differential", "image": "20261102T000000Z", "version": 2, "part_bytes": (1 << 40,), "state": "fine",
        "volumes": (msgspec.structs.replace(_volume(), id=-1),),
    }  # fmt: skip
    for name, value in wrong.items():
        data = msgspec.json.encode(msgspec.structs.replace(good, **{name: value}))
        with pytest.raises((FormatError, TrustError, VersionError)):
            decode_description(data, server="web1", image="20261101T000000Z")
    for raw in (b"", b"[]", b"\xff", b'{"version":1}', b"[" * 100_000):
        with pytest.raises(RefloatError):
            decode_description(raw, server="web1", image="20261101T000000Z")
