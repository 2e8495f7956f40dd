"""What holds for every test: tiers, the unit tier's fence, and skips that CI does not accept.

A test without a tier mark is a unit test: it starts no process, touches no device and no network. Marks: `block`
(root, loop devices, real tools), `soak`, `fuzz`, `vm`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator

import hypothesis
import pytest

TIERS = frozenset({"block", "soak", "fuzz", "vm"})

#: Skip reasons CI accepts, as substrings; each says what a machine may rightly lack.
ACCEPTED_SKIPS: tuple[str, ...] = ()

_STRICT = os.environ.get("CI") == "true" or os.environ.get("REFLOAT_NO_SKIP") == "1"
_PROCESS_EVENTS = frozenset({"subprocess.Popen", "os.system", "os.posix_spawn", "os.exec", "os.fork", "os.forkpty"})
_HARMLESS_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/urandom", "/dev/random", "/dev/shm/", "/dev/fd/")
_fence = {"up": False}

hypothesis.settings.register_profile("refloat", deadline=None, print_blob=True, derandomize=_STRICT)
hypothesis.settings.load_profile("refloat")


class FenceError(BaseException):
    """A unit test left its tier. Not an Exception, so that no handler under test swallows it."""


def _audit(event: str, args: tuple[object, ...]) -> None:
    if not _fence["up"]:
        return
    if event in _PROCESS_EVENTS:
        raise FenceError(f"a unit test started a process ({event} {args[0] if args else ''}): mark it `block`")
    if event == "open" and isinstance(args[0], str) and args[0].startswith("/dev/"):
        if not args[0].startswith(_HARMLESS_DEVICES):
            raise FenceError(f"a unit test opened {args[0]}: mark it `block`")
    if event == "socket.connect" and isinstance(args[1], tuple):
        raise FenceError(f"a unit test connected to {args[1]}")


sys.addaudithook(_audit)


@pytest.fixture(autouse=True)
def unit_fence(request: pytest.FixtureRequest) -> Iterator[None]:
    """Keeps unit tests from processes, devices and the network; other tiers are let through."""
    _fence["up"] = not any(request.node.get_closest_marker(tier) for tier in TIERS)
    try:
        yield
    finally:
        _fence["up"] = False


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip whose reason is not accepted into a failure."""
    if not _STRICT or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not any(accepted in reason for accepted in ACCEPTED_SKIPS):
        report.outcome = "failed"
        report.longrepr = f"skipped where it should have run: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report
