"""Step "restored": a blank replacement machine boots the rescue environment and gets a server's image."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.cache import Artifact, digest_of_files, note
from tests.lab.imaging import PASSPHRASE
from tests.lab.lab import SITES, Lab, blank, overlay, overlays
from tests.lab.program import code
from tests.lab.rescue import booted, rescue
from tests.lab.running import Running
from tests.lab.servers.base import Server
from tests.lab.ssh import Ssh
from tests.lab.targets import NewDisk, Target
from tests.lab.tools import LabError, tool

#: What is of use when a restore failed.
_LOOK = "set +e; lsblk -o NAME,MAJ:MIN,FSTYPE,MOUNTPOINTS; ls -l /sys/dev/block /dev/mapper; findmnt; journalctl -n 200"
_UNLOCK = "--kit /run/lab/fleet.kit --passphrase-file /run/lab/passphrase"


def restored(lab: Lab, server: Server, image: Artifact, target: Target, options: str = "") -> Artifact:
    """The target's disks as SERIAL.qcow2, its UEFI variables, plan and report in the facts."""
    inputs = [code(), digest_of_files(Path(__file__)), repr(target), options]
    name = f"{server.name}-onto-{target.name}" + ("-unrepaired" if "--no-repair" in options else "")

    def build(folder: Path) -> None:
        files = {each.serial: _disk(lab, server, each, folder) for each in target.disks}
        with rescued(lab, image, target, files, folder) as (running, ssh):
            try:
                note(folder, **restore(ssh, server, target, options))
            except LabError:
                (folder / "rescue.log").write_text(ssh.run(_LOOK, ok=tuple(range(128))))
                raise
            running.screenshot("restored")
            lab.say(f"{name}: restored in {time.monotonic() - running.started:.0f} s from power-on")
            ssh.run("sync; umount /mnt/de /mnt/fr; systemctl poweroff", ok=(0, 255))
            running.wait_off()
        shutil.copy(folder / "machine" / "vars.fd", folder / "vars.fd")
        for each in SITES:
            (folder / f"{each}.qcow2").unlink()

    return lab.note(lab.cache.get(name, inputs, build, needs=[image, rescue(lab), lab.server(server)], step=True))


def refused(lab: Lab, server: Server, image: Artifact, target: Target, reason: str) -> Artifact:
    """The proof that the target is refused with this reason (a regular expression), and not one byte of it written."""

    def build(folder: Path) -> None:
        files = {each.serial: blank(folder, each.serial, each.size_mib) for each in target.disks}
        with rescued(lab, image, target, files, folder) as (running, ssh):
            command = f"refloat restore {server.name}/latest {_UNLOCK} {_to(server, target)} --json"
            words = " ".join(f"--confirm {each.serial}" for each in target.disks)
            said = ssh.run(f"{command} {words}", ok=(50,))
            running.screenshot("refused")
            if not re.search(reason, said):
                raise LabError(f"refused, but not for {reason!r}: {said}")
            note(folder, refusal=json.loads(said))
            ssh.run("sync; systemctl poweroff", ok=(0, 255))
            running.wait_off()
        for path in files.values():
            spans = json.loads(tool("qemu-img", "map", "--output=json", path))
            if any(each["data"] for each in spans):
                raise LabError(f"{path.name} was written to, although it was refused")
        for path in (*files.values(), *(folder / f"{each}.qcow2" for each in SITES)):
            path.unlink()

    inputs = [code(), digest_of_files(Path(__file__)), repr(target), reason]
    needs = [image, rescue(lab)]
    name = f"{server.name}-refused-{target.name}"
    return lab.note(lab.cache.get(name, inputs, build, needs=needs, step=True))


def _to(server: Server, target: Target) -> str:
    """The image's disks in order onto the target's blank ones."""
    blanks = [disk for disk in target.disks if not disk.survives]
    return " ".join(f"--to {name}={disk.serial}" for name, disk in zip(server.disk_names, blanks, strict=False))


def _disk(lab: Lab, server: Server, disk: NewDisk, folder: Path) -> Path:
    if disk.survives:
        return overlay(lab.server(server).path / f"{disk.serial}.qcow2", folder)
    return blank(folder, disk.serial, disk.size_mib)


@contextmanager
def rescued(
    lab: Lab, image: Artifact, target: Target, files: dict[str, Path], folder: Path
) -> Iterator[tuple[Running, Ssh]]:
    """The target in the rescue environment, with both sites mounted and the recovery kit in /run/lab."""
    machine = target.machine(files)
    machine = machine.having(drives=(*machine.drives, *overlays(image, SITES, folder)))
    with booted(lab, machine, folder / "machine") as (running, ssh):
        secrets = {
            name: path.read_bytes() for name in ("fleet.kit", "luks.key") if (path := image.path / name).exists()
        }
        ssh.put({**secrets, "passphrase": PASSPHRASE}, "/run/lab")
        ssh.run("mkdir -p /mnt/de /mnt/fr; mount LABEL=DE /mnt/de; mount LABEL=FR /mnt/fr")
        yield running, ssh


def restore(ssh: Ssh, server: Server, target: Target, options: str) -> dict[str, object]:
    """Plan, then restore the image's disks onto the target's blank ones in order; both answers."""
    command = f"refloat restore {server.name}/latest {_UNLOCK} {_to(server, target)} {options} --json"
    plan = _answer(ssh.run(f"{command} --plan", ok=tuple(range(128))))
    confirm = " ".join(f"--confirm {token}" for token in dict(plan["confirm"]).values())  # type: ignore[call-overload]
    before = time.monotonic()
    report = _answer(ssh.run(f"{command} {confirm}", timeout=3600, ok=tuple(range(128))))
    return {"plan": plan, "report": report, "restore_seconds": round(time.monotonic() - before)}


def _answer(text: str) -> dict[str, object]:
    found = json.loads(text)
    if "error" in found:
        raise LabError(f"refloat: {json.dumps(found['error'])[:2000]}")
    assert isinstance(found, dict)
    return found
