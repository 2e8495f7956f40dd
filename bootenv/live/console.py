"""The text console on the screen and on the serial line: the banner, and below it a menu.

`python3 -m bootenv.live.console`, one process for each terminal, started by systemd again when it ends. May import
everything below it.
"""

from __future__ import annotations

import os
import select
import sys

from bootenv.addresses import Port, read_ports, urls
from bootenv.live.banner import banner
from bootenv.live.menu import CHOICES, run_choice
from bootenv.live.state import StationState, read_state
from core.errors import RefloatError
from core.run import Runner, SystemRunner

_LOOK_SECONDS = 3.0


def main() -> int:
    """Show the banner, again whenever what it says has changed, and do what is chosen."""
    runner = SystemRunner()
    shown: tuple[StationState | None, tuple[Port, ...]] | None = None
    while True:
        seen = (read_state(), _ports(runner))
        if seen != shown:
            shown = seen
            _show(*seen)
        if not select.select([sys.stdin], [], [], _LOOK_SECONDS)[0]:
            continue
        typed = sys.stdin.readline()
        if not typed:  # the line was hung up: systemd starts us again
            return 0
        if typed.strip() in CHOICES:
            run_choice(typed.strip(), runner)
        shown = None


def _ports(runner: Runner) -> tuple[Port, ...]:
    try:
        return read_ports(runner)
    except RefloatError:
        return ()


def _show(state: StationState | None, ports: tuple[Port, ...]) -> None:
    screen = os.ttyname(sys.stdin.fileno()).startswith("/dev/tty") if sys.stdin.isatty() else False
    clear = "\x1b[H\x1b[2J\x1b[3J" if screen else ""
    menu = "\n".join(f"  {key}  {text}" for key, (text, _) in CHOICES.items())
    sys.stdout.write(f"{clear}{banner(state, ports, urls(ports), blocks=True)}\n{menu}\n\nChoose: ")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
