"""`python -m tests.lab`: scenarios listed or run. Each leaves its evidence in build/lab/NAME."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

from tests.lab.cache import Cache
from tests.lab.lab import Lab
from tests.lab.scenarios import SCENARIOS
from tests.lab.scenarios.base import Scenario

EVIDENCE = Path("build/lab")
_KINDS = (".log", ".png", ".json")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description="Real servers on virtual hardware.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="scenarios to run; see --list")
    parser.add_argument("--list", action="store_true", help="name every scenario")
    parser.add_argument("--all", action="store_true", help="run every scenario")
    parser.add_argument("--fresh", action="store_true", help="do again what has passed (servers stay cached)")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in SCENARIOS]
    if unknown or not (given.list or given.all or given.names):
        parser.error(f"no such scenario: {', '.join(unknown)}" if unknown else "name a scenario, or --all, or --list")
    if given.list:
        for each in SCENARIOS.values():
            print(f"{'◆' if each.essential else ' '} {each.name:32} {each.what}")
        return 0
    # As Ctrl-C does it: every block is left, so that machines and network go.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    lab = Lab(Cache(fresh=given.fresh))
    chosen = list(SCENARIOS.values()) if given.all else [SCENARIOS[name] for name in given.names]
    failed = [each.name for each in chosen if not attempt(lab, each)]
    print(f"{len(chosen) - len(failed)} of {len(chosen)} passed" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def attempt(lab: Lab, scenario: Scenario) -> bool:
    """Run one and say how it went; its evidence is gathered either way."""
    before, failure = time.monotonic(), ""
    lab.used.clear()
    try:
        scenario.run(lab)
    except Exception:
        failure = traceback.format_exc()
    lab.say(f"{'FAILED' if failure else 'passed'}: {scenario.name} in {time.monotonic() - before:.0f} s")
    gather(lab, scenario, failure)
    if failure:
        print(failure, file=sys.stderr)
    return not failure


def gather(lab: Lab, scenario: Scenario, failure: str) -> None:
    """Logs, screenshots and facts of every step, also of one that did not finish, into the scenario's folder."""
    folder = EVIDENCE / scenario.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "result.txt").write_text(failure or "passed\n")
    for step in [*lab.used, *([lab.cache.draft] if failure and lab.cache.draft else [])]:
        for path in sorted(each for each in step.rglob("*") if each.suffix in _KINDS and each.is_file()):
            copy = folder / step.name.lstrip(".") / path.relative_to(step)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


if __name__ == "__main__":
    sys.exit(main())
