"""Step "interrupted": imaging is killed, then the server loses power while it is imaged; the next run cleans up after
both, and nothing is lost. And what other steps on one running server are made of."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from tests.lab.cache import Artifact, digest_of_files, note
from tests.lab.imaging import INGUEST, attach, prepare, shut_down, sites
from tests.lab.lab import Lab, overlays, program_drive
from tests.lab.machine import Machine
from tests.lab.program import code, program
from tests.lab.running import Running
from tests.lab.servers.base import Server
from tests.lab.ssh import Ssh
from tests.lab.tools import LabError

_SNAPSHOTS = "lvs --noheadings -o lv_full_name,origin | awk 'NF > 1 { print $1 }'"
IMAGE = "refloat image --json"


def interrupted(lab: Lab, server: Server) -> Artifact:
    """The proof, as facts: images taken, what was left over in between."""

    def build(folder: Path, machine: Machine) -> None:
        with lab.run(machine, folder / "first") as running:
            ssh = reach(lab, running, server)
            prepare(ssh, server, folder)
            ssh.run(server.script("load"))
            ssh.run(IMAGE, timeout=1800)
            _amid(ssh)
            ssh.run("kill -9 $(cat /run/lab/amid.pid)")
            note(folder, left_by_kill=sorted(snapshots(ssh)), after_kill=_clean(ssh))
            _amid(ssh)
            running.power_off()
        with lab.run(machine.having(nvram=folder / "first" / "vars.fd"), folder / "second") as running:
            ssh = reach(lab, running, server)
            attach(ssh)
            note(folder, left_by_power_off=sorted(snapshots(ssh)), after_power_off=_clean(ssh))
            ssh.run(server.script("alive"), timeout=900)
            note(folder, verify=json.loads(ssh.run("refloat verify --json", timeout=1800)))
            shut_down(running, ssh)

    return step(lab, server, "interrupted", build)


def step(lab: Lab, server: Server, what: str, build: Callable[[Path, Machine], None]) -> Artifact:
    """A step on the server's own machine with two empty sites: `build(folder, machine)` runs it. Its disks go."""
    disks, refloat = lab.server(server), program(lab.cache, server.python)

    def whole(folder: Path) -> None:
        serials = [each.serial for each in server.disks]
        drives = (*overlays(disks, serials, folder), *sites(folder), program_drive(refloat))
        build(folder, server.machine(drives, disks.path / "vars.fd"))
        for each in drives[:-1]:
            each.path.unlink()

    inputs = [code(), digest_of_files(Path(__file__), Path(build.__code__.co_filename), INGUEST, server.folder)]
    return lab.note(lab.cache.get(f"{server.name}-{what}", inputs, whole, needs=[disks, refloat], step=True))


def reach(lab: Lab, running: Running, server: Server) -> Ssh:
    """The server, once it answers at its address."""
    return running.reach(server.address, lab.key, lab.server(server).path / "known_hosts", 600)


def snapshots(ssh: Ssh) -> set[str]:
    """Every snapshot on the server, as VG/LV."""
    return set(ssh.run(_SNAPSHOTS).split())


def _amid(ssh: Ssh) -> None:
    """Start an image and come back when it is at work: its snapshots are there."""
    before = snapshots(ssh)
    ssh.start(f"echo $$ >/run/lab/amid.pid; exec {IMAGE} >/run/lab/amid.json 2>/run/lab/amid.log")
    until = time.monotonic() + 300
    while not snapshots(ssh) - before:
        if time.monotonic() > until:
            raise LabError(f"no snapshot was made: {ssh.run('cat /run/lab/amid.*')}")
        time.sleep(1)


def _clean(ssh: Ssh) -> dict[str, object]:
    """A whole image; afterwards no snapshot may be there but its own of each thin volume: the change tracking."""
    answer = json.loads(ssh.run(IMAGE, timeout=1800))
    thin = [each["name"] for each in answer["volumes"] if each["held"] == "lvm-thin"]
    expected = {f"{name.replace('-', '/', 1)}.refloat-{answer['image']}" for name in thin}
    left = snapshots(ssh)
    if answer["state"] != "complete" or left != expected:
        raise LabError(f"after an interruption: {answer['state']}, snapshots: {left}, expected: {expected or 'none'}")
    assert isinstance(answer, dict)
    return answer
