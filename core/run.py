"""The one way a system tool is started: list argv, no shell, stdin closed, built environment, always reaped.

A Runner is passed to whatever needs a tool, so that tests record calls and dry runs print them. A failure raises
ToolError with argv, exit code or signal, the end of stderr and the purpose; there is no code to be remembered.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shlex
import shutil
import signal
import subprocess  # noqa: S404 - the one place that starts processes
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Protocol

from core.errors import ToolError

log = logging.getLogger("refloat.run")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TAIL_BYTES = 2000
#: Pipes between tools: with the kernel's 64 KiB both sides wake each other all the time.
_PIPE_BYTES = 1 << 20
#: How long a tool that is asked to end has for it.
_END_SECONDS = 10


@dataclass(frozen=True)
class Result:
    """What a finished tool left: exit `code`, `stdout` and `stderr` as bytes."""

    argv: tuple[str, ...]
    code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """stdout as text; bytes that are not UTF-8 are replaced."""
        return self.stdout.decode("utf-8", "replace")


class Runner(Protocol):
    """Starts tools. `ok` lists the exit codes that are no failure; `purpose` completes "could not …"."""

    def run(
        self,
        argv: Sequence[str],
        *,
        purpose: str,
        ok: Sequence[int] = (0,),
        timeout: float = 120,
        stdin: bytes | None = None,
    ) -> Result: ...

    def stream(self, argv: Sequence[str], *, purpose: str) -> contextlib.AbstractContextManager[Stream]: ...


class Stream:
    """A tool that runs while its stdout is read. `finish()` waits for it and raises ToolError if it failed."""

    def __init__(self, process: subprocess.Popen[bytes], argv: Sequence[str], purpose: str, errors: IO[bytes]) -> None:
        self._process, self._argv, self._purpose, self._errors = process, tuple(argv), purpose, errors
        assert process.stdout is not None  # noqa: S101 - Popen was given PIPE
        self.stdout: IO[bytes] = process.stdout

    def finish(self, timeout: float = 600) -> None:
        """Wait for the exit and judge it."""
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise ToolError(f"could not {self._purpose}: {self._argv[0]} did not end", argv=list(self._argv)) from error
        self._errors.seek(0)
        _judge(Result(self._argv, code, b"", self._errors.read()), (0,), self._purpose)


class SystemRunner:
    """Runs tools on this machine."""

    def run(
        self,
        argv: Sequence[str],
        *,
        purpose: str,
        ok: Sequence[int] = (0,),
        timeout: float = 120,
        stdin: bytes | None = None,
    ) -> Result:
        """Run to the end and return what it printed.

        Raises ToolError when the tool is missing, overruns `timeout` seconds, or exits with a code not in `ok`.
        """
        log.debug("run: %s", shlex.join(argv))
        try:
            # A group of its own: Ctrl-C is for this program, and what a tool has started ends with it.
            process = subprocess.Popen(  # noqa: S603 - list argv, no shell
                list(argv),
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_environment(),
                process_group=0,
            )
        except OSError as error:
            raise _not_started(argv, purpose, error) from error
        with process:
            try:
                stdout, stderr = process.communicate(stdin, timeout)
            except subprocess.TimeoutExpired as error:
                _end_group(process)
                raise ToolError(f"could not {purpose}: {argv[0]} took over {timeout:.0f} s", argv=list(argv)) from error
            except BaseException:
                _end_group(process)
                raise
        return _judge(Result(tuple(argv), process.returncode, stdout, stderr), ok, purpose)

    @contextlib.contextmanager
    def stream(self, argv: Sequence[str], *, purpose: str) -> Iterator[Stream]:
        """Start a tool and read its stdout while it runs; it is killed and reaped when the block is left."""
        log.debug("stream: %s", shlex.join(argv))
        with tempfile.TemporaryFile() as errors:
            try:
                process = subprocess.Popen(  # noqa: S603 - list argv, no shell
                    list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=_environment()
                )
            except OSError as error:
                raise _not_started(argv, purpose, error) from error
            try:
                yield Stream(process, argv, purpose, errors)
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()
                if process.stdout is not None:
                    process.stdout.close()


class Companion:
    """A process of our own program that runs beside this one, and outlives it: `finish()` ends the talk."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._said = b""

    def send(self, line: bytes) -> None:
        """Write to its stdin; one that is gone does not mind."""
        assert self._process.stdin is not None  # noqa: S101 - Popen was given PIPE
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def receive(self) -> bytes:
        """Its next line; empty at its end."""
        assert self._process.stdout is not None  # noqa: S101 - Popen was given PIPE
        return self._process.stdout.readline()

    def finish(self, timeout: float = 60) -> bytes:
        """Close its stdin and wait for its exit; the last line it wrote that was not received. Raises ToolError."""
        try:
            said, _ = self._process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as error:
            self._process.kill()
            self._process.communicate()
            raise ToolError("a helper process did not end", argv=list(map(str, self._process.args))) from error  # type: ignore[arg-type]
        return said


