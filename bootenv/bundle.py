"""Refloat itself, put into the root folder of another system: wheels in /opt/refloat/lib, code in /opt/refloat/app.

The two parts are separate because one changes with a pin and the other with every commit. Used for the rescue
environment and for the lab's servers. May import `core`.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import core
from core.errors import ConfigError, StateError
from core.run import Runner

ROOMS = ("core", "imager", "hardware", "appliance", "web", "bootenv")
LIB = "opt/refloat/lib"
APP = "opt/refloat/app"
LAUNCHER = "usr/bin/refloat"
#: Wheels for glibc as old as Debian 12's and older; pip takes the best of them.
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
#: Pure Python that is published as source only. Anything else must be a wheel: building would be for *this* Python.
_FROM_SOURCE = ("blivet",)
_LAUNCHER = f"""#!/bin/sh
# Refloat beside the system's Python: nothing of it is in the system's own module path.
exec env PYTHONPATH=/{APP}:/{LIB}${{PYTHONPATH:+:$PYTHONPATH}} python3 -P -m appliance.cli "$@"
"""
_MARKER = re.compile(r"""python_version\s*(<=|>=|<|>|==|!=)\s*["'](\d+)\.(\d+)["']""")


def install_packages(root: Path, python_version: str, runner: Runner) -> None:
    """Put what Refloat needs of Python into ROOT/opt/refloat/lib, for CPython `python_version` (`3.13`) on x86-64.

    An earlier set there is replaced. Raises ToolError when pip cannot get it.
    """
    lib = root / LIB
    wanted = requirements_for(python_version)
    with tempfile.TemporaryDirectory(prefix="refloat-pip-") as temporary:
        listed, fresh = Path(temporary, "requirements.txt"), Path(temporary, "lib")
        listed.write_text("".join(f"{line}\n" for line in wanted))
        argv = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
        argv += ["--no-deps", "--target", str(fresh), "--implementation", "cp", "--python-version", python_version]
        argv += [f"--platform={each}" for each in _PLATFORMS]
        argv += ["--only-binary=:all:", f"--no-binary={','.join(_FROM_SOURCE)}", "--requirement", str(listed)]
        runner.run(argv, purpose=f"get Refloat's packages for Python {python_version}", timeout=900)
        if lib.exists():
            shutil.rmtree(lib)
        shutil.copytree(fresh, lib)


def install_code(root: Path) -> None:
    """Put the rooms' code into ROOT/opt/refloat/app, replacing what is there, and the program into ROOT/usr/bin."""
    app, source = root / APP, source_folder()
    if app.exists():
        shutil.rmtree(app)
    for room in ROOMS:
        shutil.copytree(source / room, app / room, ignore=shutil.ignore_patterns("__pycache__", "*.pyc", ".*"))
    launcher = root / LAUNCHER
    launcher.parent.mkdir(parents=True, exist_ok=True)
    launcher.write_text(_LAUNCHER)
    launcher.chmod(0o755)


def source_folder() -> Path:
    """The folder that holds the rooms: a clone, or where Refloat is installed."""
    if core.__file__ is None:
        raise StateError("Refloat's own code is not in files", hint="run it from a clone")
    return Path(core.__file__).resolve().parent.parent


def requirements() -> list[str]:
    """Refloat's pinned requirements, as `NAME==VERSION` lines with their markers: of the clone, else of the installed
    package's metadata."""
    listed = source_folder() / "requirements.txt"
    if listed.is_file():
        lines = listed.read_text("utf-8").splitlines()
    else:
        try:
            lines = importlib.metadata.requires("refloat") or []
        except importlib.metadata.PackageNotFoundError as error:
            raise StateError("what Refloat needs cannot be told", hint="run it from a clone, or install it") from error
    stripped = (line.partition(" #")[0].strip() for line in lines)
    return [line for line in stripped if line and not line.startswith("#")]


def requirements_for(python_version: str, lines: Iterable[str] | None = None) -> list[str]:
    """The requirements that hold for that Python. pip would judge their markers by the Python it runs on."""
    have = tuple(int(part) for part in python_version.split("."))[:2]
    found = []
    for line in requirements() if lines is None else lines:
        name, semicolon, marker = (part.strip() for part in line.partition(";"))
        if not semicolon or _holds(marker, have):
            found.append(name)
    return found


def _holds(marker: str, have: tuple[int, ...]) -> bool:
    match = _MARKER.fullmatch(marker)
    if match is None:
        raise ConfigError(f"a requirement's marker is not understood: {marker!r}", hint="compare python_version only")
    than = (int(match[2]), int(match[3]))
    answers = {"<": have < than, "<=": have <= than, ">": have > than, ">=": have >= than}
    return answers.get(match[1], (have == than) == (match[1] == "=="))
