"""An order is carried out by a machine alone, once: its second start refuses and writes nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.bootenv.premises import as_root, built_in, premises
from tests.lab.lab import Lab
from tests.lab.machine import Drive, Machine, Nic
from tests.lab.running import started
from tests.lab.tools import tool

pytestmark = pytest.mark.vm
_MAC = "52:54:00:77:00:01"
_UUID = "3d9cd9a4-52b2-4c45-8a9b-2f5f2a1f7a11"
_PASSPHRASE = "five random words are enough"


def test_an_order_restores_once(tmp_path: Path) -> None:
    as_root()
    lab = Lab()
    source, kit = _imaged(tmp_path)
    nonce = _refloat(
        "rescue", "order", "web1/latest", "--kit", kit, "--passphrase-file", tmp_path / "passphrase", "--uuid", _UUID,
        "--to", "TARGET1", "--option", "boot=no", "--json",
    )["order"]["nonce"]  # fmt: skip
    drives = [Drive(_disk_of(tmp_path, name), f"SITE{name}", format="raw") for name in ("DE", "FR")]
    target = tmp_path / "target.img"
    _sized(target, 256)
    entries = {"kit": kit, "passphrase": tmp_path / "passphrase"}
    for name, text in (("order", nonce), ("mounts", "DE:/mnt/de\nFR:/mnt/fr"), ("sites", _sites("/mnt"))):
        entries[name] = tmp_path / name
        entries[name].write_text(text + "\n")
    fw_cfg = tuple((f"opt/org.refloat/{name}", path) for name, path in entries.items())
    machine = Machine(
        "drill", drives=(Drive(target, "TARGET1", format="raw"), *drives), nics=(Nic(_MAC),), memory_mib=1536,
        boot=("network",), uuid=_UUID, fw_cfg=fw_cfg,
    )  # fmt: skip
    with premises(built_in(tmp_path), tmp_path, _MAC) as net:
        with started(machine, tmp_path / "first", net, lab.accelerator()) as running:
            running.expect(rf"order {nonce} DONE", 600, unless=rf"order {nonce} (REFUSED|FAILED)")
            running.wait_off()
        assert _cat(target, 1 << 20, "/proof") == _cat(source, 1 << 20, "/proof") != ""
        for name in ("DE", "FR"):
            assert f'"machine":"{_UUID}"' in _cat(tmp_path / f"{name}.img", 0, f"/orders/{nonce}/used.json")
            result = json.loads(_cat(tmp_path / f"{name}.img", 0, f"/orders/{nonce}/result.json"))
            assert result["ok"] and result["report"]["image"]
        before = target.read_bytes()
        with started(machine, tmp_path / "second", net, lab.accelerator()) as running:
            running.expect(rf"order {nonce} REFUSED: the order {nonce} was carried out already", 600)
            running.power_off()
        assert target.read_bytes() == before


def _imaged(folder: Path) -> tuple[Path, Path]:
    """A disk with one ext4, imaged as `web1` to the folders DE and FR; the disk and the kit."""
    source, kit = folder / "source.img", folder / "fleet.kit"
    (folder / "content").mkdir()
    (folder / "content/proof").write_text("restored by nobody\n" * 1000)
    _sized(source, 192)
    tool("sfdisk", "--quiet", str(source), stdin=b"label: gpt\nstart=2048, size=262144, name=data\n")
    tool("mke2fs", "-q", "-t", "ext4", "-E", f"offset={1 << 20}", "-d", folder / "content", source, "128M")
    (folder / "passphrase").write_text(_PASSPHRASE + "\n")
    for name in ("DE", "FR"):
        (folder / name).mkdir()
    config = folder / "refloat.toml"
    sites = "".join(
        f'[[site]]\nname = "{name.lower()}"\ncountry = "{name}"\nurl = "file://{folder}/{name}"\n'
        for name in ("DE", "FR")
    )
    config.write_text(f'server = "web1"\nstate = "{folder}/state"\n[[disk]]\npath = "{source}"\nname = "vda"\n{sites}')
    pin = _refloat("keys", "new", "--config", config, "--json")["pin"]
    made = _refloat(
        "kit",
        "new",
        kit,
        "--config",
        config,
        "--server",
        str(pin),
        "--passphrase-file",
        folder / "passphrase",
        "--json",
    )
    text = config.read_text()
    config.write_text(text.replace("[[disk]]", f"recipients = {json.dumps(made['recipients'])}\n[[disk]]", 1))
    _refloat("image", "--config", config, "--json")
    return source, kit


def _disk_of(folder: Path, name: str) -> Path:
    """The site's folder as a disk with that label."""
    image = folder / f"{name}.img"
    _sized(image, 64)
    tool("mke2fs", "-q", "-t", "ext4", "-L", name, "-d", folder / name, image)
    return image


def _sites(root: str) -> str:
    return f"de=file://{root}/de\nfr=file://{root}/fr"


def _refloat(*words: str | Path) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads(tool(sys.executable, "-m", "appliance.cli", *words))
    return found


def _cat(image: Path, offset: int, name: str) -> str:
    """A file of an ext4 in an image file, without mounting it."""
    where = f"{image}?offset={offset}"
    return tool("debugfs", "-R", f"cat {name}", where)


def _sized(path: Path, mebibytes: int) -> None:
    with path.open("wb") as file:
        file.truncate(mebibytes << 20)
