"""The program that runs where filesystems are mounted privately: one order in JSON, one answer in JSON on stdout.

Started by `hardware.trees.task`. An error that is foreseen is an answer too, so that its words reach the person.
"""

from __future__ import annotations

import os
import sys
from typing import Literal

import msgspec

from core.errors import RefloatError
from core.run import SystemRunner
from hardware.trees.fill import fill
from hardware.trees.same import Comparison, compare
from hardware.trees.survey import Survey, survey


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to do with the trees below these folders; `target` is empty for a survey."""

    do: Literal["survey", "fill", "compare"]
    source: str
    target: str = ""


class Answer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What came of it; `error` is empty when it went well."""

    error: str = ""
    survey: Survey | None = None
    comparison: Comparison | None = None


def main() -> None:
    """Run with the order as last argument."""
    order = msgspec.json.decode(sys.argv[-1], type=Order)
    sys.stdout.buffer.write(msgspec.json.encode(_plain(_obey(order))))


def _obey(order: Order) -> Answer:
    source, target = os.fsencode(order.source), os.fsencode(order.target)
    try:
        if order.do == "survey":
            return Answer(survey=survey(source))
        if order.do == "compare":
            return Answer(comparison=compare(source, target))
        fill(source, target, SystemRunner())
        return Answer()
    except RefloatError as error:
        return Answer(error=error.message)
    except OSError as error:
        where = error.filename if isinstance(error.filename, str) else os.fsdecode(error.filename or b"")
        return Answer(error=f"{where}: {error.strerror}")


def _plain(answer: Answer) -> object:
    """Names that are no text become text: JSON has no other."""

    def text(value: object) -> object:
        if isinstance(value, str):
            return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        if isinstance(value, dict):
            return {key: text(each) for key, each in value.items()}
        return [text(each) for each in value] if isinstance(value, list | tuple) else value

    return text(msgspec.to_builtins(answer))
