"""Step "cost": what imaging costs the server's own work, beside what an LVM snapshot costs it that nobody reads; and
how fast a restore writes, beside what the disk does alone. Ratios within one run: an emulated machine says no more."""

from __future__ import annotations

import json
import re
import statistics
import time
from pathlib import Path
from typing import Any

from tests.lab.cache import Artifact, note
from tests.lab.imaging import prepare, shut_down
from tests.lab.interrupting import IMAGE, reach, step
from tests.lab.lab import Lab, blank
from tests.lab.machine import Machine
from tests.lab.rescue import rescue
from tests.lab.restoring import rescued, restore
from tests.lab.servers.base import Server
from tests.lab.ssh import Ssh
from tests.lab.targets import NewDisk, Target

_PHASE_SECONDS = 60
#: Snapshots as an image has them, of the same volumes.
_OPEN = """\
lvcreate -qq -y -s -L 480m -n cost_root vg0/root
lvcreate -qq -y -s -L 240m -n cost_pg vg0/pg
lvcreate -qq -y -s -L 120m -n cost_archive vg1/archive"""
_CLOSE = "lvremove -qq -y vg0/cost_root vg0/cost_pg vg1/cost_archive"
_BENCH = "exec su postgres -c 'exec pgbench -n -c 2 -T 3600 -P 5 --progress-timestamp bench' 2>/run/lab/bench.log"
#: Busy and all ticks of the machine's processors.
_TICKS = "awk '/^cpu / { print $2 + $3 + $4 + $7 + $8, $2 + $3 + $4 + $5 + $6 + $7 + $8 }' /proc/stat"


def cost(lab: Lab, server: Server) -> Artifact:
    """The figures, as facts and as a table that is printed: `pgbench` and `restore`."""

    def build(folder: Path, machine: Machine) -> None:
        with lab.run(machine, folder / "machine") as running:
            ssh = reach(lab, running, server)
            prepare(ssh, server, folder)
            note(folder, pgbench=_pgbench(lab, ssh))
            shut_down(running, ssh)
        note(folder, restore=_restore(lab, server, folder))

    rescue(lab)  # made before the step, not in the middle of it
    return step(lab, server, "cost", build)


def _pgbench(lab: Lab, ssh: Ssh) -> dict[str, Any]:
    ssh.start(_BENCH)
    time.sleep(10)
    phases = {"alone": _phase(ssh)}
    ssh.run(_OPEN)
    phases["snapshots open, nobody reads"] = _phase(ssh)
    ssh.run(_CLOSE)
    phases["alone again"] = _phase(ssh)
    began = _now(ssh)
    answer = json.loads(ssh.run(IMAGE, timeout=1800))
    phases["imaging"] = (began, _now(ssh))
    phases["alone at last"] = _phase(ssh)
    rows = re.findall(r"^progress: ([\d.]+) s, ([\d.]+) tps", ssh.run("cat /run/lab/bench.log"), re.MULTILINE)
    found = {name: _rates(rows, *times) for name, times in phases.items()}
    alone = statistics.mean(found[name]["mean"] for name in found if name.startswith("alone"))
    for name, each in found.items():
        each["of_alone"] = round(each["mean"] / alone, 2)
        lab.say(f"pgbench, {name}: {each['mean']} tps (median {each['median']}), {each['of_alone']} of alone")
    lab.say(f"imaging took {phases['imaging'][1] - began:.0f} s, stood still {answer['window_seconds']} s")
    return {"phases": found, "image_seconds": phases["imaging"][1] - began, "window_seconds": answer["window_seconds"]}


def _now(ssh: Ssh) -> float:
    return float(ssh.run("date +%s.%N"))


def _phase(ssh: Ssh) -> tuple[float, float]:
    began = _now(ssh)
    time.sleep(_PHASE_SECONDS)
    return began, _now(ssh)


def _rates(rows: list[tuple[str, str]], began: float, ended: float) -> dict[str, float]:
    """Mean and median of the five-second rates that lie wholly within."""
    rates = [float(rate) for when, rate in rows if began + 5 <= float(when) <= ended]
    return {"mean": round(statistics.mean(rates), 1), "median": round(statistics.median(rates), 1)}


def _restore(lab: Lab, server: Server, folder: Path) -> dict[str, Any]:
    """Onto blank disks of the server's own sizes, then as many bytes past the page cache onto another blank one."""
    disks = (*(NewDisk(f"NEW-{each.serial}", each.size_mib) for each in server.disks), NewDisk("SPEED", 2048))
    target = Target("cost", server.firmware, disks, server.nics)
    place = folder / "rescue"
    place.mkdir()
    files = {each.serial: blank(place, each.serial, each.size_mib) for each in disks}
    taken = Artifact(server.name, "", folder)
    with rescued(lab, taken, target, files, place) as (running, ssh):
        before = _ticks(ssh)
        report = restore(ssh, server, target, "--no-repair")["report"]
        busy, whole = (now - then for now, then in zip(_ticks(ssh), before, strict=True))
        assert isinstance(report, dict)
        written = sum(each["written_bytes"] for each in report["volumes"])
        count = written >> 20
        began = time.monotonic()
        ssh.run(f"dd if=/dev/zero of=/dev/disk/by-id/virtio-SPEED bs=1M count={count} oflag=direct status=none; sync")
        disk_seconds = time.monotonic() - began
        ssh.run("sync; umount /mnt/de /mnt/fr; systemctl poweroff", ok=(0, 255))
        running.wait_off()
    for path in place.glob("*.qcow2"):
        path.unlink()
    rate, disk = written / report["seconds"] / 1e6, written / disk_seconds / 1e6
    lab.say(
        f"restore: {written / 1e6:.0f} MB in {report['seconds']:.0f} s, {rate:.0f} MB/s, processors "
        f"{busy / whole:.0%} busy; the disk alone: {disk:.0f} MB/s; steps: {report['steps']}"
    )
    return {
        "written_bytes": written,
        "seconds": report["seconds"],
        "disk_seconds": round(disk_seconds, 1),
        "busy": round(busy / whole, 2),
        "of_disk": round(rate / disk, 2),
        "steps": report["steps"],
    }


def _ticks(ssh: Ssh) -> tuple[int, int]:
    busy, whole = ssh.run(_TICKS).split()
    return int(busy), int(whole)
