"""Real object stores for tests, each a process of its own on a free port of this machine: rclone and moto.

No single one is enough: `rclone serve s3` checks signatures and digests and ignores create-only puts and versions;
moto has create-only puts, versions and Object Lock, and takes any key.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from imager.sites.s3 import S3Site
from imager.sites.s3client import Access

KEY, SECRET = "refloat", "refloat-secret-of-tests"
_START_SECONDS = 60
_numbers = itertools.count()


def access(port: int) -> Access:
    """How a store on this port is reached."""
    return Access(endpoint=f"http://127.0.0.1:{port}", region="us-east-1", access_key_id=KEY, secret_access_key=SECRET)


def bucket(port: int, *, versions: bool = False, lock: bool = False) -> str:
    """A new bucket at the store."""
    name = f"b{os.getpid()}-{next(_numbers)}-{uuid.uuid4().hex[:8]}"
    client = S3Site("maker", name, access=access(port)).client
    more = {"ObjectLockEnabledForBucket": True} if lock else {}
    client.ask("create_bucket", "", **more)
    if versions:
        client.ask("put_bucket_versioning", "", VersioningConfiguration={"Status": "Enabled"})
    client.close()
    return name


@contextlib.contextmanager
def rclone(root: Path) -> Iterator[int]:
    """`rclone serve s3` over a folder; the port."""
    port = _free()
    command = [str(Path(sys.executable).parent / "rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}",
               "--auth-key", f"{KEY},{SECRET}", "--config", "/dev/null", str(root)]  # fmt: skip
    with _running(command, port, root.parent):
        yield port


@contextlib.contextmanager
def moto(root: Path) -> Iterator[int]:
    """moto in server mode; the port."""
    port = _free()
    with _running([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port, root):
        yield port


@contextlib.contextmanager
def _running(command: list[str], port: int, folder: Path) -> Iterator[None]:
    with (folder / f"store-{port}.log").open("wb") as log:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            _wait(child, port, Path(log.name))
            yield
        finally:
            child.terminate()
            child.wait(30)


def _wait(child: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and child.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise AssertionError(f"the store did not start: {log.read_text()[-2000:]}")


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
