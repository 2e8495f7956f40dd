"""The `refloat` program: a table of commands and the one outermost frame (`main`). Holds no logic.

Lives as long as the process. Commands are imported when they are called, so that starting stays quick; may import
`core` at once and everything else through the table only.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import click

from core import __version__
from core.errors import RefloatError, WriteError

#: command → (module:attribute, one line of help)
COMMANDS: dict[str, tuple[str, str]] = {
    "image": ("appliance.cli.image:image", "Image this server to every site."),
    "images": ("appliance.cli.images:images", "List the images at the sites."),
    "show": ("appliance.cli.images:show", "Show one image: its disks, volumes and history."),
    "restore": ("appliance.cli.restore:restore", "Put an image back onto disks: plan, confirm, write, verify."),
    "layout": ("appliance.cli.layout:layout", "Show this machine's storage stack as an image would record it."),
    "release": ("appliance.cli.release:release", "Let a restored server that was held go on the network."),
    "export": ("appliance.cli.restore:export", "Write one volume of an image to a file or a pipe."),
    "mount": ("appliance.cli.mount:mount", "Show an image's volumes as read-only files."),
    "verify": ("appliance.cli.verify:verify", "Prove that every byte at the sites is intact."),
    "prune": ("appliance.cli.prune:prune", "Decide which images go: every image with its reason."),
    "keep": ("appliance.cli.prune:keep", "Pin an image, so that it stays whatever the policy says."),
    "gc": ("appliance.cli.gc:gc", "Delete what was decided, once its delay is over, and what nobody needs."),
    "replicate": (
        "appliance.cli.replicate:replicate",
        "Copy images from one site to another; heal damage.",
    ),
    "check": ("appliance.cli.check:check", "Check the set-up against the promise: two sites, two EU countries."),
    "doctor": ("appliance.cli.doctor:doctor", "Check this machine: tools, keys, clock, sites, recovery kit."),
    "keys": ("appliance.cli.keys:keys", "This server's own keys."),
    "kit": ("appliance.cli.kit:kit", "The recovery kit: the one file needed in a disaster."),
    "vault": ("appliance.cli.vault:vault", "A site behind HTTPS, for many servers."),
    "rescue": ("bootenv.cli:rescue", "The rescue environment: build it, serve it, order restores."),
    "config": ("appliance.cli.config:config", "The configuration file."),
}
_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@dataclass
class Session:
    """What `main` must know of a run: `--json`, and whether the one object is printed already."""

    as_json: bool = False
    emitted: bool = False


class HintedUsageError(click.UsageError):
    """A usage error that knows better what to do than `--help`."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class LazyGroup(click.Group):
    """Commands from `COMMANDS`, imported only when called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)  # noqa: S101 - the table is ours
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Help from the table: listing commands must not import them all."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group("refloat", cls=LazyGroup, context_settings=_HELP)
@click.version_option(__version__, prog_name="refloat")
def program() -> None:
    """Bare-metal disaster recovery: images of whole servers, and back onto other hardware.

    \b
    refloat config example > /etc/refloat/refloat.toml
    refloat keys new                      once on each server
    refloat kit new fleet.kit             once for the fleet
    refloat check && refloat image        every night
    refloat restore --kit fleet.kit …     when the hardware is dead
    """


class Terminated(BaseException):
    """SIGTERM (systemd, shutdown) or SIGHUP (a connection that is gone): everything is undone as after Ctrl-C, so that
    no snapshot stays. click would take a KeyboardInterrupt for Ctrl-C."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__()
        self.number = signal.Signals(number)


def _terminate(number: int, _frame: object) -> None:
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)  # once: what undoes must not be stopped half-way
    raise Terminated(number)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status (`core.errors.exit_table`)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    ours = arguments[: arguments.index("--")] if "--" in arguments else arguments
    session = Session(as_json="--json" in ours)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is signal.SIG_DFL:  # nohup ignores SIGHUP, and means it
            signal.signal(number, _terminate)
    try:
        program.main(arguments, prog_name="refloat", standalone_mode=False, obj=session)
        with to_stdout(session):
            sys.stdout.flush()
    except click.ClickException as error:
        return _usage(session, error)
    except click.Abort as error:
        return _abort(session, error)
    except Terminated as error:
        return _fail(session, "terminated", f"stopped by {error.number.name}", None, 128 + error.number)
    except KeyboardInterrupt:
        return _fail(session, "interrupted", "stopped by Ctrl-C", None, 130)
    except RefloatError as error:
        return _expected(session, error)
    except BrokenPipeError:
        _give_up_stdout()
        return 1
    except Exception as error:
        traceback.print_exc()
        return _fail(
            session, "bug", f"{type(error).__name__}: {error}", "this is a fault of Refloat's own: please report it", 70
        )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


@contextlib.contextmanager
def to_stdout(session: Session) -> Iterator[None]:
    """Around what prints: a full disk behind stdout is a WriteError, and no object is expected there any more."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        _give_up_stdout()
        session.emitted = True
        raise WriteError(f"stdout cannot be written: {error.strerror}") from error


def _give_up_stdout() -> None:
    """Let go what stdout still holds, so that the interpreter does not try it once more at its end and complain."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)


def _usage(session: Session, error: click.ClickException) -> int:
    context = getattr(error, "ctx", None)
    if isinstance(error, HintedUsageError):
        return _fail(session, "usage", error.format_message(), error.hint, 2)
    hint = f"see `{context.command_path} --help`" if isinstance(context, click.Context) else "see `refloat --help`"
    return _fail(session, "usage", error.format_message(), hint, 2)


def _abort(session: Session, error: click.Abort) -> int:
    """Click makes one of Ctrl-C and of a prompt that met the end of its input."""
    if isinstance(error.__cause__ or error.__context__, EOFError):
        return _fail(
            session,
            "usage",
            "nobody answered the question",
            "give the answer as an option when no terminal is there",
            2,
        )
    return _fail(session, "interrupted", "stopped by Ctrl-C", None, 130)


def _expected(session: Session, error: RefloatError) -> int:
    return _fail(session, error.code, error.message, error.hint, error.exit_status, error.as_dict())


def _fail(
    session: Session, code: str, message: str, hint: str | None, status: int, fields: dict[str, object] | None = None
) -> int:
    """Say what went wrong: on stderr, or as the one object on stdout when a program asked and none is out yet."""
    if session.as_json and not session.emitted:
        text = json.dumps({"error": fields or {"code": code, "message": message, "hint": hint}}, default=str)
        try:
            _print(sys.stdout, text)
            return status
        except OSError:
            _give_up_stdout()
    with contextlib.suppress(OSError):
        _print(sys.stderr, f"error: {message}" + (f"\nhint: {hint}" if hint else ""))
    return status


def _print(stream: IO[str], text: str) -> None:
    stream.write(text + "\n")
    stream.flush()
