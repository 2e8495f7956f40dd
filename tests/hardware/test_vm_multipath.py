"""Two LUNs behind two controllers each, in the rescue environment: joined at boot without a byte written, imaged as one
disk, restored onto the other; and no path is a source or a target, with its map or without."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.bootenv.premises import ADDRESS, as_root, built_in, premises, public_key_word
from tests.lab.lab import Lab
from tests.lab.machine import Bus, Drive, Machine, Nic
from tests.lab.running import started
from tests.lab.ssh import Ssh
from tests.lab.tools import tool

pytestmark = pytest.mark.vm
_MAC = "52:54:00:77:00:01"
_MIB = 1 << 20
_CONFIG = """\
server = "san1"
state = "/run/san/state"
recipients = [{recipients}]
[[disk]]
path = "{disk}"
[[site]]
name = "falkenstein"
country = "DE"
url = "file:///mnt/DE"
[[site]]
name = "strasbourg"
country = "FR"
url = "file:///mnt/FR"
"""
_UNLOCK = "--kit /run/san/fleet.kit --passphrase-file /run/san/passphrase"


def test_a_map_is_one_disk(tmp_path: Path) -> None:
    as_root()
    lab = Lab()
    luns = {name: _lun(tmp_path, name) for name in ("LUN-A", "LUN-B")}
    _fill(luns["LUN-A"], tmp_path)
    drives = [
        Drive(path, name, Bus.SCSI, format="raw", wwn=f"0x5000c5000000{number:04x}", paths=2)
        for number, (name, path) in enumerate(luns.items(), 1)
    ]
    drives += [Drive(_lun(tmp_path, "SINGLE"), "SINGLE", Bus.SCSI, format="raw", wwn="0x5000c50000000c03")]
    drives += [Drive(_site(tmp_path, name), f"SITE{name}", format="raw") for name in ("DE", "FR")]
    machine = Machine("san", drives=tuple(drives), nics=(Nic(_MAC),), memory_mib=1536, boot=("network",))
    before = _digest(luns["LUN-A"])
    with premises(built_in(tmp_path), tmp_path, _MAC, public_key_word(lab.key)) as net:
        with started(machine, tmp_path / "guest", net, lab.accelerator()) as running:
            ssh = running.reach(ADDRESS, lab.key, None, 420)
            layout = json.loads(ssh.run("refloat layout --json"))
            disks = {disk["serial"]: disk for disk in layout["disks"]}
            joined = {serial for serial, disk in disks.items() if disk.get("multipath")}
            assert joined == {"LUN-A", "LUN-B"} and "SINGLE" in disks and len(disks) == len(layout["disks"])
            assert _digest(luns["LUN-A"]) == before, "booting has written to a disk"
            _image(ssh, f"/dev/mapper/{disks['LUN-A']['name']}")
            # its own twin must not stand beside what is restored
            ssh.run(f"wipefs --all --force /dev/mapper/{disks['LUN-A']['name']}-part*")
            ssh.run(f"wipefs --all --force /dev/mapper/{disks['LUN-A']['name']}; udevadm settle")
            said = ssh.run(f"refloat restore san1/latest {_UNLOCK} --to LUN-B --confirm LUN-B --no-repair", timeout=900)
            assert "mpath" in said
            path = _a_path(ssh, "LUN-B")
            assert "only one path to the disk /dev/mapper/" in _refused(ssh, path)
            # without its map it is a path all the same
            ssh.run("systemctl stop multipathd; dmsetup ls; multipath -F; udevadm settle")
            assert "no multipath map joins them" in _refused(ssh, path)
            ssh.run("sync; umount /mnt/DE /mnt/FR; systemctl poweroff", ok=(0, 255))
            running.wait_off()
    restored = tool("debugfs", "-R", "cat /proof", f"{luns['LUN-B']}?offset={_MIB}")
    assert restored == "read by two paths\n" * 1000


def _image(ssh: Ssh, disk: str) -> None:
    """The map imaged to both sites; a path of it is not."""
    ssh.run("mkdir -p /run/san /mnt/DE /mnt/FR; mount LABEL=DE /mnt/DE; mount LABEL=FR /mnt/FR")
    config = "--config /run/san/refloat.toml"

    def write(path: str, recipients: str) -> None:
        ssh.put({"refloat.toml": _CONFIG.format(disk=path, recipients=recipients).encode()}, "/run/san")

    write(disk, "")
    ssh.put({"passphrase": b"five random words are enough\n"}, "/run/san")
    pin = json.loads(ssh.run(f"refloat keys new {config} --json"))["pin"]
    unlock = "--passphrase-file /run/san/passphrase --json"
    made = json.loads(ssh.run(f"refloat kit new /run/san/fleet.kit {config} --server {pin} {unlock}"))
    recipients = ", ".join(f'"{each}"' for each in made["recipients"])
    write(_a_path(ssh, "LUN-A"), recipients)
    assert "only one path" in ssh.run(f"refloat image {config} --json 2>&1", ok=(40,))
    write(disk, recipients)
    ssh.run(f"refloat image {config}", timeout=900)


def _a_path(ssh: Ssh, serial: str) -> str:
    """The kernel's name for one path to a disk."""
    rows = json.loads(ssh.run("lsblk --json --nodeps --output PATH,SERIAL"))["blockdevices"]
    return next(str(row["path"]) for row in rows if row["serial"] == serial and row["path"].startswith("/dev/sd"))


def _refused(ssh: Ssh, path: str) -> str:
    return ssh.run(f"refloat restore san1/latest {_UNLOCK} --to {path} --overwrite-unseen --plan 2>&1", ok=(50,))


def _lun(folder: Path, name: str) -> Path:
    path = folder / f"{name}.img"
    with path.open("wb") as file:
        file.truncate(256 * _MIB)
    return path


def _fill(path: Path, folder: Path) -> None:
    (folder / "content").mkdir()
    (folder / "content/proof").write_text("read by two paths\n" * 1000)
    tool("sfdisk", "--quiet", path, stdin=b"label: gpt\nstart=2048, size=262144, name=data\n")
    tool("mke2fs", "-q", "-t", "ext4", "-E", f"offset={_MIB}", "-d", folder / "content", path, "128M")


def _site(folder: Path, name: str) -> Path:
    path = _lun(folder, name)
    tool("mke2fs", "-q", "-t", "ext4", "-L", name, path)
    return path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
