"""The runner starts real tools: what they may see, how a failure reads, that nothing is left running."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from core.errors import ToolError
from core.run import SystemRunner, find_tool

pytestmark = pytest.mark.block


def test_output_and_built_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "s3cret")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    text = SystemRunner().run(["env"], purpose="see the environment").text
    assert "LC_ALL=C.UTF-8" in text and "SECRET" not in text


def test_stdin_is_closed_unless_given() -> None:
    runner = SystemRunner()
    assert runner.run(["cat"], purpose="read").stdout == b""
    assert runner.run(["cat"], purpose="read", stdin=b"abc").stdout == b"abc"


def test_no_shell_between() -> None:
    assert SystemRunner().run(["echo", "$HOME; *"], purpose="say").text == "$HOME; *\n"


def test_a_failure_says_what_could_not_be_done() -> None:
    with pytest.raises(ToolError) as caught:
        SystemRunner().run(["ls", "/no/such"], purpose="list it")
    assert caught.value.message.startswith("could not list it: ls ended with exit code 2: ls: cannot access")
    assert caught.value.fields["exit_code"] == 2


def test_a_signal_is_named() -> None:
    with pytest.raises(ToolError, match="signal SIGKILL"):
        SystemRunner().run(["sh", "-c", "kill -9 $$"], purpose="die")


def test_codes_that_are_no_failure() -> None:
    assert SystemRunner().run(["false"], purpose="try", ok=(0, 1)).code == 1


def test_a_missing_tool_points_to_the_doctor() -> None:
    with pytest.raises(ToolError, match="refloat-none is not installed") as caught:
        SystemRunner().run(["refloat-none"], purpose="try")
    assert "doctor" in (caught.value.hint or "")
    assert find_tool("refloat-none") is None and find_tool("ls")


def test_a_tool_that_is_not_executable(tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\n")
    with pytest.raises(ToolError, match="cannot be started: Permission denied"):
        SystemRunner().run([str(tool)], purpose="try")
    with (
        pytest.raises(ToolError, match="cannot be started: Permission denied"),
        SystemRunner().stream([str(tool)], purpose="try"),
    ):
        pass


def test_an_overrun_is_killed() -> None:
    begun = time.monotonic()
    with pytest.raises(ToolError, match="took over"):
        SystemRunner().run(["sleep", "60"], purpose="wait", timeout=0.2)
    assert time.monotonic() - begun < 10


def test_an_overrun_takes_what_it_has_started_with_it(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="took over"):
        SystemRunner().run(["sh", "-c", f"sleep 60 & echo $! >{tmp_path}/pid; wait"], purpose="wait", timeout=0.5)
    assert _gone(int((tmp_path / "pid").read_text()))


def test_an_interrupted_tool_may_finish_what_it_is_in_the_middle_of(tmp_path: Path) -> None:
    script = f"trap 'echo resumed >{tmp_path}/said; exit' TERM; echo $$ >{tmp_path}/pid; while :; do sleep 0.1; done"
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(KeyboardInterrupt):
            SystemRunner().run(["sh", "-c", script], purpose="wait")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert (tmp_path / "said").read_text() == "resumed\n" and _gone(int((tmp_path / "pid").read_text()))


def _gone(pid: int) -> bool:
    """Whether the process ends within two seconds: an orphan is reaped by whoever is first here."""
    for _ in range(20):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.1)
    return False


def test_a_stream_left_early_leaves_no_process(tmp_path: Path) -> None:
    with SystemRunner().stream(["sh", "-c", f"echo $$ > {tmp_path}/pid; exec yes"], purpose="read") as stream:
        assert stream.stdout.read(4) == b"y\ny\n"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_stream_that_fails_is_judged() -> None:
    with SystemRunner().stream(["sh", "-c", "echo part; echo broken >&2; exit 3"], purpose="read all") as stream:
        assert stream.stdout.read() == b"part\n"
        with pytest.raises(ToolError, match="could not read all: sh ended with exit code 3: broken"):
            stream.finish()
