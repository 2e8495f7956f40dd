"""Running a vault: gunicorn over TLS, one process that serves and one that watches it. Lives until it is ended.

One serving process, because what a server has used is counted in it. May import `appliance.vault`, `core`.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from gunicorn.app.base import BaseApplication

from appliance.vault.app import create_app
from appliance.vault.audit import Audit
from appliance.vault.vault import Vault
from core.certificate import make_certificate
from core.errors import ConfigError
from core.files import write_new

#: Requests at work at once. A server's imaging has a handful of connections, most of which wait for the server.
THREADS = 96
#: Kept connections, more than 64 servers hold open.
CONNECTIONS = 2000


@dataclass(frozen=True)
class Tls:
    """Paths of certificate (with its chain) and key, in PEM; `fingerprint`: what a client pins."""

    certificate: Path
    key: Path
    fingerprint: str


def tls_of(vault: Vault, certificate: Path | None = None, key: Path | None = None) -> Tls:
    """The certificate that was given, or the vault's own, made at first use. Raises ConfigError."""
    if (certificate is None) != (key is None):
        raise ConfigError("a certificate and its key go together", hint="give --certificate FILE and --key FILE")
    path = certificate or vault.own / "tls.pem"
    if certificate is None and not path.exists():
        try:
            write_new(path, make_certificate(socket.gethostname()).pem)
        except FileExistsError:  # another process was first
            pass
    try:
        found = x509.load_pem_x509_certificate(path.read_bytes()).fingerprint(hashes.SHA256())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no certificate: {error}") from error
    return Tls(path, key or path, ":".join(f"{byte:02X}" for byte in found))


def serve(vault: Vault, tls: Tls, listen: str) -> None:
    """Serve until SIGTERM. Requests under way are ended first."""
    vault.open()
    _Server(vault, {
        "bind": listen, "workers": 1, "worker_class": "gthread", "threads": THREADS,
        "worker_connections": CONNECTIONS, "timeout": 120, "graceful_timeout": 30, "keepalive": 75,
        "certfile": str(tls.certificate), "keyfile": str(tls.key), "ssl_context": _modern,
        "accesslog": None, "loglevel": "warning", "proc_name": "refloat-vault", "control_socket_disable": True,
        "limit_request_line": 4094, "limit_request_fields": 50,
    }).run()  # fmt: skip


def _modern(_config: object, default: Any) -> Any:
    import ssl

    context = default()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class _Server(BaseApplication):  # type: ignore[misc]
    def __init__(self, vault: Vault, options: dict[str, object]) -> None:
        self._vault, self._options = vault, options
        super().__init__()

    def load_config(self) -> None:
        for key, value in self._options.items():
            if key in self.cfg.settings:
                self.cfg.set(key, value)

    def load(self) -> Any:
        return create_app(self._vault, Audit(self._vault.own / "audit"))
