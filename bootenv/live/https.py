"""Serves a WSGI application over TLS, a thread for each connection. Lives as long as the station.

The handshake happens in the connection's own thread and under a timeout, so that a client that connects and says
nothing holds up nobody. Imports nothing of the other rooms.
"""

from __future__ import annotations

import socket
import ssl
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
_SECONDS = 60.0


class _Handler(WSGIRequestHandler):
    timeout = _SECONDS

    def version_string(self) -> str:
        return "refloat"

    def log(self, type: str, message: str, *args: object) -> None:
        """Requests are not logged: the console's screen is no log, and addresses are no secret worth keeping."""


class HttpsServer(ThreadedWSGIServer):
    """The server; `serve_forever` and `shutdown` as in socketserver. Port 0: a free one (`server_port` tells)."""

    daemon_threads = True

    def __init__(self, application: Application, pem: bytes, *, host: str = "::", port: int = 443) -> None:
        if host == "::" and not socket.has_dualstack_ipv6():
            host = "0.0.0.0"  # noqa: S104 - the console is meant to be reached
        super().__init__(host, port, application, handler=_Handler)
        self.ssl_context = _context(pem)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            request.settimeout(_SECONDS)
            assert isinstance(self.ssl_context, ssl.SSLContext)  # noqa: S101 - made above
            secured = self.ssl_context.wrap_socket(request, server_side=True)
        except OSError:  # scanners, browsers that do not trust us yet
            self.shutdown_request(request)
            return
        super().process_request_thread(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks off is none of our errors; the application reports its own."""


def _context(pem: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with tempfile.NamedTemporaryFile(prefix="refloat-tls-") as file:  # ssl takes files only; this one is in memory
        file.write(pem)
        file.flush()
        context.load_cert_chain(file.name)
    return context
