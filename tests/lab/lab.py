"""The lab itself: its cache, and how its machines are put together. Lives for one command; may import all below it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab import build
from tests.lab.cache import Artifact, Cache
from tests.lab.machine import Drive, Machine
from tests.lab.network import network
from tests.lab.running import Running, accelerator, started
from tests.lab.servers.base import Server
from tests.lab.tools import tool

SITES = ("SITE-DE", "SITE-FR")
SITE_MIB = 3072


@dataclass
class Lab:
    """What every step gets. `used` are the artifacts of the scenario under way, for its folder of evidence."""

    cache: Cache = field(default_factory=Cache)
    used: list[Path] = field(default_factory=list)

    def note(self, artifact: Artifact) -> Artifact:
        """Remember an artifact as part of the scenario."""
        self.used.append(artifact.path)
        return artifact

    @property
    def key(self) -> Path:
        """The lab's private SSH key."""
        return build.key(self.cache)

    def server(self, server: Server) -> Artifact:
        """The server's pristine disks."""
        return build.disks(self.cache, server)

    @contextmanager
    def run(self, machine: Machine, folder: Path) -> Iterator[Running]:
        """The machine, running in a network of its own; its evidence goes to `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        with network(folder) as net, started(machine, folder, net, self.accelerator()) as running:
            yield running

    def accelerator(self) -> str:
        """KVM where it works."""
        kernels = sorted(Path("/boot").glob("vmlinuz-*"))
        return accelerator(kernels[-1]) if kernels else "tcg"

    def say(self, text: str) -> None:
        self.cache.said(f"{time.strftime('%H:%M:%S')} {text}")


def overlay(backing: Path, folder: Path, name: str = "") -> Path:
    """A disk that starts as `backing` and keeps its own writes, in `folder`."""
    made = folder / (name or backing.name)
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", backing, made)
    return made


def overlays(backing: Artifact, serials: Iterable[str], folder: Path) -> tuple[Drive, ...]:
    """A drive for each SERIAL.qcow2 of an artifact, writing into `folder`."""
    return tuple(Drive(overlay(backing.path / f"{each}.qcow2", folder), each) for each in serials)


def blank(folder: Path, serial: str, size_mib: int) -> Path:
    """An empty disk."""
    made = folder / f"{serial}.qcow2"
    tool("qemu-img", "create", "-q", "-f", "qcow2", made, f"{size_mib}M")
    return made


def empty_site(folder: Path, serial: str) -> Path:
    """A disk with an empty ext4 on it, for a site."""
    raw, made = folder / f"{serial}.raw", folder / f"{serial}.qcow2"
    tool("truncate", "-s", f"{SITE_MIB}M", raw)
    tool("mke2fs", "-q", "-t", "ext4", "-L", serial.removeprefix("SITE-"), raw)
    tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, made)
    raw.unlink()
    return made


def program_drive(artifact: Artifact) -> Drive:
    """Refloat's own disk."""
    return Drive(artifact.path / "refloat.squashfs", "REFLOAT", format="raw", readonly=True)
