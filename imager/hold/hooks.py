"""Hooks: executables of the operator, run before the freeze and after the thaw, in order of their names.

A hook gets its phase and the image's name as arguments, and a time limit. One that fails or takes too long is a
warning: without it the image is what a power cut would leave, which is better than no image. Imports `core`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from core.errors import SourceError, ToolError
from core.run import Runner

PRE_FREEZE, POST_THAW = "pre-freeze", "post-thaw"


@dataclass(frozen=True)
class Hooks:
    """Where hooks are (`FOLDER/PHASE.d/*`), and how many seconds each may take."""

    folder: str
    seconds: float

    def run(self, phase: str, image: str, runner: Runner) -> list[str]:
        """Run all of a phase; what went wrong, as texts. Raises SourceError for a hook that is refused, before any."""
        for each in (PRE_FREEZE, POST_THAW):  # what would be refused after the thaw is refused before the freeze
            executables(Path(self.folder) / f"{each}.d")
        problems = []
        for path in executables(Path(self.folder) / f"{phase}.d"):
            argv = [str(path), phase, image]
            try:
                runner.run(argv, purpose=f"run the hook {path}", timeout=self.seconds)
            except ToolError as error:
                problems.append(error.message)
        return problems


def executables(folder: Path) -> list[Path]:
    """The executables of a folder by name; hidden files, and what editors and package managers leave, are not among
    them. Raises SourceError for one that anybody may write: it would run as root."""
    if not folder.is_dir():
        return []
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.endswith(("~", ".bak", ".dpkg-new", ".dpkg-old", ".rpmsave")):
            continue
        if path.is_file() and os.access(path, os.X_OK):
            if path.stat().st_mode & 0o002:
                raise SourceError(f"anybody can write the hook {path}", hint=f"chmod o-w {path}")
            found.append(path)
    return found
