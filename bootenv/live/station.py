"""The rescue environment's one service: opens SSH when asked to, serves the pages, keeps the consoles informed.

`python3 -m bootenv.live.station`, started by systemd, lives as long as the machine runs. May import `web`, `hardware`,
`core` and the other modules here.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path

import msgspec

from bootenv.live.access import open_ssh, ssh_key
from bootenv.live.advice import find_advice, rescan
from bootenv.live.gate import PinGate
from bootenv.live.https import HttpsServer
from bootenv.live.state import StationState, read_state, write_state
from bootenv.live.words import fw_cfg, kernel_words, load_fw_cfg, read_kernel_line
from core.certificate import make_certificate
from core.errors import RefloatError
from core.run import Runner, SystemRunner
from hardware.machine import Inventory
from web.rescue import Advice, create_app

_KEY = Path("/run/refloat/tls.pem")


class Station:
    """The machine as the pages see it, and what the consoles are told."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._lock = threading.Lock()
        self._state = StationState()
        self._gate = PinGate(lambda pin: self.tell(pin=pin))
        self.admit = self._gate.admit

    def tell(self, *, pin: str | None = None, fingerprint: str | None = None, line: str | None = None) -> None:
        """Change what the consoles show; a `line` is added to those there."""
        with self._lock:
            old = self._state
            self._state = msgspec.structs.replace(
                old,
                pin=old.pin if pin is None else pin,
                fingerprint=old.fingerprint if fingerprint is None else fingerprint,
                lines=old.lines if line is None else (*old.lines, line)[-12:],
            )
            write_state(self._state)

    def inventory(self) -> Inventory:
        from hardware.inventory import probe_inventory  # a second that the first answer need not wait for

        return probe_inventory(self._runner)

    def advice(self) -> list[Advice]:
        return list(find_advice())

    def rescan(self) -> None:
        rescan()

    def settle(self) -> None:
        """What need not wait for a person: the clock, then the order this machine was started for."""
        line = read_kernel_line()
        words = kernel_words(line)
        from bootenv.live.clock import correct_clock  # not needed for the first answer, as the next one

        answered, moved = correct_clock([words.get("url", ""), words.get("clock", "")])
        if moved:
            self.tell(line=f"the clock was off by {-moved:.0f} s and has been corrected ({answered} servers asked)")
        if fw_cfg("order") or words.get("order"):
            from bootenv.live.unattended import carry_out

            carry_out(line, self._runner, lambda text: self.tell(line=text))


def main() -> int:
    """Run until the machine is switched off."""
    runner = SystemRunner()
    previous = read_state()  # the service was restarted: what was told stays true
    station = Station(runner)
    for line in previous.lines if previous else ():
        station.tell(line=line)
    load_fw_cfg(runner)
    try:
        if key := ssh_key(kernel_words(read_kernel_line())):
            open_ssh(key, runner)
    except RefloatError as error:
        station.tell(line=f"SSH: {error.message}")
    certificate = make_certificate(socket.gethostname())
    server = HttpsServer(create_app(station), certificate.pem)
    station.tell(fingerprint=certificate.fingerprint)
    thread = threading.Thread(target=server.serve_forever, name="https")
    thread.start()
    _notify("READY=1")
    threading.Thread(target=station.settle, name="settle", daemon=True).start()
    thread.join()
    return 1


def _notify(text: str) -> None:
    """sd_notify(3): tell systemd that the pages can be reached."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.connect("\0" + address[1:] if address.startswith("@") else address)
        notify.sendall(text.encode())


if __name__ == "__main__":
    sys.exit(main())
