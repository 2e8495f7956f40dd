"""What commands share: options, the Context they get, printing for people or as one JSON object. Holds no logic.

A Context lives as long as its command. May import `appliance`, `core`; `rich` only when something is printed with it.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Concatenate, ParamSpec

import click
import msgspec

from appliance.cli import HintedUsageError, Session, to_stdout
from appliance.config import Config, load_config
from appliance.unlock import Unlock, UnlockOptions, open_unlock, read_passphrase
from core.errors import ConfigError
from core.monitor import Monitor, StreamMonitor
from core.settings import DEFAULT_PATH

P = ParamSpec("P")
_PROMPT = "Passphrase of the recovery kit"


@dataclass
class Context:
    """What a command needs of its surroundings: what `--json` and `--config` said, progress, printing."""

    as_json: bool
    config_path: Path | None
    session: Session
    monitor: Monitor
    unlock_options: UnlockOptions = field(default_factory=UnlockOptions)

    @functools.cached_property
    def config(self) -> Config:
        """The configuration, read when first asked for. Raises ConfigError."""
        return load_config(self.config_path)

    @property
    def lacks_config(self) -> bool:
        """True when none was named and there is none in the usual place: this is no configured server."""
        return self.config_path is None and not Path(DEFAULT_PATH).exists()

    def unlock(self, *, need_identity: bool = True) -> Unlock:
        """Identities, pins and sites: from `--kit` alone, or from the configuration and `--identity`.

        Raises KeyMissingError when `need_identity` and neither was given.
        """
        return open_unlock(
            self.unlock_options, self._config_for_unlock, need_identity=need_identity, ask=ask_passphrase
        )

    def passphrase(self, *, twice: bool = False) -> str:
        """The recovery kit's passphrase, from the options or the terminal; asked for `twice` when it is a new one."""
        return read_passphrase(self.unlock_options, functools.partial(ask_passphrase, twice=twice))

    def _config_for_unlock(self) -> Config | None:
        """With a kit, the machine's own configuration counts only when it was named; with places given, it may lack."""
        if self.config_path is None and self.unlock_options.kit is not None:
            return None
        return None if self.lacks_config and self.unlock_options.sites else self.config

    def emit(self, value: object, text: str | Callable[[], None] | None = None) -> None:
        """Print the command's result, once: `value` as one JSON object, or `text` for people (or what prints it)."""
        with to_stdout(self.session):
            if self.as_json:
                assert not self.session.emitted, "a command emits one object"  # noqa: S101
                self.session.emitted = True
                sys.stdout.write(json.dumps(to_builtins(value), ensure_ascii=False) + "\n")
                sys.stdout.flush()
            elif callable(text):
                text()
            elif text is not None:
                click.echo(text)

    def print(self, *renderables: object) -> None:
        """Print rich text, tables … for people; nothing under `--json`."""
        if not self.as_json:
            from rich.console import Console

            # A pipe has no width: nothing must be cut off there.
            width = None if sys.stdout.isatty() else 200
            with to_stdout(self.session):
                Console(highlight=False, soft_wrap=True, emoji=False, width=width).print(*renderables)


def plain(text: object) -> str:
    """Text from an image, a disk or a site, to be printed as it stands: no markup, and no control character that could
    rewrite what the terminal shows (a plan is confirmed by what is read there)."""
    from rich.markup import escape

    return escape("".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(text)))


def to_builtins(value: object) -> object:
    """JSON-ready dicts, lists, texts and numbers; Structs, dataclasses, enums and dates as msgspec writes them."""
    found: object = json.loads(msgspec.json.encode(value, enc_hook=str))
    return found


def ask_passphrase(*, twice: bool = False) -> str:
    """The kit's passphrase from the terminal; `twice` when it is a new one. UsageError when there is no terminal:
    getpass would then show what is typed."""
    if not _has_terminal():
        raise HintedUsageError(
            "nobody answered: there is no terminal to ask for the passphrase on",
            "give --passphrase-file FILE, or --passphrase-fd NUMBER",
        )
    given: dict[str, object] = {
        "passphrase": click.prompt(_PROMPT, hide_input=True, confirmation_prompt=twice, err=True)
    }
    _require_utf8(given)
    return str(given["passphrase"])


def _has_terminal() -> bool:
    """Whether getpass finds one: /dev/tty, whatever stdin is."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return sys.stdin.isatty()
    return True


class FilePath(click.Path):
    """A path option that gives pathlib.Path."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)


