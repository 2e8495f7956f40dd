"""The process that is killed: `python -m tests.soak.child WORK FOLDER POINT`. WORK is image, restore, verify,
prune or gc.

POINT is `KIND NTH MODE`: SIGKILL to itself before, after or half-way through the NTH call of KIND. Kinds: a site's verb
(`de:put`), a system call (`os:link`), a record of the journal (`journal`), a hole punched in a target (`punch`),
`between` (one site committed, the other about to), `none` (nothing: prints how often each kind was called, as JSON).
"""

from __future__ import annotations

import collections
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import appliance.image
from appliance.config import SiteConfig
from imager.repository import journal
from imager.sites import open_site
from imager.sites.base import Site
from imager.sites.fault import Fault, Rule, What
from imager.sites.wrap import Retry
from imager.target import Target
from tests.soak.keeping import collect, pruner
from tests.soak.stage import SITES, Stage, restore_into

CALLS = ("fsync", "fdatasync", "link", "replace", "unlink", "mkdir", "pwrite", "preadv", "ftruncate")
PAGE = 4096


class Trap:
    """Counts calls by kind and dies at the one it was set for."""

    def __init__(self, kind: str, nth: int, mode: str) -> None:
        self.kind, self.nth, self.mode = kind, nth, mode
        self.counts: collections.Counter[str] = collections.Counter()
        self.faults: list[Fault] = []
        self._lock = threading.Lock()

    def around(self, kind: str, plain: Callable[..., Any], half: Callable[..., object] | None = None) -> Any:
        """`plain`, trapped; `half` does a part of it."""

        def trapped(*args: Any, **more: Any) -> Any:
            with self._lock:
                self.counts[kind] += 1
                due = kind == self.kind and self.counts[kind] == self.nth
            if due and self.mode == "half" and half is not None:
                half(*args, **more)
            if due and self.mode != "after":
                die()
            try:
                return plain(*args, **more)
            finally:
                if due:  # however the call ended
                    die()

        return trapped

    def site(self, inner: Site, committed: Callable[[float], None]) -> Site:
        """A site that may kill; `committed` waits until the other site has the image."""
        rules: list[Rule] = []
        name, _, verb = self.kind.partition(":")
        if name == inner.name:
            what = What.KILL_AFTER if self.mode == "after" else What.KILL_BEFORE
            rules.append(Rule(what, verb=verb, nth=self.nth))
        if self.kind == "between" and inner.name == "fr":
            rules.append(Rule(What.HANG, verb="put", contains="images/", nth=1))
            rules.append(Rule(What.KILL_BEFORE, verb="put", contains="images/", nth=1))
        fault = Fault(inner, rules, sleep=committed)
        self.faults.append(fault)
        return fault

    def report(self) -> str:
        """How often each kind was called."""
        for fault in self.faults:
            for verb, _ in fault.calls:
                self.counts[f"{fault.name}:{verb}"] += 1
        return json.dumps(self.counts)


def die() -> NoReturn:
    """The real thing: no handler runs, no buffer is flushed."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def set_traps(trap: Trap) -> None:
    """Put the trap around the system calls and the journal's file."""
    plain_pwrite = os.pwrite

    def half_pwrite(handle: int, buffer: memoryview, offset: int) -> None:
        half = len(buffer) // 2
        plain_pwrite(handle, buffer[: half // PAGE * PAGE or (0 if len(buffer) % PAGE == 0 else half)], offset)

    for name in CALLS:
        half = half_pwrite if name == "pwrite" else None
        setattr(os, name, trap.around(f"os:{name}", getattr(os, name), half))
    plain_open = open

    class JournalFile:
        def __init__(self, file: Any) -> None:
            self._file, self.fileno, self.close = file, file.fileno, file.close
            self.write = trap.around("journal", file.write, lambda record: file.write(record[: len(record) // 2]))

    def trapped_open(path: Any, mode: str = "r", **more: Any) -> Any:
        file = plain_open(path, mode, **more)
        return JournalFile(file) if mode == "xb" else file

    setattr(journal, "open", trapped_open)  # noqa: B010 - a name of the builtins, hidden for this module
    setattr(Target, "_punch", trap.around("punch", Target._punch))  # noqa: B010 - a method replaced on purpose


def image(stage: Stage, trap: Trap) -> None:
    past = set((stage.folder / "de").glob("servers/*/images/*"))

    def committed(_: float) -> None:
        while set((stage.folder / "de").glob("servers/*/images/*")) == past:
            time.sleep(0.01)

    def connect(entry: SiteConfig) -> Site:
        return Retry(trap.site(open_site(entry.name, entry.url), committed))

    setattr(appliance.image, "connect", connect)  # noqa: B010 - where faults come in
    stage.image()


def restore(stage: Stage, trap: Trap) -> None:
    stage.sites = {name: trap.site(stage.sites[name], lambda _: None) for name in SITES}
    restore_into(stage.open("de"), stage.folder / "out")


def verify(stage: Stage, trap: Trap) -> None:
    stage.sites = {name: trap.site(stage.sites[name], lambda _: None) for name in SITES}
    for name in SITES:
        stage.verify(name).report.raise_for_status()


def prune(stage: Stage, trap: Trap) -> None:
    stage.sites = {name: trap.site(stage.sites[name], lambda _: None) for name in SITES}
    pruner(stage).run("de", apply=True)


def gc(stage: Stage, trap: Trap) -> None:
    stage.sites = {name: trap.site(stage.sites[name], lambda _: None) for name in SITES}
    collect(stage, "de")


WORKS = {"image": image, "restore": restore, "verify": verify, "prune": prune, "gc": gc}


def main(work: str, folder: str, point: str) -> None:
    kind, nth, mode = point.split(" ") if point != "none" else ("none", "0", "before")
    stage = Stage(Path(folder), {})
    trap = Trap(kind, int(nth), mode)
    set_traps(trap)
    print("go", flush=True)
    WORKS[work](stage, trap)
    print(trap.report(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
