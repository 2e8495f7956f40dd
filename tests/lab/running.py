"""A machine that runs: serial log, screenshots, SSH, power. Ended by its process id when its block is left."""

from __future__ import annotations

import contextlib
import functools
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.machine import OVMF, Machine, command_line
from tests.lab.network import Network
from tests.lab.qmp import Qmp
from tests.lab.ssh import Ssh
from tests.lab.tools import GuestCrash, LabError, background, end

#: How long a guest may take to do something simple under emulation on a busy machine, in seconds.
PATIENCE = 240
CRASH = "Kernel panic - not syncing: Fatal exception"
#: The root's volume group never came: see `hardware/boot/waiting.py`. A server as its distribution makes it is switched
#: on again so often; what was restored must not need it, which `proving` sees to.
NO_ROOT, AGAIN = "Gave up waiting for root file system device", 6


class Running:
    """A started machine. `folder` holds `serial.log`, `qemu.log`, screenshots."""

    def __init__(
        self, machine: Machine, folder: Path, net: Network, process: subprocess.Popen[bytes], socket: Path
    ) -> None:
        self.machine, self.folder, self.net, self._process = machine, folder, net, process
        self.started = time.monotonic()
        self._resets = 0
        self.qmp = Qmp(socket)

    @property
    def serial(self) -> str:
        """Everything the guest and its firmware said on the serial line."""
        return (self.folder / "serial.log").read_text("utf-8", "replace").replace("\r", "")

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def expect(self, pattern: str, patience: float = PATIENCE, unless: str = "") -> re.Match[str]:
        """Wait until the serial log matches; LabError when `unless` does, the machine ends, or time is over."""
        until = time.monotonic() + patience
        while True:
            alive, text = self.alive, self.serial
            self._look_for_crash(text)
            if found := re.search(pattern, text):
                return found
            if unless and (bad := re.search(unless, text)):
                raise LabError(f"{self.machine.name} said {bad[0]!r} before {pattern!r}{self._tail()}")
            if not alive:
                raise LabError(f"{self.machine.name} ended before it said {pattern!r}{self._tail()}")
            if time.monotonic() > until:
                raise LabError(f"{self.machine.name} did not say {pattern!r} in {patience:.0f} s{self._tail()}")
            time.sleep(0.3)

    def reach(self, address: str, key: Path, known_hosts: Path | None, patience: float = PATIENCE) -> Ssh:
        """SSH to the guest once it answers. Its host key must be in `known_hosts`, unless that is None."""
        ssh = Ssh(self.net, address, key, known_hosts)
        until = time.monotonic() + patience
        while (refusal := ssh.probe()) is not None:
            self._look_for_crash(self.serial)
            if self._resets < min(self.serial.count(NO_ROOT), AGAIN):
                self._resets += 1
                self.qmp.ask("system_reset")
                until = time.monotonic() + patience
            if not self.alive:
                raise LabError(f"{self.machine.name} ended before it answered{self._tail()}")
            if "HOST IDENTIFICATION HAS CHANGED" in refusal or time.monotonic() > until:
                raise LabError(f"{self.machine.name} at {address}: {refusal}{self._tail()}")
            time.sleep(1)
        return ssh

    def screenshot(self, name: str) -> Path:
        """What is on the display, as NAME.png."""
        path = self.folder / f"{name}.png"
        self.qmp.ask("screendump", filename=str(path), format="png")
        return path

    def plug(self, card: int, link: bool) -> None:
        """Plug or unplug the cable of a network card."""
        self.qmp.ask("set_link", name=f"nic{card}", up=link)

    def wait_off(self, patience: float = PATIENCE) -> None:
        """Wait until the guest powered off."""
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{self.machine.name} did not power off in {patience:.0f} s{self._tail()}") from error

    def close(self) -> None:
        """End it, by its process id."""
        self.qmp.close()
        end(self._process)

    def power_off(self) -> None:
        """Pull the plug: nothing is told to the guest."""
        self._process.kill()
        self._process.wait()

    def _look_for_crash(self, text: str) -> None:
        if CRASH in text:
            raise GuestCrash(f"{self.machine.name}'s kernel crashed{self._tail()}")

    def _tail(self) -> str:
        with contextlib.suppress(LabError, OSError):
            self.screenshot("failed")
        return "\n    " + "\n    ".join(self.serial.splitlines()[-12:])


@contextmanager
def started(machine: Machine, folder: Path, net: Network, accelerator: str = "tcg") -> Iterator[Running]:
    """Start a machine on the lab's network; it is ended, if it still runs, when the block is left."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "serial.log").touch()
    if not (folder / "vars.fd").exists():
        shutil.copy(machine.nvram or OVMF / "OVMF_VARS_4M.fd", folder / "vars.fd")
    taps = tuple(net.tap() for _ in machine.nics)
    try:
        # A socket's path may have 107 bytes at most (unix(7)): not in `folder`, which may lie deep.
        with tempfile.TemporaryDirectory(prefix="lab-") as place:
            argv = net.inside(*command_line(machine, folder, Path(place, "qmp"), taps, accelerator))
            with background(*argv, log=folder / "qemu.log") as process:
                with contextlib.closing(_running(machine, folder, net, process, Path(place, "qmp"))) as running:
                    try:
                        yield running
                    except (LabError, subprocess.TimeoutExpired) as error:
                        if CRASH in running.serial:
                            raise GuestCrash(f"{machine.name}'s kernel crashed: {error}") from error
                        raise
    finally:
        for tap in taps:
            net.drop(tap)


def _running(machine: Machine, folder: Path, net: Network, process: subprocess.Popen[bytes], socket: Path) -> Running:
    try:
        running = Running(machine, folder, net, process, socket)
    except LabError as error:
        raise LabError(f"{error}: {(folder / 'qemu.log').read_text().strip()}") from error
    for number, nic in enumerate(machine.nics):
        if not nic.link:
            running.plug(number, False)
    return running


@functools.cache
def accelerator(kernel: Path) -> str:
    """`kvm` where it really works, else `tcg`: a kernel must get as far as missing its root filesystem.

    /dev/kvm alone says little: nested virtualisation can start a guest's firmware and hang in its kernel.
    """
    if not Path("/dev/kvm").exists():
        return "tcg"
    with tempfile.TemporaryDirectory() as place:
        log = Path(place) / "serial.log"
        argv = ["qemu-system-x86_64", "-M", "q35", "-accel", "kvm", "-cpu", "host", "-m", "256", "-nodefaults"]
        argv += ["-display", "none", "-no-reboot", "-serial", f"file:{log}", "-kernel", str(kernel)]
        argv += ["-append", "console=ttyS0 panic=-1"]
        with background(*argv, log=Path(place) / "qemu.log") as process, contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        return "kvm" if log.exists() and b"Unable to mount root fs" in log.read_bytes() else "tcg"