def command(
    *, config: bool = True, unlock: bool = False, passphrase: bool = False
) -> Callable[[Callable[Concatenate[Context, P], None]], Callable[..., None]]:
    """Options every command has (`--json`, `--verbose`, `--config`), with `unlock` all for `Context.unlock`, with
    `passphrase` only those for `Context.passphrase`.

    Stands below `@click.command` and above the command's own options; the function gets a Context as first argument.
    """

    def decorate(function: Callable[Concatenate[Context, P], None]) -> Callable[..., None]:
        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
            _require_utf8(kwargs)
            context = _build(kwargs)
            function(context, *args, **kwargs)

        wrapped: Callable[..., None] = wrapper
        # Click keeps a function's options in the order in which decorators are applied and shows the last one first:
        # those everybody has go in below the command's own, to stand last in its help.
        own = list(getattr(wrapped, "__click_params__", ()))
        vars(wrapped)["__click_params__"] = []
        for option in reversed(_options(config, unlock, passphrase)):
            wrapped = option(wrapped)
        vars(wrapped)["__click_params__"] += own
        return wrapped

    return decorate


def _options(
    config: bool, unlock: bool, passphrase: bool
) -> Sequence[Callable[[Callable[..., None]], Callable[..., None]]]:
    options = [*(_unlock_options() if unlock else ()), *(_passphrase_options() if unlock or passphrase else ())]
    if config:
        options.append(
            click.option("--config", "config_path", type=FilePath(), help=f"Configuration file [{DEFAULT_PATH}].")
        )
    options.append(
        click.option(
            "--json", "as_json", is_flag=True, help="One JSON object on stdout, progress as JSON lines on stderr."
        )
    )
    options.append(click.option("--verbose", "-v", is_flag=True, help="Log every tool that is started."))
    return options


def _unlock_options() -> Sequence[Callable[[Callable[..., None]], Callable[..., None]]]:
    return (
        click.option("--kit", "kit_path", type=FilePath(), help="Recovery kit; needs no configuration."),
        click.option("--identity", "unlock_identity", type=FilePath(), help="AGE-SECRET-KEY lines, not a kit."),
        click.option("--server-pin", "server_pins", multiple=True, metavar="NAME:ID:FINGERPRINT",
                     help="Trust this server besides those of the kit; `refloat keys show` prints it."),
        click.option("--site", "site_urls", multiple=True, metavar="NAME=URL", help="Look for a site here instead."),
    )  # fmt: skip


def _passphrase_options() -> Sequence[Callable[[Callable[..., None]], Callable[..., None]]]:
    """Where a passphrase comes from when not from a prompt; never from the command line, which others can read."""
    return (
        click.option("--passphrase-file", type=FilePath(), help="Read the kit's passphrase from a file's first line."),
        click.option("--passphrase-fd", type=click.IntRange(min=0), envvar="REFLOAT_PASSPHRASE_FD", show_envvar=True,
                     help="Read the kit's passphrase from this open descriptor."),
    )  # fmt: skip


def _require_utf8(given: dict[str, object]) -> None:
    """Refuse texts that Python took from bytes that are not UTF-8: no manifest, kit or JSON could carry them."""
    for name, value in given.items():
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, str) and any("\ud800" <= char <= "\udfff" for char in each):
                said = "" if name == "passphrase" else f": {each[:120]!a}"
                raise ConfigError(f"{name} is not UTF-8{said}", hint="write it in a terminal whose locale is UTF-8")


def _build(kwargs: dict[str, object]) -> Context:
    """Take the shared options out of `kwargs` and make the Context of them."""
    as_json, config_path = bool(kwargs.pop("as_json")), _path(kwargs.pop("config_path", None))
    level = logging.DEBUG if kwargs.pop("verbose") else logging.WARNING
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=level)
    session = click.get_current_context().find_object(Session) or Session(as_json)
    options = UnlockOptions(
        kit=_path(kwargs.pop("kit_path", None)),
        identity=_path(kwargs.pop("unlock_identity", None)),
        passphrase_file=_path(kwargs.pop("passphrase_file", None)),
        passphrase_fd=_number(kwargs.pop("passphrase_fd", None)),
        servers=_texts(kwargs.pop("server_pins", ())),
        sites=_texts(kwargs.pop("site_urls", ())),
    )
    return Context(as_json, config_path, session, StreamMonitor(as_json=as_json), options)


def _path(value: object) -> Path | None:
    return value if isinstance(value, Path) else None


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _texts(value: object) -> tuple[str, ...]:
    return tuple(str(each) for each in value) if isinstance(value, tuple) else ()
