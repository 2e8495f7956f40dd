"""The shipped hook for MariaDB and MySQL, against a real MariaDB in a folder of its own: what is held, and that it is
let go of whatever happens to the hook. (Against MySQL itself it has not been run: Debian has none.)"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from core.run import SystemRunner
from imager.hold.hooks import POST_THAW, PRE_FREEZE, Hooks

pytestmark = pytest.mark.block
HOOK = Path(__file__).parents[2] / "appliance" / "hooks" / "mysql"
_FILES = (".MYD", ".MYI", ".MAD", ".MAI")
ENGINES = ("InnoDB", "MyISAM", "Aria")


@dataclass(frozen=True)
class Database:
    """A server below `place`; root comes in by its socket."""

    place: Path

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "HOME": str(self.place), "XDG_RUNTIME_DIR": str(self.place / "run")}

    @property
    def left(self) -> list[str]:
        """What the hook has left lying about."""
        return [each.name for each in (self.place / "run").iterdir()]

    def hooks(self, seconds: float = 60) -> Hooks:
        """The hook as the operator installs it, but for the environment of this server."""
        for phase in (PRE_FREEZE, POST_THAW):
            folder = self.place / "hooks" / f"{phase}.d"
            folder.mkdir(parents=True, exist_ok=True)
            place = f"HOME={self.place} XDG_RUNTIME_DIR={self.place}/run"
            (folder / "30-mysql").write_text(f'#!/bin/sh\nexec env {place} {HOOK} "$@"\n')
            (folder / "30-mysql").chmod(0o755)
        return Hooks(str(self.place / "hooks"), seconds)

    def run(self, phase: str, seconds: float = 60) -> list[str]:
        return self.hooks(seconds).run(phase, "IMAGE", SystemRunner())

    def sql(self, text: str) -> str:
        argv = ["mariadb", "--skip-column-names", "-e", text]
        return subprocess.run(argv, check=True, env=self.env, capture_output=True, text=True).stdout.strip()

    def blocked(self, table: str, seconds: float = 2) -> bool:
        """Whether a row cannot be written within so many seconds; it is not written later."""
        text = f"set lock_wait_timeout = {seconds:.0f}; insert into test.{table} values (1)"  # noqa: S608 - our own words
        done = subprocess.run(["mariadb", "-e", text], env=self.env, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0 or "ERROR 1205" in done.stderr, done.stderr
        return done.returncode != 0

    def set_login(self, user: str) -> None:
        (self.place / ".my.cnf").write_text(f"[client]\nsocket={self.place}/sock\nuser={user}\n")


@pytest.fixture(scope="module")
def made() -> Iterator[Database]:
    if shutil.which("mariadbd") is None:
        pytest.skip("mariadb-server-core is not installed")
    with tempfile.TemporaryDirectory(prefix="refloat-my-") as name:
        place = Path(name)
        (place / "run").mkdir()
        argv = ["mariadb-install-db", "--no-defaults", f"--datadir={place}/data", "--user=root", "--skip-test-db"]
        subprocess.run([*argv, "--auth-root-authentication-method=socket"], check=True, capture_output=True)
        database = Database(place)
        database.set_login("root")
        yield database


@pytest.fixture
def database(made: Database) -> Iterator[Database]:
    """The server, running, with an empty table of each engine."""
    argv = ["mariadbd", "--no-defaults", "--user=root", f"--datadir={made.place}/data", f"--socket={made.place}/sock"]
    argv += ["--skip-networking", f"--pid-file={made.place}/pid", "--innodb-buffer-pool-size=16M"]
    with (made.place / "log").open("ab") as log:
        server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        _wait_for(lambda: subprocess.run(["mariadb", "-e", "select 1"], env=made.env, capture_output=True).returncode)
        made.sql("drop database if exists test; create database test")
        for engine in ENGINES:
            made.sql(f"create table test.{engine} (n int) engine={engine}")
        yield made
    finally:
        server.send_signal(signal.SIGCONT)
        server.terminate()
        server.wait(60)


def test_nothing_is_written_between_the_hooks_and_everything_after(database: Database) -> None:
    assert database.run(PRE_FREEZE) == []
    assert {engine: database.blocked(engine) for engine in ENGINES} == dict.fromkeys(ENGINES, True)
    assert database.sql("select count(*) from test.InnoDB") == "0"  # reading goes on
    assert database.run(POST_THAW) == []
    assert {engine: database.blocked(engine) for engine in ENGINES} == dict.fromkeys(ENGINES, False)
    assert database.left == []


def test_files_of_tables_without_crash_recovery_stand_still_under_a_load(database: Database) -> None:
    """What a snapshot between the hooks sees of them does not depend on its instant."""
    row = "insert into test.{} values (1);"
    rows = (row.format("MyISAM") + row.format("Aria")) * 50000
    with subprocess.Popen(["mariadb"], env=database.env, stdin=subprocess.PIPE) as load:
        assert load.stdin is not None
        feeder = threading.Thread(target=_feed, args=(load.stdin, rows.encode()))
        feeder.start()
        try:
            assert _moves(database)
            assert database.run(PRE_FREEZE) == []
            assert not _moves(database)
            assert database.run(POST_THAW) == []
            assert _moves(database)
        finally:
            load.kill()
            feeder.join()


def _feed(pipe: IO[bytes], text: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), pipe:
        pipe.write(text)


def _moves(database: Database) -> bool:
    """Whether any of those files changes within a second."""
    found = []
    for _ in range(2):
        paths = [path for path in (database.place / "data" / "test").iterdir() if path.suffix in _FILES]
        assert len(paths) == len(_FILES)
        found.append([path.read_bytes() for path in paths])
        time.sleep(1)
    return found[0] != found[1]


def test_a_hook_that_was_killed_is_let_go_of_by_post_thaw(database: Database) -> None:
    """At any point: its shell alone is killed, as by the kernel when memory is short."""
    for delay in (0.02, 0.05, 0.1, 0.2, 0.4, 0.8):
        folder = Path(database.hooks().folder, f"{PRE_FREEZE}.d")
        hook = subprocess.Popen([folder / "30-mysql", PRE_FREEZE, "IMAGE"], stderr=subprocess.DEVNULL)
        time.sleep(delay)
        hook.kill()
        hook.wait()
        assert database.run(POST_THAW) == []
        assert not database.blocked("MyISAM") and database.left == []


def test_a_busy_table_is_given_up_on_and_not_held(database: Database) -> None:
    """A query that runs long keeps the lock away; the server must not stand still for it."""
    argv = ["mariadb", "-e", "lock tables test.MyISAM write; select sleep(40)"]
    with subprocess.Popen(argv, env=database.env, stdout=subprocess.DEVNULL) as busy:
        try:
            time.sleep(1)
            (problem,) = database.run(PRE_FREEZE)
            assert "no lock within fifteen seconds" in problem
            assert not database.blocked("InnoDB") and database.left == []
        finally:
            busy.kill()
    assert database.run(POST_THAW) == []


def test_the_time_limit_ends_the_session_too(database: Database) -> None:
    argv = ["mariadb", "-e", "lock tables test.MyISAM write; select sleep(40)"]
    with subprocess.Popen(argv, env=database.env, stdout=subprocess.DEVNULL) as busy:
        try:
            time.sleep(1)
            (problem,) = database.run(PRE_FREEZE, seconds=2)
            assert "took over 2 s" in problem
        finally:
            busy.kill()
    assert not database.blocked("MyISAM")
    assert database.run(POST_THAW) == [] and database.left == []


def test_a_lock_that_did_not_live_until_the_thaw_is_a_warning(database: Database) -> None:
    assert database.run(PRE_FREEZE) == []
    (session,) = database.sql("select id from information_schema.processlist where command = 'Sleep'").split()
    database.sql(f"kill {session}")
    (problem,) = database.run(POST_THAW)
    assert "the lock was lost before the thaw" in problem and database.left == []


def test_a_server_that_is_down_is_left_alone(made: Database) -> None:
    assert made.run(PRE_FREEZE) == [] and made.run(POST_THAW) == [] and made.left == []


def test_one_that_does_not_let_it_in_is_a_warning(database: Database) -> None:
    database.set_login("nobody-of-that-name")
    try:
        (problem,) = database.run(PRE_FREEZE)
        assert "ERROR 1045" in problem or "ERROR 1698" in problem
        assert database.run(POST_THAW) == [] and database.left == []
    finally:
        database.set_login("root")


def _wait_for(not_yet: object, seconds: float = 60) -> None:
    assert callable(not_yet)
    until = time.monotonic() + seconds
    while not_yet():
        assert time.monotonic() < until
        time.sleep(0.1)
