"""Refloat as a contestant: a server with one or two `file://` sites, maybe archives; run as people run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.bench.measure import Sample, stored_bytes, timed

_CONFIG = """\
server = "bench"
state = "{folder}/state"
recipients = ["{recipient}"]
[image]
nice = 0
io_class = "none"
[policy]
accept_single_site = "I know that one site is not enough"
"""
_SITE = """\
[[site]]
name = "{name}"
country = "{country}"
url = "file://{folder}/{name}"
"""
_COUNTRIES = (("de", "DE"), ("fr", "FR"))


class Refloat:
    """One server and its sites, all below `folder`; the default configuration, but at the peers'
    CPU and disk priority."""

    def __init__(self, folder: Path, *, sites: int, archive: bool = False) -> None:
        folder.mkdir(parents=True)
        self._program = Path(sys.executable).with_name("refloat")
        self._key, self._config = folder / "key", folder / "refloat.toml"
        self._sites = [folder / name for name, _ in _COUNTRIES[:sites]]
        subprocess.run(["age-keygen", "-o", self._key], check=True, capture_output=True)
        show = subprocess.run(["age-keygen", "-y", self._key], check=True, capture_output=True, text=True)
        text = _CONFIG.format(folder=folder, recipient=show.stdout.strip())
        for name, country in _COUNTRIES[:sites]:
            (folder / name).mkdir()
            text += _SITE.format(name=name, country=country, folder=folder)
            text += 'mechanisms = ["repository", "archive"]\n' if archive else ""
        self._config.write_text(text)
        timed(f"{self._program} keys new --config {self._config}")

    def image(self, disk: Path, day: int) -> tuple[Sample, int]:
        """Image the disk; gives what it took and the bytes added at the first site."""
        before = stored_bytes(self._sites[0])
        sample = timed(f"{self._program} image --config {self._config} --disk disk={disk} --json 2>/dev/null")
        states = {site["status"] for site in json.loads(sample.output)["sites"]}
        if states != {"committed"}:
            raise RuntimeError(f"day {day}: {sample.output}")
        return sample, stored_bytes(self._sites[0]) - before

    def restore(self, day: int, target: Path) -> Sample:
        """Restore the latest image onto a file, which must exist and have the disk's size."""
        token = f"{target}:{target.stat().st_size}"
        opened = f"--config {self._config} --identity {self._key}"
        command = f"restore bench/latest {opened} --to {target} --confirm {token} --json"
        return timed(f"{self._program} {command} 2>/dev/null && sync {target}")
