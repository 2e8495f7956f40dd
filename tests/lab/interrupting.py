"""Step "interrupted": imaging is killed, then the server loses power while it is imaged; the next run cleans up after
both, and nothing is lost. And step "second": what a second image of a server that hardly changed reads."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from tests.lab.cache import Artifact, digest_of_files, note
from tests.lab.imaging import attach, prepare, shut_down, sites
from tests.lab.lab import Lab, overlays, program_drive
from tests.lab.machine import Machine
from tests.lab.program import code, program
from tests.lab.running import Running
from tests.lab.servers.base import Server
from tests.lab.ssh import Ssh
from tests.lab.tools import LabError

_SNAPSHOTS = "lvs --noheadings -o lv_full_name,origin | awk 'NF > 1 { print $1 }'"
_IMAGE = "refloat image --json"


def interrupted(lab: Lab, server: Server) -> Artifact:
    """The proof, as facts: images taken, what was left over in between."""

    def build(folder: Path, machine: Machine) -> None:
        with lab.run(machine, folder / "first") as running:
            ssh = _reach(lab, running, server)
            prepare(ssh, server, folder)
            ssh.run(server.script("load"))
            ssh.run(_IMAGE, timeout=1800)
            _amid(ssh)
            ssh.run("pkill -9 -x refloat || pkill -9 -f appliance.cli")
            note(folder, left_by_kill=ssh.run(_SNAPSHOTS).split(), after_kill=_clean(ssh))
            _amid(ssh)
            running.power_off()
        with lab.run(machine.having(nvram=folder / "first" / "vars.fd"), folder / "second") as running:
            ssh = _reach(lab, running, server)
            attach(ssh)
            note(folder, left_by_power_off=ssh.run(_SNAPSHOTS).split(), after_power_off=_clean(ssh))
            ssh.run(server.script("alive"), timeout=900)
            note(folder, verify=json.loads(ssh.run("refloat verify --json", timeout=1800)))
            shut_down(running, ssh)

    return _step(lab, server, "interrupted", build)


def second(lab: Lab, server: Server, changed_mib: int = 8) -> Artifact:
    """Two images; between them `changed_mib` are written in one place. LabError when the second reads much more."""

    def build(folder: Path, machine: Machine) -> None:
        with lab.run(machine, folder / "machine") as running:
            ssh = _reach(lab, running, server)
            prepare(ssh, server, folder)
            first = json.loads(ssh.run(_IMAGE, timeout=1800))
            ssh.run(f"head -c {changed_mib << 20} /dev/urandom >/srv/new; sync")
            again = json.loads(ssh.run(_IMAGE, timeout=1800))
            note(folder, first=first, second=again)
            for site in again["sites"]:
                read, changed = site["read_bytes"], site["changed_bytes"]
                lab.say(f"{server.name}: second image read {read >> 20} MiB, of which {changed >> 20} MiB had changed")
                if read > 10 * (changed_mib << 20) or changed < changed_mib << 20:
                    raise LabError(f"the second image read {read} bytes, {changed} of them changed")
            shut_down(running, ssh)

    return _step(lab, server, "second", build)


def _step(lab: Lab, server: Server, what: str, build: Callable[[Path, Machine], None]) -> Artifact:
    disks, refloat = lab.server(server), program(lab.cache, server.python)

    def whole(folder: Path) -> None:
        serials = [each.serial for each in server.disks]
        drives = (*overlays(disks, serials, folder), *sites(folder), program_drive(refloat))
        build(folder, server.machine(drives, disks.path / "vars.fd"))
        for each in drives[:-1]:
            each.path.unlink()

    inputs = [code(), digest_of_files(Path(__file__), server.folder)]
    return lab.note(lab.cache.get(f"{server.name}-{what}", inputs, whole, needs=[disks, refloat], step=True))


def _reach(lab: Lab, running: Running, server: Server) -> Ssh:
    return running.reach(server.address, lab.key, lab.server(server).path / "known_hosts", 600)


def _amid(ssh: Ssh) -> None:
    """Start an image and come back when it is at work: its snapshots are there."""
    ssh.start(f"exec {_IMAGE} >/run/lab/amid.json 2>/run/lab/amid.log")
    until = time.monotonic() + 300
    while not ssh.run(_SNAPSHOTS).split():
        if time.monotonic() > until:
            raise LabError(f"no snapshot was made: {ssh.run('cat /run/lab/amid.*')}")
        time.sleep(1)


def _clean(ssh: Ssh) -> dict[str, object]:
    """A whole image; afterwards no snapshot may be there."""
    answer = json.loads(ssh.run(_IMAGE, timeout=1800))
    left = ssh.run(_SNAPSHOTS).split()
    if answer["state"] != "complete" or left:
        raise LabError(f"after an interruption: {answer['state']}, left over: {left}")
    assert isinstance(answer, dict)
    return answer
