"""`refloat rescue serve`: HTTP for the files, dnsmasq for what firmware asks, until stopped.

May import `core` and `bootenv.{addresses,build,dnsmasq,fileserver}`.
"""

from __future__ import annotations

import contextlib
import ipaddress
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from bootenv.addresses import Port
from bootenv.build import Built
from bootenv.dnsmasq import Place, dnsmasq_config
from bootenv.fileserver import FileServer
from core.errors import ConfigError
from core.monitor import Monitor
from core.run import Runner, Stream


def choose_place(ports: Sequence[Port], interface: str, address: str, port: int) -> Place:
    """Where to serve: as named, else the only interface that has a link and an IPv4 address. Raises ConfigError."""
    found = [
        Place(each.name, text, port)
        for each in ports
        for text in each.addresses
        if ipaddress.ip_interface(text).version == 4
        and (each.name == interface if interface else each.up)
        and (not address or str(ipaddress.ip_interface(text).ip) == address)
    ]
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{each.name} {text}" for each in ports for text in each.addresses) or "none"
    asked = " ".join(text for text in (interface, address) if text)
    what = f"no interface fits{f' {asked}' if asked else ''}" if not found else "it is not clear where to serve"
    raise ConfigError(f"{what}: addresses here are {known}", hint="say --interface NAME and --address IP")


@contextlib.contextmanager
def serving(
    built: Built, place: Place, runner: Runner, *, dhcp: bool, words: Sequence[str] = ()
) -> Iterator[Stream | None]:
    """HTTP, and with `dhcp` dnsmasq, while the block runs; gives dnsmasq's process. Needs root for `dhcp`."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(FileServer(built.folder, built.squashfs, (place.ip, place.port), words))
        threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
        stack.callback(server.shutdown)
        if not dhcp:
            yield None
            return
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="refloat-serve-"))
        config = Path(folder, "dnsmasq.conf")
        config.write_text(dnsmasq_config(place, (built.folder / "tftp").resolve()))
        argv = ["dnsmasq", f"--conf-file={config}"]
        yield stack.enter_context(runner.stream(argv, purpose="answer PXE requests"))


def serve(
    built: Built, place: Place, runner: Runner, monitor: Monitor, *, dhcp: bool, words: Sequence[str] = ()
) -> None:
    """Serve until interrupted. Raises ToolError when dnsmasq ends."""
    with serving(built, place, runner, dhcp=dhcp, words=words) as dnsmasq:
        monitor.step(f"serving {built.folder} at {place.url} on {place.interface}")
        monitor.step(f"iPXE by hand: chain {place.url}boot.ipxe")
        if dnsmasq is None:
            threading.Event().wait()
        else:
            for line in dnsmasq.stdout:  # ends when dnsmasq does
                monitor.step(line.decode("utf-8", "replace").rstrip())
            dnsmasq.finish(timeout=10)
            raise ConfigError("dnsmasq has ended", hint="start it again")
