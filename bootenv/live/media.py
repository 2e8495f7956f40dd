"""Filesystems that are mounted because somebody said so: a site on a disk, the stick with the kit. By label, never by
looking around. May import `core`, `bootenv.live.words`."""

from __future__ import annotations

import os.path
import re
import time
from pathlib import Path

from bootenv.live.words import fw_cfg_text, words_named
from core.errors import ConfigError, SourceError
from core.run import Runner

KIT_LABEL = "REFLOAT-KIT"
_KIT_FOLDER = Path("/run/refloat/kit")
_PLACE = re.compile(r"([A-Za-z0-9 ._-]{1,64}):(/(?:mnt|media|srv|run/refloat)/[A-Za-z0-9._/-]{1,200})")


def wanted_mounts(line: str) -> list[tuple[str, Path]]:
    """(label, folder) of the kernel's words `refloat.mount=` and the fw_cfg entry `mounts`. ConfigError for others."""
    return [_place(text) for text in (*words_named(line, "mount"), *fw_cfg_text("mounts").split("\n")) if text.strip()]


def _place(text: str) -> tuple[str, Path]:
    match = _PLACE.fullmatch(text.strip())
    if match is None or ".." in match[2]:
        raise ConfigError(f"not LABEL:/mnt/FOLDER: {text[:120]!r}", hint="below /mnt, /media or /srv")
    return match[1], Path(match[2])


def mount_label(label: str, folder: Path, runner: Runner, *, writable: bool, wait_seconds: float = 30) -> None:
    """Mount the one filesystem of this label. SourceError when there is none after a while, or more than one."""
    if os.path.ismount(folder):
        return
    until = time.monotonic() + wait_seconds
    while not (found := _devices(label, runner)) and time.monotonic() < until:
        time.sleep(1)
    if len(found) != 1:
        problem = f"{len(found)} filesystems have" if found else "no filesystem has"
        raise SourceError(f"{problem} the label {label}", hint="labels must be unique here; see `lsblk -f`")
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    options = "rw,nosuid,nodev,noexec" if writable else "ro,nosuid,nodev,noexec"
    runner.run(["mount", "-o", options, found[0], str(folder)], purpose=f"mount {label}")


def _devices(label: str, runner: Runner) -> list[str]:
    argv = ["blkid", "-c", "/dev/null", "-o", "device", "-t", f"LABEL={label}"]
    return runner.run(argv, purpose=f"look for the label {label}", ok=(0, 2)).text.split()


def kit_folder(runner: Runner, *, wait_seconds: float = 3) -> Path | None:
    """The stick labelled REFLOAT-KIT, mounted read-only; None when there is none."""
    if os.path.ismount(_KIT_FOLDER):
        return _KIT_FOLDER
    try:
        mount_label(KIT_LABEL, _KIT_FOLDER, runner, writable=False, wait_seconds=wait_seconds)
    except SourceError:
        if _devices(KIT_LABEL, runner):
            raise
        return None
    return _KIT_FOLDER


def find_kit(runner: Runner) -> Path | None:
    """The one `*.kit` on the stick. ConfigError when there are several."""
    folder = kit_folder(runner)
    found = sorted(folder.glob("*.kit")) if folder else []
    if len(found) > 1:
        raise ConfigError(f"the stick {KIT_LABEL} holds several kits: {', '.join(each.name for each in found)}")
    return found[0] if found else None
