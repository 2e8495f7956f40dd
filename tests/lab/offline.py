"""Step "imaged", offline: a server's own machine boots the rescue environment, and its raw disks are imaged there."""

from __future__ import annotations

import json
from pathlib import Path

from tests.lab.cache import Artifact, digest_of_files, note
from tests.lab.imaging import configure, sites
from tests.lab.lab import Lab, overlays
from tests.lab.program import code
from tests.lab.rescue import booted, rescue
from tests.lab.servers.base import Server
from tests.lab.ssh import Ssh

_INGUEST = Path(__file__).with_name("inguest")


def imaged_offline(lab: Lab, server: Server) -> Artifact:
    """As `imaging.imaged`, of a server that does not run."""
    disks = lab.server(server)
    inputs = [code(), digest_of_files(Path(__file__), Path(__file__).with_name("imaging.py"), _INGUEST, server.folder)]

    def build(folder: Path) -> None:
        drives = (*overlays(disks, [each.serial for each in server.disks], folder), *sites(folder))
        machine = server.machine(drives, disks.path / "vars.fd").having(memory_mib=2048)
        with booted(lab, machine, folder / "machine") as (running, ssh):
            lab.say(f"{server.name}: in the rescue environment")
            fingerprint(ssh, server, folder)
            ssh.run("mkdir -p /mnt/de /mnt/fr; mount LABEL=DE /mnt/de; mount LABEL=FR /mnt/fr")
            config = configure(ssh, server, folder, "/run/lab")
            answer = json.loads(ssh.run(f"refloat image --config {config} --json --note offline", timeout=1800))
            note(folder, image=answer)
            lab.say(f"{server.name}: image {answer['image']} {answer['state']}")
            running.screenshot("imaged")
            ssh.run("sync; umount /mnt/de /mnt/fr; systemctl poweroff", ok=(0, 255))
            running.wait_off()
        for each in server.disks:
            (folder / f"{each.serial}.qcow2").unlink()

    needs = [disks, rescue(lab)]
    return lab.note(lab.cache.get(f"{server.name}-imaged-offline", inputs, build, needs=needs, step=True))


def fingerprint(ssh: Ssh, server: Server, folder: Path) -> None:
    """What is on the server's filesystems, read with its own Python; mounted so that nothing is written."""
    ssh.put({each.name: each.read_bytes() for each in _INGUEST.iterdir() if each.is_file()}, "/run/lab/bin")
    tops = " ".join(server.fingerprinted)
    ssh.run(f"mkdir -p /run/lab/root\n{server.script('mount')}")
    ssh.run("mount -t tmpfs tmpfs /run/lab/root/run; cp /run/lab/bin/fingerprint.py /run/lab/root/run/")
    found = ssh.run(f"chroot /run/lab/root python3 /run/fingerprint.py {tops}", timeout=900)
    (folder / "fingerprint.json").write_text(found)
    ssh.run("umount -R /run/lab/root")
