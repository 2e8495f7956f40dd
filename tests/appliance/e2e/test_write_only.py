"""Write-only hosts: root on the server, with all that is there after a run, cannot read one block of yesterday's image.

Looked at from three sides: everything the server keeps is searched for the keys and tried as a key; nothing opens; and
every system call of a run is watched for the key's bytes.
"""

from __future__ import annotations

import base64
import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.cli import main
from core.errors import CorruptError, KeyMissingError
from imager.keys import DataKey, Identities
from imager.repository.frames import FRAME_BYTES, Opener
from imager.repository.reader import OpenImage
from imager.repository.segments import DATA, Item
from imager.repository.store import Repository, StoredImage
from imager.sites.file import FileSite
from tests.appliance.e2e.server import MIB, ROOT, Server, tool

pytestmark = pytest.mark.block
SIZE = 6 * MIB
WRITES = ("write", "pwrite64", "writev", "pwritev", "pwritev2", "sendto", "sendmsg", "rename", "linkat")


@pytest.fixture(scope="module")
def drawn() -> list[DataKey]:
    """The data keys that runs in this process drew."""
    return []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, drawn: list[DataKey]) -> Iterator[Server]:
    """A server with two images, taken in this process so that the test knows the keys; the identity is elsewhere."""
    place = tmp_path_factory.mktemp("writeonly")
    disk = place / "vda.img"
    disk.write_bytes(random.Random(1).randbytes(SIZE))
    made = Server.new(place / "server", {"vda": disk}, extra='pack_size = "1MiB"')
    made.identity = Path(shutil.move(made.identity, tmp_path_factory.mktemp("safe") / "identity"))
    original = DataKey.draw

    def draw(server_id: bytes, recipients: list[str]) -> DataKey:
        drawn.append(original(server_id, recipients))
        return drawn[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DataKey, "draw", draw)
        for number in range(2):
            with disk.open("r+b") as file:
                file.seek(number * MIB)
                file.write(random.Random(number).randbytes(MIB))
            assert main(["image", "--config", str(made.config), "--json"]) == 0
    assert len({key.key for key in drawn}) == 2
    yield made


def _found(server: Server) -> dict[Path, bytes]:
    """Everything root has: configuration, state, and what the sites hold."""
    folders = [server.state, server.place, *server.sites.values()]
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def _written_as(secret: bytes) -> list[bytes]:
    """A key as one might find it: raw, hex, base64."""
    texts = [secret, secret.hex().encode(), secret.hex().upper().encode(), base64.b64encode(secret)]
    return [*texts, base64.urlsafe_b64encode(secret), base64.b64encode(secret).rstrip(b"=")]


def _stored(server: Server) -> tuple[Repository, StoredImage]:
    repository = Repository(FileSite("de", server.sites["de"]), server.name)
    return repository, repository.load(repository.images()[0].image, None)


def _frames(server: Server, opened: OpenImage) -> Iterator[tuple[Item, bytes]]:
    for item in opened.items(opened.manifest.volumes):
        if item.kind == DATA and item.frame and item.frame.pack:
            yield item, bytes(opened.fetch([item.frame])[0])


def test_no_key_is_in_anything_the_server_keeps(server: Server, drawn: list[DataKey]) -> None:
    identity = server.identity.read_text().strip()
    found = _found(server)
    assert len(found) > 10
    for path, data in found.items():
        for key in drawn:
            assert not any(text in data for text in _written_as(key.key)), path
        assert identity.encode() not in data and b"AGE-SECRET-KEY" not in data.upper(), path
    # the search is able to find: what is no secret is there in just these forms
    assert any(text in data for data in found.values() for text in _written_as(drawn[0].key_id))


def test_nothing_the_server_keeps_opens_a_block(server: Server, drawn: list[DataKey]) -> None:
    """Every 32 bytes that could be a key, from every small file, tried on yesterday's frames; then the real one."""
    repository, stored = _stored(server)
    with_kit = OpenImage([repository], stored, Identities.parse(server.identity.read_text()))
    item, sealed = next(_frames(server, with_kit))
    assert item.frame is not None
    buffer = memoryview(bytearray(FRAME_BYTES))
    tried = 0
    for candidate in _candidates(server):
        tried += 1
        opener = Opener(stored.manifest.server_id, {item.frame.key_id: candidate})
        with pytest.raises(CorruptError):
            opener.open(item.frame, sealed, buffer)
    assert tried > 1000
    right = next(key for key in drawn if key.key_id == item.frame.key_id)
    plain = Opener(stored.manifest.server_id, {right.key_id: right.key}).open(item.frame, sealed, buffer)
    assert plain.nbytes
    repository.site.close()


