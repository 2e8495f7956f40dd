"""Steps "overflow" and "full": no room for snapshots, a thick one that overflows, a thin pool that runs full while a
server is imaged. Each is an early, clear error; nothing is committed, nothing left over, and the server works on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from tests.lab.cache import Artifact, note
from tests.lab.imaging import prepare, shut_down
from tests.lab.interrupting import IMAGE, reach, snapshots, step
from tests.lab.lab import Lab
from tests.lab.machine import Machine
from tests.lab.servers.base import Server
from tests.lab.ssh import Ssh
from tests.lab.tools import LabError

#: Overwrites a file again and again, so many MiB at a time with a pause between, and says so when it cannot.
_WRITER = """\
echo $$ >/run/lab/writer.pid
while :; do
    for part in $(seq 0 {parts}); do
        dd if=/dev/urandom of={path} bs=1M count={mib} seek=$((part * {mib})) conv=notrunc,fsync status=none || {{
            echo failed >/run/lab/writer.failed; exit 1
        }}
        sleep {pause}
    done
done"""


def overflow(lab: Lab, server: Server) -> Artifact:
    """`thick` without room in its group, then with too little for what is written meanwhile."""

    def build(folder: Path, machine: Machine) -> None:
        with lab.run(machine, folder / "machine") as running:
            ssh = reach(lab, running, server)
            prepare(ssh, server, folder)
            ssh.run(server.script("load"))
            ssh.run("lvcreate -qq -y -Wn -n ballast -l 100%FREE vg0")
            note(folder, no_room=_refused(lab, ssh, "no room", "vg0", "free", "make room"))
            ssh.run("lvreduce -qq -f -L -80m vg0/ballast")
            ssh.run("head -c 320M /dev/zero >/var/lib/postgresql/junk; sync")
            for what, mib, pause in (("overflow at once", 8, 0.1), ("overflow while reading", 2, 1)):
                _start_writer(ssh, "/var/lib/postgresql/junk", mib=mib, parts=320 // mib - 1, pause=pause)
                words = ("snapshot of vg0/pg", "", "the volume group|vgextend")
                note(folder, **{what: _refused(lab, ssh, what, *words)})
                _stop_writer(ssh)
            # the load has lived through it; it ends, since `alive` compares sums that it changes
            ssh.run("pgrep -u postgres pgbench >/dev/null; pkill -u postgres -x pgbench; sleep 3")
            ssh.run(f"rm /var/lib/postgresql/junk\n{server.script('alive')}", timeout=900)
            ssh.run("lvremove -qq -y vg0/ballast")
            note(folder, afterwards=_whole(ssh))
            shut_down(running, ssh)

    return step(lab, server, "overflow", build)


def full(lab: Lab, server: Server) -> Artifact:
    """`thin` with a pool that is nearly full, then one that gets there while the image is taken."""

    def build(folder: Path, machine: Machine) -> None:
        with lab.run(machine, folder / "machine") as running:
            ssh = reach(lab, running, server)
            prepare(ssh, server, folder)
            note(folder, first=_whole(ssh))
            ssh.run("head -c 256M /dev/urandom >/srv/junk; sync; lvcreate -qq -y -V 3g --thinpool pool -n ballast vgt")
            _fill(ssh, 92.0)
            _start_writer(ssh, "/srv/junk", mib=4, parts=63, pause=0.5)
            note(folder, amid=_refused(lab, ssh, "pool filling", "thin pool vgt/pool", "about to be full", "extend it"))
            _stop_writer(ssh)
            _fill(ssh, 96.0)
            note(folder, full=_refused(lab, ssh, "pool full", "thin pool vgt/pool", "too full", "extend it"))
            ssh.run("lvremove -qq -y vgt/ballast; rm /srv/junk; fstrim /srv")
            note(folder, afterwards=_whole(ssh))
            shut_down(running, ssh)

    return step(lab, server, "full", build)


def _refused(lab: Lab, ssh: Ssh, what: str, whose: str, why: str, hint: str) -> dict[str, Any]:
    """An image that must fail as a source's fault, with these words, and leave nothing."""
    images, before = _images(ssh), time.monotonic()
    text = ssh.run(IMAGE, timeout=900, ok=tuple(range(256)))
    error, seconds = json.loads(text).get("error"), round(time.monotonic() - before)
    if error is None:
        raise LabError(f"{what}: the image was taken: {text[:2000]}")
    lab.say(f"{what}, after {seconds} s: {error['message']} → {error['hint']}")
    words = any(each in str(error["hint"]) for each in hint.split("|"))
    if error["code"] != "source" or whose not in error["message"] or why not in error["message"] or not words:
        raise LabError(f"{what}: said as {error}")
    if left := snapshots(ssh):
        raise LabError(f"{what}: left over: {left}")
    if _images(ssh) != images:
        raise LabError(f"{what}: an image was committed: {_images(ssh)}")
    pools = ssh.run("lvs --noheadings -o lv_full_name,data_percent,lv_health_status -S segtype=thin-pool").strip()
    return {"error": error, "seconds": seconds, "pools": pools}


def _images(ssh: Ssh) -> list[str]:
    """Every manifest at both sites."""
    return sorted(ssh.run("find /mnt/de /mnt/fr -path '*/images/*' -type f").split())


def _whole(ssh: Ssh) -> dict[str, Any]:
    answer = dict(json.loads(ssh.run(IMAGE, timeout=1800)))
    if answer["state"] != "complete" or not _images(ssh):
        raise LabError(f"with room again: {answer}")
    return answer


def _fill(ssh: Ssh, percent: float) -> None:
    """Give a volume that nobody uses so many chunks that the pool is as full as that: one page in each will do."""
    used = float(ssh.run("lvs --noheadings -o data_percent vgt/pool").strip())
    size = int(ssh.run("lvs --noheadings --units b --nosuffix -o lv_size vgt/pool").strip())
    begun = float(ssh.run("lvs --noheadings -o data_percent vgt/ballast").strip() or 0) * (3 << 30) / 100
    first, chunks = round(begun / 65536), round((percent - used) * size / 100 / 65536)
    ssh.run(
        'python3 -c \'import os, sys\nhandle = os.open("/dev/vgt/ballast", os.O_WRONLY)\n'
        "for chunk in range(int(sys.argv[1]), int(sys.argv[2])): os.pwrite(handle, bytes(4096), chunk * 65536)\n"
        f"os.fsync(handle)' {first} {first + chunks}"
    )
    now = float(ssh.run("lvs --noheadings -o data_percent vgt/pool").strip())
    if not percent - 1 < now < percent + 1:
        raise LabError(f"the pool is {now} % full, and should be {percent} %")


def _start_writer(ssh: Ssh, path: str, *, mib: int, parts: int, pause: float) -> None:
    ssh.start(_WRITER.format(path=path, mib=mib, parts=parts, pause=pause))


def _stop_writer(ssh: Ssh) -> None:
    """End it; LabError when it could not write at some time."""
    ssh.run("test ! -e /run/lab/writer.failed; kill $(cat /run/lab/writer.pid)")
