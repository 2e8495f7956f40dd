"""`refloat config`: print an example, show what is in force. May import `appliance`, `core`."""

from __future__ import annotations

import json

import click

from appliance.cli.common import Context, command, to_builtins
from appliance.config import example as example_config
from core.settings import DEFAULT_PATH


@click.group()
def config() -> None:
    """The configuration file."""


@config.command()
@command(config=False)
def example(context: Context) -> None:
    """Print a commented configuration to start from.

    \b
    refloat config example > /etc/refloat/refloat.toml
    """
    text = example_config()
    context.emit({"example": text}, text.rstrip("\n"))


@config.command()
@command()
def show(context: Context) -> None:
    """Check the configuration and print what is in force, defaults filled in.

    \b
    refloat config show --config ./refloat.toml
    """
    values = to_builtins(context.config)
    context.emit({"path": str(context.config_path or DEFAULT_PATH), "config": values}, lambda: _print("", values))


def _print(prefix: str, value: object) -> None:
    """`image.level = 3`, one setting a line."""
    if isinstance(value, dict):
        for key, each in value.items():
            _print(f"{prefix}.{key}" if prefix else str(key), each)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for number, each in enumerate(value, 1):
            _print(f"{prefix}[{number}]", each)
    else:
        # JSON's texts, numbers, booleans and lists are TOML's, too.
        click.echo(f"{prefix} = {json.dumps(value, ensure_ascii=False)}")
