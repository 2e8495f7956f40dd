"""Step "imaged": a server runs under load, Refloat images it to two sites, and what must come back is written down."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from tests.lab.cache import Artifact, digest_of_files, note
from tests.lab.lab import SITES, Lab, empty_site, overlays, program_drive
from tests.lab.machine import Drive
from tests.lab.program import code, program
from tests.lab.running import Running
from tests.lab.servers.base import Server
from tests.lab.ssh import Ssh

INGUEST = Path(__file__).with_name("inguest")
PASSPHRASE = b"a passphrase nobody guesses\n"
_CONFIG = """\
server = "{name}"
{state}recipients = [{recipients}]
{disks}
[[site]]
name = "falkenstein"
country = "DE"
url = "file:///mnt/de"
[[site]]
name = "strasbourg"
country = "FR"
url = "file:///mnt/fr"
"""


def imaged(lab: Lab, server: Server, lost: str = "") -> Artifact:
    """The server imaged as it runs, the disk `lost` taken out before.

    SITE-DE.qcow2, SITE-FR.qcow2, `fleet.kit`, `fingerprint.json`; what `refloat image` answered, in the facts.
    """
    disks, refloat = lab.server(server), program(lab.cache, server.python)
    server = replace(server, disks=tuple(each for each in server.disks if each.serial != lost))
    inputs = [code(), digest_of_files(Path(__file__), INGUEST, server.folder), lost]

    def build(folder: Path) -> None:
        drives = (*overlays(disks, [each.serial for each in server.disks], folder), *sites(folder))
        drives = (*drives, program_drive(refloat))
        machine = server.machine(drives, disks.path / "vars.fd")
        with lab.run(machine, folder / "machine") as running:
            ssh = running.reach(server.address, lab.key, disks.path / "known_hosts")
            prepare(ssh, server, folder)
            take(lab, ssh, server, folder)
            running.screenshot("imaged")
            shut_down(running, ssh)
        for each in server.disks:
            (folder / f"{each.serial}.qcow2").unlink()

    return lab.note(lab.cache.get(f"{server.name}-imaged", inputs, build, needs=[disks, refloat], step=True))


def sites(folder: Path) -> tuple[Drive, ...]:
    """Two empty sites, as disks."""
    return tuple(Drive(empty_site(folder, each), each) for each in SITES)


def prepare(ssh: Ssh, server: Server, folder: Path) -> None:
    """Refloat and its sites attached to the running server, and set up as the operating page says."""
    attach(ssh)
    configure(ssh, server, folder)


def attach(ssh: Ssh) -> None:
    """Refloat's disk and both sites, in a server that has just started."""
    ssh.put({each.name: each.read_bytes() for each in INGUEST.iterdir() if each.is_file()}, "/run/lab/bin")
    ssh.run("sh /run/lab/bin/attach")


def shut_down(running: Running, ssh: Ssh) -> None:
    """Sites unmounted, the server off."""
    ssh.run("sh /run/lab/bin/detach; systemctl poweroff", ok=(0, 255))
    running.wait_off()


def configure(ssh: Ssh, server: Server, folder: Path, state: str = "") -> str:
    """Configuration, keys, kit, check; the configuration's path. The kit goes to `folder`, the state to `state` if that
    is not to be on the server."""
    path = f"{state or '/etc/refloat'}/refloat.toml"
    ssh.put({path: _config(server, state, ""), "run/lab/passphrase": PASSPHRASE})
    pin = json.loads(ssh.run(f"refloat keys new --config {path} --json"))["pin"]
    unlock = "--passphrase-file /run/lab/passphrase --json"
    made = json.loads(ssh.run(f"refloat kit new /run/lab/fleet.kit --config {path} --server {pin} {unlock}"))
    recipients = ", ".join(f'"{each}"' for each in made["recipients"])
    ssh.put({path: _config(server, state, recipients)})
    (folder / "fleet.kit").write_bytes(ssh.get("/run/lab/fleet.kit"))
    note(folder, check=json.loads(ssh.run(f"refloat check --config {path} --json")))
    return path


def _config(server: Server, state: str, recipients: str) -> bytes:
    named = zip(server.disk_names, server.disks, strict=True)
    rows = (f'[[disk]]\npath = "/dev/disk/by-id/virtio-{disk.serial}"\nname = "{name}"\n' for name, disk in named)
    where = f'state = "{state}/state"\n' if state else ""
    return _CONFIG.format(name=server.name, state=where, recipients=recipients, disks="".join(rows)).encode()


def take(lab: Lab, ssh: Ssh, server: Server, folder: Path) -> None:
    """The fingerprint, then the image while the server's load runs."""
    tops = " ".join(server.fingerprinted)
    (folder / "fingerprint.json").write_text(ssh.run(f"python3 /run/lab/bin/fingerprint.py {tops}", timeout=900))
    ssh.run(server.script("load"))
    if server.luks_key:
        (folder / "luks.key").write_bytes(ssh.get(server.luks_key))
    answer = json.loads(ssh.run("refloat image --json --note lab", timeout=1800))
    note(folder, image=answer)
    lab.say(f"{server.name}: image {answer['image']} {answer['state']}")
    ssh.run(server.script("imaged"))
