"""Step "second": what a second image of a thin server reads, against what changed by another count; and what a third
does when the pool's metadata, which the change tracking rests on, lies."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.lab.cache import Artifact, note
from tests.lab.imaging import prepare, shut_down
from tests.lab.interrupting import IMAGE, reach, step
from tests.lab.lab import Lab
from tests.lab.machine import Machine
from tests.lab.servers.base import Server
from tests.lab.ssh import Ssh
from tests.lab.tools import LabError

Answer = dict[str, Any]
#: A new file, and pages here and there in an old one: each costs a chunk.
_CHANGE = """\
head -c 8M /dev/urandom >/srv/new
for page in $(seq 3 29 1400); do
    dd if=/dev/urandom of=/srv/files/random.1 bs=4k count=1 seek="$page" conv=notrunc status=none
done
sync"""
_DELTA = """\
id() { lvs --noheadings -o thin_id "vgt/$1" | tr -d ' '; }
dmsetup message vgt-pool-tpool 0 reserve_metadata_snap
thin_delta --metadata-snap --snap1 "$(id judge1)" --snap2 "$(id judge2)" /dev/mapper/vgt-pool_tmeta
dmsetup message vgt-pool-tpool 0 release_metadata_snap"""
_MOST = 1.1


def second(lab: Lab, server: Server) -> Artifact:
    """Images of a server whose data volume changes only by what is written here. LabError when the second reads more of
    it than 1.1 × what changed, or less; when the third believes tracking that lies; when it stays alone with that."""

    def build(folder: Path, machine: Machine) -> None:
        with lab.run(machine, folder / "machine") as running:
            ssh = reach(lab, running, server)
            prepare(ssh, server, folder)
            note(folder, first=_image(ssh))
            _judge_snapshot(ssh, "judge1")
            ssh.run(_CHANGE)
            again = _image(ssh)
            _judge_snapshot(ssh, "judge2")
            note(folder, second=again, **_judged(lab, ssh, again))
            lied = int(ssh.run("lvremove -qq -y vgt/judge1 vgt/judge2; python3 /run/lab/bin/lie.py /srv/files/text.*"))
            third = _image(ssh)
            note(folder, lied_bytes=lied, third=third, fourth=_image(ssh))
            _alarmed(lab, third, lied)
            note(folder, verify=json.loads(ssh.run("refloat verify --json", timeout=1800)))
            shut_down(running, ssh)

    return step(lab, server, "second", build)


def _image(ssh: Ssh) -> Answer:
    return dict(json.loads(ssh.run(IMAGE, timeout=1800)))


def _judge_snapshot(ssh: Ssh, name: str) -> None:
    ssh.run(f"lvcreate -qq -s -kn -ay -n {name} vgt/data; udevadm settle")


def _data(answer: Answer) -> Answer:
    """What an image says of the data volume."""
    return next(dict(each) for each in answer["volumes"] if each["name"] == "vgt-data")


def _judged(lab: Lab, ssh: Ssh, again: Answer) -> dict[str, int]:
    """What was written between two snapshots of this step's own, in whole chunks, and how much of it differs."""
    data, text = _data(again), ssh.run(_DELTA)
    chunks = re.findall(r'<(?:different|left_only|right_only)\s+begin="\d+"\s+length="(\d+)"', text)
    chunk_bytes = int(re.findall(r'data_block_size="(\d+)"', text)[0]) * 512
    changed = sum(map(int, chunks)) * chunk_bytes
    differs = int(ssh.run(f"python3 /run/lab/bin/differing.py /dev/vgt/judge1 /dev/vgt/judge2 {chunk_bytes}"))
    read = data["read_bytes"]
    lab.say(
        f"thin: of {data['used_bytes']} bytes used, {changed} are in chunks written to, {differs} in chunks that "
        f"differ; {read} read ({read / changed:.2f}), and {data['audited']} blocks audited; {data['tracked']}"
    )
    if data["tracked"] != "thin" or not differs <= read <= _MOST * changed or data["audit_missed"]:
        raise LabError(f"{changed} bytes changed, {differs} differ, and the second image says: {data}")
    return {"changed_bytes": changed, "differing_bytes": differs, "read_bytes": read}


def _alarmed(lab: Lab, third: Answer, lied: int) -> None:
    """What was changed behind the tracking's back was noticed, said, and is in the image all the same."""
    data, warnings, sites = _data(third), str(third["warnings"]), third["sites"]
    lab.say(f"thin: {lied} bytes changed unseen; audit: {data['audit_missed']} of {data['audited']}; {warnings}")
    full = data["tracked"] == "" and data["read_bytes"] == data["used_bytes"]
    if not data["audit_missed"] or "audit" not in warnings or not full:
        raise LabError(f"the audit did not notice {lied} bytes: {data} {warnings}")
    if any(each["changed_bytes"] < lied for each in sites):
        raise LabError(f"{lied} bytes changed unseen, and are not in the image: {sites}")
