"""Makes the fixture of format version 1: `python -m tests.tools.make_version1 FOLDER` (root not needed; e2fsprogs,
partclone).

Run once for a version of the format, when it is released; from then on the fixture stands for images that exist, and
`tests/imager/test_version1.py` must keep reading it. Run again only while version 1 has not been released.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pyrage

from appliance.config import Config, DiskConfig, ImageConfig, SiteConfig
from appliance.image import ImageOptions, take_image
from core.monitor import Monitor
from core.run import SystemRunner
from imager.keys import Identities, ServerKeys
from imager.repository.reader import OpenImage
from imager.repository.store import Repository
from imager.repository.view import ImageView
from imager.sites.file import FileSite

SERVER = "fixture"


def make_disks(folder: Path, rng: random.Random) -> None:
    """`system`: an ext4 filesystem of 6 MiB with some files; `data`: bytes of no form, zeros, a partial block."""
    files = folder / "files"
    files.mkdir()
    for number in range(12):
        (files / f"file{number}").write_bytes(rng.randbytes(rng.randrange(100, 9000)))
    (files / "text").write_text("what was written stays readable\n" * 3000)
    disk = folder / "system.img"
    argv = ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-U", "7" * 8 + "-0000-4000-8000-" + "7" * 12]
    subprocess.run([*argv, "-d", str(files), str(disk), "6M"], check=True)
    (folder / "data.img").write_bytes(b"first\n" * 20_000 + bytes(200_000) + rng.randbytes(30_000) + b"last one" * 26)


def change(folder: Path, rng: random.Random, night: int) -> None:
    """As a day would: files come and go in the filesystem, noise and zeros elsewhere."""
    new = folder / f"new{night}"
    new.write_bytes(rng.randbytes(20_000))
    for command in (f"write {new} new{night}", f"rm file{night}"):
        subprocess.run(["debugfs", "-w", "-R", command, str(folder / "system.img")], check=True, capture_output=True)
    with open(folder / "data.img", "r+b") as file:
        file.seek(70_000 * night)
        file.write(rng.randbytes(3000))
        file.seek(330_000)
        file.write(bytes(15_000))


def config_of(folder: Path, recipient: str) -> Config:
    return Config(
        server=SERVER,
        state=str(folder / "state"),
        recipients=(recipient,),
        disks=tuple(DiskConfig(path=str(folder / f"{name}.img"), name=name) for name in ("system", "data")),
        image=ImageConfig(nice=0, io_class="none", pack_size=1 << 20, level=3),
        sites=(SiteConfig(name="de", country="DE", url=f"file://{folder}/site"),),
    )


def facts_of(folder: Path, identity: str, keys: ServerKeys) -> dict[str, object]:
    """What a reader must get: a SHA-256 of every volume of every image, unused blocks as zeros."""
    repository = Repository(FileSite("de", folder / "site"), SERVER)
    images: dict[str, dict[str, dict[str, object]]] = {}
    for row in repository.images():
        stored = repository.load(row.image, keys.fingerprint)
        view = ImageView(OpenImage([repository], stored, Identities.parse(identity)))
        images[row.image] = {
            volume.spec.name: {
                "bytes": volume.spec.size_bytes,
                "method": volume.method,
                "sha256": hashlib.sha256(view.read(volume, 0, volume.spec.size_bytes)).hexdigest(),
            }
            for volume in stored.manifest.volumes
        }
    return {
        "identity_for_tests_only": identity,
        "server": SERVER,
        "server_id": keys.server_id.hex(),
        "fingerprint": keys.fingerprint,
        "images": images,
    }


def packed(site: Path) -> bytes:
    """The site as a tar with nothing of this machine in it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as tar:
        for path in sorted(site.rglob("*")):
            if path.is_file():
                info = tarfile.TarInfo(str(path.relative_to(site)))
                info.size, info.mode = path.stat().st_size, 0o600
                tar.addfile(info, io.BytesIO(path.read_bytes()))
    return buffer.getvalue()


def main(target: Path) -> None:
    rng = random.Random(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "site").mkdir()
        identity = str(pyrage.x25519.Identity.generate())
        recipient = str(pyrage.x25519.Identity.from_str(identity).to_public())
        keys = ServerKeys.create(folder / "state", SERVER)
        make_disks(folder, rng)
        for night in range(1, 5):
            take_image(config_of(folder, recipient), ImageOptions(note=f"night {night}"), SystemRunner(), Monitor())
            plain = (folder / "data.img").read_bytes()
            change(folder, rng, night)
        facts = facts_of(folder, identity, keys)
        images = facts["images"]
        assert isinstance(images, dict)
        newest = images[max(images)]
        assert newest["data"]["sha256"] == hashlib.sha256(plain).hexdigest() and newest["system"]["method"] == "used"
        target.mkdir(exist_ok=True)
        (target / "version1.tar.xz").write_bytes(packed(folder / "site"))
        (target / "version1.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
