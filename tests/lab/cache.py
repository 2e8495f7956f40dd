"""What was built or passed, kept in the user's cache folder by a digest of recipe and inputs.

An artifact is a folder, made under another name and renamed when it is complete: after a power failure it is either
there or not. One builder at a time for each (flock); the others wait and find it. Lives for one command.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.tools import GuestCrash

#: How many versions of an artifact stay, the one in use included: they are large, and old ones rarely wanted again.
KEPT = 1
#: Not pruned when wanted within so many seconds: another lab may be at work with it.
RECENT = 3600


def place() -> Path:
    """The lab's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "refloat" / "lab"


@dataclass(frozen=True)
class Artifact:
    """A complete folder; `digest` stands for everything it was made from, also through `needs`."""

    name: str
    digest: str
    path: Path

    @property
    def facts(self) -> dict[str, object]:
        """What its builder noted with `note`."""
        found = json.loads((self.path / "facts.json").read_text()) if (self.path / "facts.json").exists() else {}
        assert isinstance(found, dict)
        return found


@dataclass
class Cache:
    """Artifacts below `root`; `said` is told what is built. With `fresh`, steps of scenarios are done again, once.

    `draft` is the folder of the last build that failed or is under way.
    """

    root: Path = field(default_factory=place)
    said: Callable[[str], None] = print
    fresh: bool = False
    draft: Path | None = None
    _done: set[str] = field(default_factory=set)

    def get(
        self,
        name: str,
        inputs: Sequence[str],
        build: Callable[[Path], None],
        needs: Sequence[Artifact] = (),
        *,
        step: bool = False,
    ) -> Artifact:
        """The artifact for these inputs, built by `build(folder)` if it is not there; what `build` raises, passes.

        A `step` proves something, and is what `fresh` does again; the rest is only material.
        """
        digest = digest_of([name, *inputs, *(each.digest for each in needs)])
        made = Artifact(name, digest, self.root / f"{name}-{digest}")
        self.root.mkdir(parents=True, exist_ok=True)
        with _locked(self.root / f".lock-{name}"):
            if step and self.fresh and name not in self._done:
                shutil.rmtree(made.path, ignore_errors=True)
            self._done.add(name)
            if not made.path.exists():
                self._build(made, build, needs)
            os.utime(made.path)
            self._prune(name, made)
        return made

    def _build(self, made: Artifact, build: Callable[[Path], None], needs: Sequence[Artifact]) -> None:
        self.said(f"building {made.path.name}")
        before = time.monotonic()
        # Built in its final parent: a rename within one filesystem is one step. Left-overs of a killed build go first.
        draft = self.root / f".draft-{made.path.name}"
        for stale in self.root.glob(f".draft-{made.name}-*"):
            if stale.name.rpartition("-")[0] == f".draft-{made.name}":
                shutil.rmtree(stale)
        draft.mkdir()
        self.draft = draft
        try:
            build(draft)
        except GuestCrash as error:
            self.said(f"{made.name}: {error}\n    once more, from the start")
            shutil.rmtree(draft)
            draft.mkdir()
            build(draft)
            note(draft, once_more=str(error))
        (draft / "needs.json").write_text(json.dumps([each.path.name for each in needs]))
        os.sync()
        draft.rename(made.path)
        os.sync()
        self.said(f"built {made.path.name} in {time.monotonic() - before:.0f} s")

    def _prune(self, name: str, newest: Artifact) -> None:
        """Drop old versions of `name` that nothing else needs."""
        found = [path for path in self.root.glob(f"{name}-*") if path.name.rpartition("-")[0] == name]
        found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        needed = self._needed()
        for path in found[KEPT:]:
            if path.name not in needed and time.time() - path.stat().st_mtime > RECENT:
                self.said(f"dropping {path.name}")
                shutil.rmtree(path)

    def _needed(self) -> set[str]:
        """Artifacts that others stand on (their disks' backing files)."""
        return {each for path in self.root.glob("*/needs.json") for each in json.loads(path.read_text())}


def digest_of(parts: Sequence[str]) -> str:
    """16 hex digits that stand for these parts in this order."""
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:16]


def digest_of_files(*roots: Path) -> str:
    """A digest of files' names, modes and bytes below folders (or of single files); byte code does not count."""
    found = hashlib.sha256()
    for root in roots:
        for path in sorted([root, *root.rglob("*")]):
            if "__pycache__" in path.parts or path.suffix == ".pyc" or not (path.is_file() or path.is_symlink()):
                continue
            body = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
            head = f"{path.relative_to(root.parent)} {path.lstat().st_mode & 0o7777:o} {len(body)}\n"
            found.update(head.encode() + body)
    return found.hexdigest()[:16]


def note(folder: Path, **facts: object) -> None:
    """Add to what an artifact under construction says about itself."""
    path = folder / "facts.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, **facts}, indent=1, sort_keys=True))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
