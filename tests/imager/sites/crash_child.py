"""Run as a program by `test_file_crash.py`: puts one object into a file site and is killed on the way, really.

Arguments: the root, the MiB of the object, `named` or `unnamed` (without or with O_TMPFILE), and at which call to die:
`pwrite:3` is SIGKILL in front of the third `os.pwrite`; `never` waits to be killed from outside.
"""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import signal
import sys
from typing import Any

from imager.sites.file import FileSite


def die_before(call: str, nth: int) -> None:
    plain, count = getattr(os, call), itertools.count(1)

    def wrapped(*args: Any, **more: Any) -> Any:
        if next(count) == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(*args, **more)

    setattr(os, call, wrapped)


def refuse_tmpfile() -> None:
    plain = os.open

    def refuse(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return plain(path, flags, *rest, **more)

    os.open = refuse


def main(root: str, mib: str, draft: str, point: str) -> None:
    if draft == "named":
        refuse_tmpfile()
    body = memoryview(mmap.mmap(-1, int(mib) << 20))
    body[:] = b"\xa5" * len(body)
    site = FileSite("de", root)
    site.put("servers/a/0", [b"before"])  # mark and folders are there; what is counted is the put that follows
    if point != "never":
        call, _, nth = point.partition(":")
        die_before(call, int(nth))
    print("go", flush=True)
    # Read-only memory goes through the bounce buffer, a MiB a write: many points to die at.
    site.put("servers/a/packs/x", [body.toreadonly()])
    print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