def start_companion(argv: Sequence[str], *, purpose: str) -> Companion:
    """Start a process that talks by lines on stdin and stdout, in a session of its own: it is not ended with this one,
    but sees the end of its stdin then."""
    log.debug("companion: %s", shlex.join(argv))
    try:
        process = subprocess.Popen(  # noqa: S603 - list argv, no shell
            list(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_environment(),
            start_new_session=True, cwd="/",
        )  # fmt: skip
    except OSError as error:
        raise _not_started(argv, purpose, error) from error
    return Companion(process)


class Pipeline:
    """Tools in a row, each reading what the one before it writes. `stdin` feeds the first (unbuffered), `stdout` is
    what the last one says; both are for one thread each."""

    def __init__(self, processes: list[subprocess.Popen[bytes]], purpose: str, errors: list[IO[bytes]]) -> None:
        self._processes, self._purpose, self._errors = processes, purpose, errors
        first, last = processes[0].stdin, processes[-1].stdout
        assert first is not None and last is not None  # noqa: S101 - Popen was given PIPE
        self.stdin: IO[bytes] = first
        self.stdout: IO[bytes] = last

    def finish(self, timeout: float = 600) -> None:
        """Wait for all of them and judge them, the first in the row first. Raises ToolError."""
        results = []
        for process, errors in zip(self._processes, self._errors, strict=True):
            argv = tuple(map(str, process.args))  # type: ignore[arg-type]
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired as error:
                raise ToolError(f"could not {self._purpose}: {argv[0]} did not end", argv=list(argv)) from error
            errors.seek(0)
            results.append(Result(argv, code, b"", errors.read()))
        # One that lost its reader only shows what happened behind it.
        for result in sorted(results, key=lambda each: each.code == -signal.SIGPIPE):
            _judge(result, (0,), self._purpose)

    def kill(self) -> None:
        """End them all at once; whoever writes to them or reads from them sees that."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()


@contextlib.contextmanager
def pipeline(argvs: Sequence[Sequence[str]], *, purpose: str, keep: Sequence[int] = ()) -> Iterator[Pipeline]:
    """Start tools in a row; killed and reaped when the block is left. `keep` are file descriptors they inherit."""
    processes: list[subprocess.Popen[bytes]] = []
    with contextlib.ExitStack() as stack:
        errors: list[IO[bytes]] = [stack.enter_context(tempfile.TemporaryFile()) for _ in argvs]
        stack.callback(_reap, processes)
        for argv, said in zip(argvs, errors, strict=True):
            log.debug("pipeline: %s", shlex.join(argv))
            source = processes[-1].stdout if processes else subprocess.PIPE
            try:
                process = subprocess.Popen(  # noqa: S603 - list argv, no shell
                    list(argv), stdin=source, stdout=subprocess.PIPE, stderr=said, env=_environment(), bufsize=0,
                    pass_fds=tuple(keep), process_group=0,
                )  # fmt: skip
            except OSError as error:
                raise _not_started(argv, purpose, error) from error
            for end in (process.stdin, process.stdout):
                if end is not None:
                    with contextlib.suppress(OSError):  # a user's pipes may be limited; it is a matter of speed
                        fcntl.fcntl(end.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            if processes and processes[-1].stdout is not None:
                processes[-1].stdout.close()  # only the next one reads it: a reader that dies is noticed
            processes.append(process)
        yield Pipeline(processes, purpose, errors)


def _reap(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()
        for end in (process.stdin, process.stdout):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.close()


def find_tool(name: str) -> str | None:
    """Full path of a tool on the built PATH, or None."""
    return shutil.which(name, path=_PATH)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a tool and all it has started. It is asked first: LVM, killed between suspend and resume, would leave a
    volume that nobody can write to; asked, it ends behind its critical section."""
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(_END_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _environment() -> dict[str, str]:
    return {
        "PATH": _PATH,
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "HOME": "/root",
        "TMPDIR": tempfile.gettempdir(),
    }


def _not_started(argv: Sequence[str], purpose: str, error: OSError) -> ToolError:
    why = "is not installed" if isinstance(error, FileNotFoundError) else f"cannot be started: {error.strerror}"
    return ToolError(
        f"could not {purpose}: {argv[0]} {why}",
        hint="`refloat doctor` lists what is missing",
        argv=list(argv),
    )


def _judge(result: Result, ok: Sequence[int], purpose: str) -> Result:
    if result.code in ok:
        return result
    how = f"exit code {result.code}" if result.code >= 0 else f"signal {signal.Signals(-result.code).name}"
    tail = (
        result.stderr[-_TAIL_BYTES:].decode("utf-8", "replace").strip()
        or result.stdout[-_TAIL_BYTES:].decode("utf-8", "replace").strip()
    )
    last = tail.splitlines()[-1].strip() if tail else "it printed nothing"
    raise ToolError(
        f"could not {purpose}: {result.argv[0]} ended with {how}: {last}",
        argv=list(result.argv),
        exit_code=result.code,
        stderr=tail,
    )