def _candidates(server: Server) -> Iterator[bytes]:
    """32-byte strings: at every offset of small files, and what looks like hex or base64 anywhere."""
    for path, data in _found(server).items():
        if len(data) < 4096:
            yield from (data[at : at + 32] for at in range(len(data) - 31))
        if "packs" not in path.parts:
            yield from (bytes.fromhex(text.decode()) for text in re.findall(rb"[0-9a-fA-F]{64}", data))
            for text in re.findall(rb"[A-Za-z0-9+/]{43}=", data):
                yield base64.b64decode(text)


def test_the_programs_own_commands_refuse(server: Server, tmp_path: Path) -> None:
    """No way in without the identity; with it there is one."""
    target = tmp_path / "out.img"
    config = ("--config", server.config)
    server.fails(30, "export", "latest", "vda", "-o", target, *config)
    server.fails(30, "restore", "latest", "--to", target, *config)
    server.fails(30, "verify", "--deep", *config)
    (tmp_path / "mnt").mkdir()
    server.fails(30, "mount", "latest", tmp_path / "mnt", *config)
    (tmp_path / "own").write_text((server.state / "keys.json").read_text())
    server.fails(30, "export", "latest", "vda", "-o", target, *config, "--identity", tmp_path / "own")
    repository, stored = _stored(server)
    stranger = Server.new(tmp_path / "stranger", {}).identity.read_text()
    with pytest.raises(KeyMissingError):
        OpenImage([repository], stored, Identities.parse(stranger))
    repository.site.close()
    assert not target.exists()
    server.ok("export", "latest", "vda", "-o", target, *config, "--identity", server.identity)
    assert target.read_bytes() == server.disks["vda"].read_bytes()


_WATCHED = """
import sys
from imager.keys import DataKey
original = DataKey.draw
def draw(server_id, recipients):
    key = original(server_id, recipients)
    # told to the test by a way that writes nothing: the exit status of a stat of a path that is not there
    import os
    try:
        os.stat("/the-data-key-is/" + key.key.hex())
    except FileNotFoundError:
        pass
    return key
DataKey.draw = draw
from appliance.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_no_system_call_writes_the_data_key(server: Server, tmp_path: Path) -> None:
    """strace of a whole run: the key's bytes are in no write, to no file, pipe or socket, in no argument list."""
    log = tmp_path / "log"
    program = server.command()[0], "-c", _WATCHED, "image", "--config", str(server.config), "--json"
    # -xx: all strings in hex; -s: whole packs of 1 MiB
    calls = ",".join((*WRITES, "execve", "newfstatat", "stat", "openat"))
    argv = ["strace", "-f", "-xx", "-s", str(2 * MIB), "-e", f"trace=?{calls.replace(',', ',?')}", "-o", str(log)]
    with server.disks["vda"].open("r+b") as file:
        file.write(random.Random(9).randbytes(2 * MIB))
    done = subprocess.run([*argv, *program], capture_output=True, env=server.environment(), cwd=ROOT, timeout=120)
    assert done.returncode == 0, done
    text = log.read_bytes()
    mark = "".join(f"\\x{byte:02x}" for byte in b"/the-data-key-is/").encode()
    match = re.search(re.escape(mark) + rb"((?:\\x(?:3[0-9]|6[1-6])){64})", text)
    assert match, "the run drew no key"
    key = bytes.fromhex(bytes.fromhex(match[1].decode().replace("\\x", "")).decode())
    lines = [line for line in text.splitlines() if mark not in line]
    forms = ["".join(f"\\x{byte:02x}" for byte in form).encode() for form in _written_as(key)]
    assert not [line[:200] for line in lines if any(form in line for form in forms)]
    written = sum(len(line) for line in lines if re.match(rb"\d+ +p?write", line))
    assert written > 2 * MIB  # the packs were seen, so the key would have been
    for path, data in _found(server).items():
        assert not any(form in data for form in _written_as(key)), path


def test_what_is_kept_is_closed_to_others(server: Server) -> None:
    """Nobody but root reads the server's own keys and journal."""
    for path in (server.state, server.state / "keys.json", server.state / "maps", server.state / "journal"):
        assert os.stat(path).st_mode & 0o077 == 0, path
    assert tool("find", server.state, "-type", "f", "-perm", "/077") == ""
