"""QEMU's control socket (QMP): commands one after another, events set aside. Lives with its machine."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

from tests.lab.tools import LabError


class Qmp:
    """A connection to a machine's `qmp` socket; waits up to 20 s for it to appear."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(60)
        until = time.monotonic() + 20
        while True:
            try:
                self._socket.connect(str(path))
                break
            except OSError as error:
                if time.monotonic() > until:
                    self._socket.close()
                    raise LabError(f"QEMU does not answer at {path}: {error}") from error
                time.sleep(0.1)
        self._file = self._socket.makefile("rwb")
        self._read()
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: object) -> object:
        """Run a command and give what it returns; raises LabError with QEMU's own words."""
        self._file.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        self._file.flush()
        while True:
            answer = self._read()
            if "error" in answer:
                raise LabError(f"QEMU refuses {command}: {answer['error']}")
            if "return" in answer:
                return answer["return"]

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def _read(self) -> dict[str, object]:
        line = self._file.readline()
        if not line:
            raise LabError("QEMU closed its control socket")
        found = json.loads(line)
        assert isinstance(found, dict)
        return found
