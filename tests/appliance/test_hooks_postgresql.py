"""The shipped hook for PostgreSQL, against a real server in a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.run import SystemRunner
from imager.hold.hooks import PRE_FREEZE, Hooks

pytestmark = pytest.mark.block
HOOK = Path(__file__).parents[2] / "appliance" / "hooks" / "postgresql"
_PORT = "54329"  # of the socket's name only: nothing listens on the network


@dataclass(frozen=True)
class Cluster:
    """A cluster as Debian's tools make it, with its configuration, data and socket below `place`."""

    place: Path
    version: str
    env: dict[str, str]

    def ctl(self, *words: str) -> None:
        argv = ["pg_ctlcluster", "--skip-systemctl-redirect", self.version, "test", *words]
        subprocess.run(argv, check=True, env=self.env, capture_output=True)

    def sql(self, text: str) -> str:
        argv = ["runuser", "-u", "postgres", "--", "psql", "-XAtq", "--cluster", f"{self.version}/test", "-c", text]
        return subprocess.run(argv, check=True, env=self.env, capture_output=True, text=True, cwd="/").stdout.strip()

    def hooks(self, env: Mapping[str, str] | None = None, seconds: float = 60) -> Hooks:
        """The hook as the operator installs it, but for the environment of this cluster."""
        folder = self.place / "hooks" / "pre-freeze.d"
        folder.mkdir(parents=True, exist_ok=True)
        words = " ".join(
            f"{name}={value}" for name, value in {**(env or {}), "PG_CLUSTER_CONF_ROOT": self.conf}.items()
        )
        (folder / "20-postgresql").write_text(f'#!/bin/sh\nexec /usr/bin/env {words} {HOOK} "$@"\n')
        (folder / "20-postgresql").chmod(0o755)
        return Hooks(str(folder.parent), seconds)

    @property
    def written(self) -> int:
        """How far the log has come, in bytes."""
        return int(self.sql("select pg_current_wal_insert_lsn() - '0/0'"))

    @property
    def checkpointed(self) -> int:
        """From where on the log would be replayed."""
        return int(self.sql("select redo_lsn - '0/0' from pg_control_checkpoint()"))

    @property
    def conf(self) -> str:
        return self.env["PG_CLUSTER_CONF_ROOT"]

    @property
    def pid(self) -> int:
        return int((self.place / "data" / "postmaster.pid").read_text().split()[0])


@pytest.fixture(scope="module")
def made() -> Iterator[Cluster]:
    if shutil.which("pg_createcluster") is None or not list(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        pytest.skip("postgresql is not installed")
    version = max(Path("/usr/lib/postgresql").iterdir(), key=lambda each: int(each.name)).name
    with tempfile.TemporaryDirectory(prefix="refloat-pg-") as name:
        place = Path(name)
        place.chmod(0o755)
        (place / "sock").mkdir()
        shutil.chown(place / "sock", "postgres")
        cluster = Cluster(place, version, {**os.environ, "PG_CLUSTER_CONF_ROOT": f"{place}/conf", "LC_ALL": "C.UTF-8"})
        argv = ["pg_createcluster", version, "test", "--datadir", f"{place}/data", "--socketdir", f"{place}/sock"]
        argv += ["--logfile", f"{place}/log", "--port", _PORT, "--start-conf", "manual"]
        argv += ["--createclusterconf", "/dev/null", "-o", "listen_addresses=", "-o", "ssl=off"]
        subprocess.run(argv, check=True, env=cluster.env, capture_output=True, cwd="/")
        try:
            yield cluster
        finally:
            argv = ["pg_dropcluster", "--stop", version, "test"]
            subprocess.run(argv, env=cluster.env, capture_output=True, cwd="/")


@pytest.fixture
def cluster(made: Cluster) -> Iterator[Cluster]:
    """The cluster, running."""
    made.ctl("start")
    try:
        yield made
    finally:
        made.ctl("stop", "-m", "immediate")


def test_what_was_committed_is_checkpointed(cluster: Cluster) -> None:
    cluster.sql("drop table if exists t; create table t as select generate_series(1, 50000) as n")
    before = cluster.written
    assert cluster.checkpointed < before
    assert cluster.hooks().run(PRE_FREEZE, "IMAGE", SystemRunner()) == []
    assert cluster.checkpointed >= before
    # and what lies on the disk then, without what the server has in memory, is a database
    cluster.ctl("stop", "-m", "immediate")
    cluster.ctl("start")
    assert cluster.sql("select count(*), sum(n) from t") == "50000|1250025000"


def test_a_cluster_that_is_down_is_left_alone(made: Cluster) -> None:
    assert made.hooks().run(PRE_FREEZE, "IMAGE", SystemRunner()) == []


def test_one_that_does_not_let_it_in_is_a_warning(cluster: Cluster) -> None:
    rules = Path(cluster.conf, cluster.version, "test", "pg_hba.conf")
    before = rules.read_text()
    try:
        for rule in ("local all all scram-sha-256\n", "local all all reject\n"):
            rules.write_text(rule)
            cluster.ctl("reload")
            time.sleep(0.5)
            started = time.monotonic()
            (problem,) = cluster.hooks().run(PRE_FREEZE, "IMAGE", SystemRunner())
            assert problem.endswith(f"cluster {cluster.version}/test: no checkpoint"), problem
            assert time.monotonic() - started < 30  # nobody was asked for a password
    finally:
        rules.write_text(before)


def test_one_that_hangs_meets_the_time_limit_and_nothing_is_left_waiting(cluster: Cluster) -> None:
    pid = cluster.pid
    os.kill(pid, 19)  # SIGSTOP
    try:
        (problem,) = cluster.hooks(seconds=2).run(PRE_FREEZE, "IMAGE", SystemRunner())
        assert "took over 2 s" in problem
        assert not _running("psql")
        (problem,) = cluster.hooks().run(PRE_FREEZE, "IMAGE", SystemRunner())  # its own limit comes sooner
        assert problem.endswith("no checkpoint")
    finally:
        os.kill(pid, 18)


def test_without_debians_tools(cluster: Cluster) -> None:
    """As on other distributions: no `pg_lsclusters`, the server at libpq's default place."""
    tools = cluster.place / "bin"
    tools.mkdir()
    for name in ("psql", "pg_isready"):
        (tools / name).symlink_to(f"/usr/lib/postgresql/{cluster.version}/bin/{name}")
    for name in ("runuser", "sh"):
        (tools / name).symlink_to(shutil.which(name) or name)
    place = {"PATH": str(tools), "PGHOST": f"{cluster.place}/sock", "PGPORT": _PORT}
    cluster.sql("select pg_switch_wal()")
    before = cluster.written
    assert cluster.hooks(place).run(PRE_FREEZE, "IMAGE", SystemRunner()) == []
    assert cluster.checkpointed >= before
    assert cluster.hooks({**place, "PGPORT": "54330"}).run(PRE_FREEZE, "IMAGE", SystemRunner()) == []  # down


def _running(name: str) -> bool:
    """Whether a process of that name, begun by this one or its children, is still there."""
    found = subprocess.run(["pgrep", "-x", name], capture_output=True, text=True).stdout.split()
    return any("PG_CLUSTER_CONF_ROOT=/tmp/refloat-pg-" in _environment(pid) for pid in found)


def _environment(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_text("utf-8", "replace")
    except OSError:
        return ""
