"""Step "proven": the restored machine boots by itself, answers at its old address with its old host key, its files are
what they were and its services work. And the opposite, for a restore that repaired nothing."""

from __future__ import annotations

import fnmatch
import json
import time
from pathlib import Path

from tests.lab.cache import Artifact, digest_of_files, note
from tests.lab.lab import Lab, overlay
from tests.lab.machine import Machine
from tests.lab.running import Running
from tests.lab.servers.base import Server
from tests.lab.ssh import Ssh
from tests.lab.targets import Target
from tests.lab.tools import LabError

_INGUEST = Path(__file__).with_name("inguest")
#: What any boot may change, and LVM's own copies of its metadata, which it writes when snapshots come and go. All else
#: must be named by the report of the restore.
ANY_BOOT = ("/etc/lvm/archive*", "/etc/lvm/backup*", "/etc/.updated", "/etc/adjtime", "/etc/resolv.conf", "/etc/mtab")
#: How long a good machine has to reach its login, and one that must not come up is watched, in seconds.
WATCHED = 600
#: What firmware and loaders say when there is nothing to boot.
DEAD = r"grub rescue>|\(initramfs\)|No bootable|not a bootable|UEFI Interactive Shell|Boot failed|emergency mode|ALERT!"


def proven(lab: Lab, server: Server, image: Artifact, disks: Artifact, target: Target) -> Artifact:
    """The proof, as facts and screenshots."""

    def build(folder: Path) -> None:
        with lab.run(_machine(target, disks, folder), folder / "machine") as running:
            running.expect(rf"{server.name} login:", WATCHED, unless=DEAD)
            login = time.monotonic() - running.started
            ssh = running.reach(server.address, lab.key, lab.server(server).path / "known_hosts")
            lab.say(f"{server.name} on {target.name}: login after {login:.0f} s, reached at {server.address}")
            running.screenshot("login")
            note(folder, login_seconds=round(login), **checks(ssh, server, image, _reported(disks)))
            ssh.run("systemctl poweroff", ok=(0, 255))
            running.wait_off()
        _drop(target, folder)

    inputs = [digest_of_files(Path(__file__), _INGUEST), digest_of_files(server.folder)]
    return lab.note(lab.cache.get(f"{disks.name}-proven", inputs, build, needs=[disks, image], step=True))


def dead(lab: Lab, server: Server, disks: Artifact, target: Target) -> Artifact:
    """The proof that an unrepaired restore does not come up: if it did, the proof above would prove nothing."""

    def build(folder: Path) -> None:
        with lab.run(_machine(target, disks, folder), folder / "machine") as running:
            why = _watch(lab, running, server)
            running.screenshot("dead")
            lab.say(f"{server.name} on {target.name}, not repaired: {why}")
            note(folder, why=why)
        _drop(target, folder)

    inputs = [digest_of_files(Path(__file__)), digest_of_files(server.folder)]
    return lab.note(lab.cache.get(f"{disks.name}-dead", inputs, build, needs=[disks], step=True))


def _reported(disks: Artifact) -> list[str]:
    """What the restore says that it changed in the server."""
    return list(disks.facts["report"]["boot"]["changed"])  # type: ignore[index]


def _explained(path: str, reported: list[str]) -> bool:
    """Whether the report names it, a folder it lies in, or something in it."""
    return any(fnmatch.fnmatch(path, each) for each in ANY_BOOT) or any(
        path == each or path.startswith(f"{each}/") or each.startswith(f"{path}/") for each in reported
    )


def checks(ssh: Ssh, server: Server, image: Artifact, reported: list[str]) -> dict[str, object]:
    """Services, identity, files; LabError at the first that is wrong. `reported` may differ."""
    state = ssh.run("systemctl is-system-running --wait || true; systemctl --failed --no-legend --plain").split("\n")
    if state[0] != "running":
        raise LabError(f"{server.name} is {state}")
    ssh.run(server.script("alive"), timeout=900)
    ssh.put({"fingerprint.py": (_INGUEST / "fingerprint.py").read_bytes()}, "/run/lab/bin")
    tops = " ".join(server.fingerprinted)
    now = json.loads(ssh.run(f"python3 /run/lab/bin/fingerprint.py {tops}", timeout=900))
    before = json.loads((image.path / "fingerprint.json").read_text())
    changed = sorted(path for path in before.keys() | now.keys() if before.get(path) != now.get(path))
    wrong = [path for path in changed if not _explained(path, reported)]
    if wrong:
        raise LabError(
            f"{len(wrong)} files differ: "
            + "; ".join(f"{each}: {before.get(each)} → {now.get(each)}" for each in wrong[:10])
        )
    return {"files": len(before), "repaired": changed, "state": state[0], "lsblk": ssh.run("lsblk -f; ip -br addr")}


def _watch(lab: Lab, running: Running, server: Server) -> str:
    """Why the machine is dead; LabError when it lives."""
    until = time.monotonic() + WATCHED
    try:
        said = running.expect(DEAD + rf"|{server.name} login:", WATCHED)[0]
    except LabError:
        said = "silent"
    if "login:" in said or said == "silent":
        try:
            running.reach(server.address, lab.key, None, max(30, until - time.monotonic()))
        except LabError:
            return "silent: never reached its login" if said == "silent" else "login, but not reachable at its address"
        raise LabError(f"{server.name} came up on {running.machine.name} although nothing was repaired")
    return said


def _machine(target: Target, disks: Artifact, folder: Path) -> Machine:
    files = {each.serial: overlay(disks.path / f"{each.serial}.qcow2", folder) for each in target.disks}
    return target.machine(files).having(nvram=disks.path / "vars.fd", memory_mib=1024)


def _drop(target: Target, folder: Path) -> None:
    for each in target.disks:
        (folder / f"{each.serial}.qcow2").unlink()
