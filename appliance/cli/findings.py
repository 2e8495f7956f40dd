"""How findings are printed: a line each for people, one object for programs. May import `appliance.check`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from appliance.check import Finding, Status
from appliance.cli.common import Context, plain

_MARK = {Status.OK: "[green]ok[/]  ", Status.WARN: "[yellow]warn[/]", Status.FAIL: "[bold red]FAIL[/]"}


def emit_findings(context: Context, findings: Sequence[Finding]) -> None:
    """Print them all; JSON: `status` (the worst), `findings`."""
    worst = max((each.status for each in findings), key=list(Status).index, default=Status.OK)
    context.emit({"status": worst, "findings": findings}, lambda: _print(context, findings))


def _print(context: Context, findings: Sequence[Finding]) -> None:
    width = min(max((len(each.subject) for each in findings), default=0), 24)
    for each in findings:
        context.print(f"{_MARK[each.status]}  {plain(each.subject.ljust(width))}  {plain(each.message)}")
        if each.hint and each.status is not Status.OK:
            context.print(f"      {' ' * width}  [dim]{plain(each.hint)}[/]")
    counted = Counter(each.status for each in findings)
    context.print(", ".join(f"{counted[status]} {status}" for status in Status))
