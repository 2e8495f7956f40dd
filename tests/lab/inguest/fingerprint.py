"""Runs in a guest, on its own Python: prints a JSON object of every file below the given folders, by path: mode, owner,
size and SHA-256, or where a link points. Stays on the folders' own filesystems. Imports the standard library only."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterator


def describe(path: str, found: os.stat_result) -> str | None:
    """One file as text, or None for what has no content of its own."""
    head = f"{found.st_mode:o} {found.st_uid}:{found.st_gid}"
    if stat.S_ISLNK(found.st_mode):
        return f"{head} -> {os.readlink(path)}"
    if stat.S_ISREG(found.st_mode):
        with open(path, "rb") as file:
            return f"{head} {found.st_size} {hashlib.file_digest(file, 'sha256').hexdigest()}"
    return head if stat.S_ISDIR(found.st_mode) else None


def walk(top: str) -> Iterator[tuple[str, str]]:
    """(path, text) of everything below `top`."""
    device = os.lstat(top).st_dev
    for folder, folders, files in os.walk(top):
        folders[:] = [each for each in folders if os.lstat(os.path.join(folder, each)).st_dev == device]
        for path in [folder] + [os.path.join(folder, each) for each in files]:
            text = describe(path, os.lstat(path))
            if text is not None:
                yield path, text


json.dump({path: text for top in sys.argv[1:] for path, text in walk(top)}, sys.stdout)
