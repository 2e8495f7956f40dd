"""Serves the built files over HTTP, with ranges, and an iPXE script that names the address it was asked at.

Lives as long as `refloat rescue serve`. Knows a fixed list of names; nothing else in the folder can be had. May import
`core` and `bootenv.script`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO, cast

from bootenv.script import APP, BASE, INITRD, KERNEL, Digests, ipxe_script

SCRIPT = "boot.ipxe"
#: What may be asked for.
NAMES = (KERNEL, INITRD, BASE, APP, "refloat.iso", "refloat-ipxe.iso", "SHA256SUMS", "snponly.efi", "undionly.kpxe")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class FileServer(ThreadingHTTPServer):
    """The server; `words` are added to the kernel line. Port 0: a free one."""

    daemon_threads = True

    def __init__(self, folder: Path, digests: Digests, address: tuple[str, int], words: Sequence[str] = ()) -> None:
        self.folder, self.digests, self.words = folder, digests, tuple(words)
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "refloat"
    sys_version = ""
    timeout = 120

    def do_GET(self) -> None:  # noqa: N802 - http.server's name
        self._answer(body=True)

    def do_HEAD(self) -> None:  # noqa: N802
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        server = cast(FileServer, self.server)
        name = self.path.partition("?")[0].removeprefix("/")
        if name == SCRIPT:
            host, port = self.connection.getsockname()[:2]
            data = ipxe_script(server.digests, f"http://{host}:{port}/", server.words).encode()
            self._head(HTTPStatus.OK, len(data))
            if body:
                self.wfile.write(data)
        elif name in NAMES:
            self._file(server.folder / ("tftp" if name.endswith(("pxe", "efi")) else "") / name, body=body)
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _file(self, path: Path, *, body: bool) -> None:
        try:
            file = path.open("rb")
        except OSError:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with file:
            size = path.stat().st_size
            wanted = byte_range(self.headers.get("Range"), size)
            if wanted is None:
                self._head(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, 0, f"bytes */{size}")
                return
            start, length = wanted
            if self.headers.get("Range"):
                self._head(HTTPStatus.PARTIAL_CONTENT, length, f"bytes {start}-{start + length - 1}/{size}")
            else:
                self._head(HTTPStatus.OK, length)
            if body:
                self._send(file, start, length)

    def _head(self, status: HTTPStatus, length: int, content_range: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("Accept-Ranges", "bytes")
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()

    def _send(self, file: BinaryIO, start: int, length: int) -> None:
        file.seek(start)
        if start + length == Path(file.name).stat().st_size:
            shutil.copyfileobj(file, self.wfile, 1 << 20)
            return
        while length > 0 and (chunk := file.read(min(length, 1 << 20))):
            self.wfile.write(chunk)
            length -= len(chunk)


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """(start, length) of an HTTP Range header over `size` bytes (RFC 9110, 14.1.2): all of it when there is none or
    it is not understood, None when it cannot be satisfied."""
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or match[1] == match[2] == "":
        return 0, size
    if not match[1]:  # the last N bytes
        length = min(int(match[2]), size)
        return (size - length, length) if length else None
    start = int(match[1])
    end = int(match[2]) if match[2] else size - 1
    if match[2] and end < start:
        return 0, size
    return None if start >= size else (start, min(end, size - 1) - start + 1)
