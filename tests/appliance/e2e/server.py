"""A server for the end-to-end proofs: disks, configuration, keys, kit, two sites; and the real program run on it.

Lives as long as a test module. Imports nothing of Refloat: what is shown here is what a person could do.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyrage

ROOT = Path(__file__).resolve().parents[3]
MIB = 1 << 20
PASSPHRASE = "correct horse battery staple"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": "/root"}
COUNTRIES = {"de": "DE", "fr": "FR"}


def tool(*argv: str | Path, stdin: str = "", ok: Sequence[int] = (0,)) -> str:
    """What a stock tool printed. AssertionError with its words when it fails."""
    done = subprocess.run(
        [str(each) for each in argv], input=stdin, capture_output=True, text=True, env=ENVIRONMENT, timeout=120
    )
    assert done.returncode in ok, f"{argv}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def blank(path: Path, size_bytes: int) -> Path:
    """A sparse file of that size, empty."""
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return path


@contextlib.contextmanager
def loop(
    path: Path,
    offset_bytes: int = 0,
    size_bytes: int | None = None,
    *,
    sector_bytes: int = 512,
    read_only: bool = False,
) -> Iterator[Path]:
    """A loop device over a file or part of it; gone again whatever happens."""
    argv = ["losetup", "--find", "--show", "--offset", str(offset_bytes), "--sector-size", str(sector_bytes)]
    argv += [] if size_bytes is None else ["--sizelimit", str(size_bytes)]
    node = tool(*argv, *(["--read-only"] if read_only else []), path).strip()
    try:
        yield Path(node)
    finally:
        tool("losetup", "--detach", node)


@contextlib.contextmanager
def mounted(node: Path, folder: Path, *options: str, kind: str = "") -> Iterator[Path]:
    """A mounted filesystem; unmounted whatever happens."""
    folder.mkdir(exist_ok=True)
    words = ["-o", ",".join(options)] if options else []
    if kind == "ntfs":
        tool("ntfs-3g", *words, node, folder)
    else:
        tool("mount", *(["-t", kind] if kind else []), *words, node, folder)
    try:
        yield folder
    finally:
        tool("umount", folder)


@dataclass(frozen=True)
class Answer:
    """How a run of the program ended; `value` is its one JSON object ({} for what printed none)."""

    status: int
    out: str
    err: str
    value: dict[str, Any] = field(default_factory=dict)

    @property
    def error(self) -> dict[str, Any]:
        """The error object; AssertionError when there is none."""
        assert "error" in self.value, self
        found: dict[str, Any] = self.value["error"]
        return found

    @property
    def sites(self) -> dict[str, dict[str, Any]]:
        """What `image` says of each site, by name."""
        return {each["name"]: each for each in self.value["sites"]}


@dataclass(frozen=True)
class Child:
    """A run of the program that can be stopped at a moment that a test waits for."""

    process: subprocess.Popen[str]

    def when(self, ready: Callable[[], bool]) -> None:
        """Stop it (SIGSTOP) as soon as that is true; AssertionError when it ends before."""
        while not ready():
            assert self.process.poll() is None, self.process.communicate()
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> tuple[int, dict[str, Any]]:
        """Let it run to its end: exit status and its one object."""
        self.process.send_signal(signal.SIGCONT)
        out, _ = self.process.communicate(timeout=120)
        return self.process.returncode, json.loads(out)


@dataclass
class Server:
    """One server in `place`: `disks` maps names to image files or devices, `sectors` those that are not of 512."""

    place: Path
    disks: dict[str, Path]
    sectors: Mapping[str, int] = field(default_factory=dict)
    name: str = "web1"
    extra: str = ""
    sites: dict[str, Path] = field(default_factory=dict)
    mechanisms: Mapping[str, Sequence[str]] = field(default_factory=dict)
    recipients: list[str] = field(default_factory=list)
    #: Lines of a site's table instead of its folder's URL.
    tables: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.place.mkdir(exist_ok=True)
        self.config, self.state = self.place / "refloat.toml", self.place / "state"
        self.kit, self.passphrase, self.identity = (
            self.place / each for each in ("fleet.kit", "passphrase", "identity")
        )
        self.passphrase.write_text(PASSPHRASE + "\n")
        for name in COUNTRIES:
            self.sites.setdefault(name, self.place / name).mkdir(exist_ok=True)
        self.configure()

    @classmethod
    def new(cls, place: Path, disks: dict[str, Path], *, with_kit: bool = False, **given: Any) -> Server:
        """A server with keys and an identity, ready for its first image; a kit costs seconds (scrypt)."""
        made = cls(place, disks, **given)
        made.ok("keys", "new", "--config", made.config)
        if with_kit:
            words = ("--passphrase-file", made.passphrase)
            made.recipients = made.ok("kit", "new", made.kit, "--config", made.config, *words)["recipients"]
            opened = made.ok("kit", "open", made.kit, "--show-identity", *words)
            made.identity.write_text("\n".join(opened["identities"]) + "\n")
        else:
            identity = pyrage.x25519.Identity.generate()
            made.identity.write_text(f"{identity}\n")
            made.recipients = [str(identity.to_public())]
        made.configure()
        return made

    def configure(self, extra: str | None = None) -> None:
        """Write the configuration; `extra` is TOML that goes on from `[image]`."""
        self.extra = self.extra if extra is None else extra
        lines = [f'server = "{self.name}"', f'state = "{self.state}"', f"recipients = {json.dumps(self.recipients)}"]
        for name, path in self.disks.items():
            lines += ["[[disk]]", f'path = "{path}"', f'name = "{name}"']
            lines += [f"sector_bytes = {self.sectors[name]}"] if name in self.sectors else []
        for name, path in self.sites.items():
            lines += ["[[site]]", f'name = "{name}"', f'country = "{COUNTRIES[name]}"']
            lines += self.tables.get(name, [f'url = "file://{path}"'])
            lines += [f"mechanisms = {json.dumps(self.mechanisms[name])}"] if name in self.mechanisms else []
        lines += ["[image]", "nice = 0", 'io_class = "none"', "level = 1", self.extra]
        self.config.write_text("\n".join(lines) + "\n")

    def command(self, *argv: str | Path) -> list[str]:
        """The command line of the program, for those who start it themselves."""
        return [sys.executable, "-m", "appliance.cli", *(str(each) for each in argv)]

    def environment(self, **more: str) -> dict[str, str]:
        """What the program is started with."""
        return {**ENVIRONMENT, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default", **more}

    def run(self, *argv: str | Path, cwd: Path | None = None, text: bool = False, **more: str) -> Answer:
        """Run the program in a child, with `--json` unless `text`; whatever its end."""
        words = [*argv, *([] if text else ["--json"])]
        done = subprocess.run(
            self.command(*words), capture_output=True, text=True, env=self.environment(**more), cwd=cwd, timeout=120
        )
        assert "Traceback" not in done.stderr and "ResourceWarning" not in done.stderr, done.stderr
        if text or not done.stdout:
            return Answer(done.returncode, done.stdout, done.stderr)
        (line,) = done.stdout.splitlines()  # exactly one object
        return Answer(done.returncode, done.stdout, done.stderr, json.loads(line))

    @contextlib.contextmanager
    def started(self, *argv: str | Path, **more: str) -> Iterator[Child]:
        """The program, running; killed and reaped when the block is left."""
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                self.command(*argv), stdout=subprocess.PIPE, stderr=errors, text=True, env=self.environment(**more)
            )
            try:
                yield Child(process)
            finally:
                process.kill()
                process.communicate()

    def ok(self, *argv: str | Path) -> dict[str, Any]:
        """The answer of a run that must succeed."""
        answer = self.run(*argv)
        assert answer.status == 0, answer
        return answer.value

    def fails(self, status: int, *argv: str | Path) -> dict[str, Any]:
        """The error of a run that must end so; it has a hint."""
        answer = self.run(*argv)
        assert answer.status == status, answer
        assert answer.error["hint"], answer
        return answer.error

    @property
    def unlock(self) -> tuple[str | Path, ...]:
        """Options that open images by the identity and the server's own configuration; quick."""
        return ("--config", self.config, "--identity", self.identity)

    @property
    def by_kit(self) -> tuple[str | Path, ...]:
        """Options that open images by the kit alone."""
        return ("--kit", self.kit, "--passphrase-file", self.passphrase)

    def image(self, *argv: str | Path) -> Answer:
        """`refloat image`, whatever its end."""
        return self.run("image", "--config", self.config, *argv)

    def taken(self, *argv: str | Path) -> str:
        """The name of an image that must reach every site."""
        answer = self.image(*argv)
        assert answer.status == 0, answer
        return str(answer.value["image"])

    def show(self, image: str = "latest") -> dict[str, Any]:
        """The manifest, and its volumes by name."""
        shown = self.ok("show", image, "--config", self.config)
        return {**shown, "by_name": {each["spec"]["name"]: each for each in shown["volumes"]}}

    def restore(self, *argv: str | Path, image: str = "latest", to: Mapping[str, Path] | Path) -> dict[str, Any]:
        """A confirmed restore that must succeed: its report. `to`: disk → file or device, or the only one."""
        words, sizes = self.onto(to)
        return self.ok("restore", image, *self.unlock, *words, *argv, *sizes)

    def onto(self, to: Mapping[str, Path] | Path) -> tuple[list[str], list[str]]:
        """`--to` and `--confirm` options for targets without serials: files and loop devices."""
        rows = dict(to) if isinstance(to, Mapping) else {"": to}
        targets = [word for name, path in rows.items() for word in ("--to", f"{name}={path}" if name else str(path))]
        confirmed = [word for path in rows.values() for word in ("--confirm", token(path))]
        return targets, confirmed

    def manifest(self, site: str, image: str) -> Path:
        """Where a site keeps the manifest of an image."""
        return self.sites[site] / "servers" / self.name / "images" / f"{image}.json"

    def packs(self, site: str) -> list[Path]:
        """Every pack at a site."""
        return sorted((self.sites[site] / "servers" / self.name / "packs").glob("*/*"))


def token(path: Path) -> str:
    """What a plan prints for a target without a serial: its path and size."""
    real = os.path.realpath(path)
    with open(real, "rb") as file:
        return f"{real}:{file.seek(0, os.SEEK_END)}"


@contextlib.contextmanager
def bad_disk(path: Path, folder: Path, *ranges: tuple[int, int]) -> Iterator[Path]:
    """The file again, on a disk that answers EIO in these ranges (offset, length)."""
    folder.mkdir()
    rows = [f"{at}:{length}" for at, length in ranges]
    argv = [sys.executable, "-m", "tests.appliance.e2e.bad_disk", str(path), str(folder), *rows]
    child = subprocess.Popen(argv, cwd=ROOT, env=ENVIRONMENT)
    try:
        wait_until(lambda: folder.is_mount())
        yield folder / "disk.img"
    finally:
        if folder.is_mount():
            tool("fusermount3", "-u", folder)
        child.terminate()
        child.wait(10)


def wait_until(ready: Callable[[], bool], seconds: float = 30) -> None:
    """AssertionError when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
