"""Commands and files over SSH into a guest, from inside the lab's namespace. Lives with its machine."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

from tests.lab.network import Network
from tests.lab.tools import LabError, Word


class Ssh:
    """One guest. The host key is checked strictly against `known_hosts`; None: a machine nobody knows yet."""

    def __init__(self, net: Network, address: str, key: Path, known_hosts: Path | None) -> None:
        options = ["-i", str(key), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR"]
        options += ["-o", "ConnectTimeout=8", "-o", "ServerAliveInterval=30", "-o", "ServerAliveCountMax=6"]
        strict = "yes" if known_hosts else "no"
        options += ["-o", f"StrictHostKeyChecking={strict}", "-o", f"UserKnownHostsFile={known_hosts or '/dev/null'}"]
        options += ["-o", "GlobalKnownHostsFile=/dev/null"]
        self._argv: tuple[Word, ...] = net.inside("ssh", *options, f"root@{address}")
        self.address = address

    def probe(self) -> str | None:
        """None when the guest answers, else why not."""
        try:
            done = self._run("true", None, 20)
        except subprocess.TimeoutExpired:
            return "no answer"
        return None if done.returncode == 0 else done.stderr.decode("utf-8", "replace").strip()

    def run(self, script: str, *, stdin: bytes | None = None, timeout: float = 600, ok: tuple[int, ...] = (0,)) -> str:
        """Run a shell script (`set -eu` is on) and give its stdout; LabError when it fails."""
        # The last line keeps the shell from becoming the last command: a signal would then look like a lost connection.
        done = self._run(f"set -eu\n{script}\n:", stdin, timeout)
        if done.returncode not in ok:
            tail = (done.stdout[-3000:] + done.stderr[-3000:]).decode("utf-8", "replace").strip()
            if done.returncode > 128:
                kernel = self._run("dmesg | tail -n 8", None, 30)
                tail += f"\nthe kernel's last words: {(kernel.stdout + kernel.stderr).decode('utf-8', 'replace')}"
            raise LabError(f"{self.address}: exit {done.returncode} of: {script.strip()[:200]}\n{tail}")
        return done.stdout.decode("utf-8", "replace")

    def start(self, script: str) -> None:
        """Start a shell script that goes on by itself as long as the guest runs."""
        self.run(f"setsid sh -c {_quoted(script)} </dev/null >/dev/null 2>&1 &")

    def put(self, files: Mapping[str, bytes], into: str = "/") -> None:
        """Write files by name below a folder of the guest; those that are programs (`#!`) can be run."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for name, body in files.items():
                info = tarfile.TarInfo(name.lstrip("/"))
                info.size, info.mode = len(body), 0o755 if body.startswith(b"#!") else 0o600
                tar.addfile(info, io.BytesIO(body))
        self.run(f"mkdir -p {into}; tar -xf - -C {into}", stdin=packed.getvalue())

    def get(self, path: str) -> bytes:
        """A file's bytes."""
        done = self._run(f"cat {_quoted(path)}", None, 300)
        if done.returncode:
            raise LabError(f"{self.address}: cannot read {path}: {done.stderr.decode('utf-8', 'replace').strip()}")
        return done.stdout

    def _run(self, script: str, stdin: bytes | None, timeout: float) -> subprocess.CompletedProcess[bytes]:
        argv = [*(str(each) for each in self._argv), script]
        closed = subprocess.DEVNULL if stdin is None else None
        return subprocess.run(argv, input=stdin, stdin=closed, capture_output=True, timeout=timeout)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
