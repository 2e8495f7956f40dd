"""Refloat as a read-only disk for lab servers: its code as it is now, its wheels for the server's Python.

A disk of its own, so that neither a server's cached disks nor its image depend on the code under test.
"""

from __future__ import annotations

import functools
from pathlib import Path

from bootenv.bundle import ROOMS, install_code, install_packages, requirements_for
from core.run import SystemRunner
from tests.lab.cache import Artifact, Cache, digest_of_files
from tests.lab.tools import tool

_TOP = Path(__file__).parents[2]


@functools.cache
def code() -> str:
    """A digest of all rooms' code as this process found it: what every scenario depends on."""
    return digest_of_files(*(_TOP / room for room in ROOMS))


def program(cache: Cache, python: str) -> Artifact:
    """`refloat.squashfs` for that Python: /opt/refloat and /usr/bin/refloat."""

    def packages(folder: Path) -> None:
        install_packages(folder, python, SystemRunner())

    wheels = cache.get(f"wheels-{python}", requirements_for(python), packages)

    def build(folder: Path) -> None:
        tree = folder / "tree"
        tree.mkdir()
        tool("cp", "-al", f"{wheels.path}/opt", tree)
        install_code(tree)
        tool("mksquashfs", tree, folder / "refloat.squashfs", "-comp", "lz4", "-all-root", "-quiet", "-no-progress")
        tool("rm", "-r", tree)

    return cache.get(f"program-{python}", [code()], build)
