"""The inside of a LUKS container, seen through a snapshot of the volume that carries it.

Opened with the key file of /etc/crypttab, or with the running container's own table where the kernel still shows its
key (LUKS1, or opened with `--disable-keyring`). Read-only; closed with its context. Imports `core` and its neighbours.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from core.errors import SourceError, ToolError
from core.layout import Crypt
from core.run import Runner

_NAME = re.compile(r"refloat-\d{8}T\d{6}Z-.+")


@contextlib.contextmanager
def opened(snapshot: str, crypt: Crypt, image: str, runner: Runner) -> Iterator[str]:
    """The path of the opened inside of the snapshot at a path. Raises SourceError when no key is at hand."""
    name = f"refloat-{image}-{crypt.name}"[:120]
    key_file = _key_file(crypt)
    if key_file is not None:
        argv = ["cryptsetup", "open", "--readonly", "--type", "luks", "--key-file", key_file, snapshot, name]
        runner.run(argv, purpose=f"open the snapshot of {crypt.name}", timeout=300)
    else:
        runner.run(
            ["dmsetup", "create", name, "--readonly"], purpose=f"open the snapshot of {crypt.name}",
            stdin=_table(snapshot, crypt, runner).encode(),
        )  # fmt: skip
    try:
        yield f"/dev/mapper/{name}"
    finally:
        close(name, runner)


def close(name: str, runner: Runner) -> None:
    """Take an opened inside away."""
    runner.run(["dmsetup", "remove", "--retry", name], purpose=f"close {name}")


def sweep(runner: Runner) -> None:
    """Close what killed runs left open: it holds their snapshots."""
    text = runner.run(["dmsetup", "ls", "--target", "crypt"], purpose="list opened containers").text
    for name in (line.split("\t")[0] for line in text.splitlines()):
        if _NAME.fullmatch(name):
            close(name, runner)


def _key_file(crypt: Crypt, crypttab: Path = Path("/etc/crypttab")) -> str | None:
    """The key file that crypttab(5) gives for the container, when it is a plain file here."""
    if not crypttab.is_file():
        return None
    for line in crypttab.read_text("utf-8", "replace").splitlines():
        fields = line.split()
        if len(fields) >= 3 and not line.lstrip().startswith("#") and fields[0] == crypt.name:
            odd = len(fields) > 3 and ("keyfile-" in fields[3] or "keyscript" in fields[3])
            return fields[2] if os.path.isfile(fields[2]) and not odd else None
    return None


def _table(snapshot: str, crypt: Crypt, runner: Runner) -> str:
    """The running container's table, over the snapshot."""
    words = runner.run(
        ["dmsetup", "table", "--showkeys", crypt.name], purpose=f"read the table of {crypt.name}"
    ).text.split()
    if len(words) < 8 or words[2] != "crypt":
        raise ToolError(f"{crypt.name} has a table that is not known")
    if words[4].startswith(":"):
        raise SourceError(
            f"the snapshot of {crypt.name} cannot be opened: its key is in the kernel's keyring, and "
            "/etc/crypttab names no key file for it",
            hint="add a key file to it (cryptsetup luksAddKey) and name it in /etc/crypttab, or close it while imaging",
        )
    words[6] = snapshot
    return " ".join(words)
