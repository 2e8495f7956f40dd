"""Vaults for tests: a real one, its own process, behind TLS on a loopback port that was free."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.vault.serve import tls_of
from appliance.vault.tokens import Role
from appliance.vault.vault import Vault
from imager.sites.https import HttpsSite

_PATIENCE = 60.0


@dataclass
class Running:
    """A vault that answers. `vault` looks at the same folder from here."""

    vault: Vault
    url: str
    pin: str
    process: subprocess.Popen[bytes]

    def token(self, role: Role, server: str = "") -> str:
        """A new token."""
        return self.vault.tokens.issue(role, server)

    def site(self, token: str, name: str = "here") -> HttpsSite:
        """The vault as a site, to who has this token."""
        return HttpsSite(name, self.url, token=token, pins=[self.pin])


@contextlib.contextmanager
def running(folder: Path, port: int = 0) -> Iterator[Running]:
    """A vault that serves `folder` until the block ends; its output is in `.vault/serve.log` there."""
    folder.mkdir(exist_ok=True)
    vault = Vault(folder)
    vault.open()
    tls = tls_of(vault)
    port = port or _free_port()
    command = [sys.executable, "-m", "appliance.cli", "vault", "serve", str(folder), "--listen", f"127.0.0.1:{port}"]
    with open(vault.own / "serve.log", "ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    try:
        _await(process, port, vault.own / "serve.log")
        yield Running(vault, f"https://127.0.0.1:{port}", tls.fingerprint, process)
    finally:
        process.terminate()
        try:
            process.wait(_PATIENCE)
        finally:
            process.kill()
            process.wait()
            vault.site.close()


def _free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port: int = trial.getsockname()[1]
        return port


def _await(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise AssertionError(f"the vault does not answer: {log.read_text()[-2000:]}")
