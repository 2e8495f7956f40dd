"""The suite every site driver passes: each sentence of `imager/sites/base.py` is a test here.

A new driver adds a row to SITES (and to its own file under `sites/` what only it promises).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import mmap
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from appliance.vault.tokens import Role
from core.errors import CorruptError, FormatError, ObjectExistsError, ObjectMissingError, RefloatError, SiteFullError
from imager.sites.base import Buffer, Site
from imager.sites.fault import Fault, Rule, What
from imager.sites.file import FileSite
from imager.sites.memory import MemorySite
from imager.sites.s3 import S3Site
from imager.sites.wrap import Retry, Throttle
from tests.imager import stores
from tests.vaults import running as vault_running

MIB = 1 << 20


def _file(root: Path, patch: pytest.MonkeyPatch) -> Site:
    return FileSite("here", root)


def _file_named(root: Path, patch: pytest.MonkeyPatch) -> Site:
    """A filesystem without O_TMPFILE, as NFS or FUSE (a real one: `sites/test_file_disks.py`)."""
    plain = os.open

    def without_tmpfile(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return plain(path, flags, *rest, **more)

    patch.setattr(os, "open", without_tmpfile)
    return FileSite("here", root)


def _flaky(root: Path, patch: pytest.MonkeyPatch) -> Site:
    """Each call fails with 20 %, and loses its answer with 20 %: behind Retry nobody may notice.

    Not `delete`: tried again, it cannot tell "was never there" from "gone by the first attempt".
    """
    verbs = ("put", "get", "list", "stat")
    rules = [Rule(what, verb, chance=0.2) for what in (What.FAIL, What.LOSE_ANSWER) for verb in verbs]
    return Retry(Fault(FileSite("here", root), rules, seed=7), attempts=60, sleep=lambda _: None)


SITES: dict[str, Callable[[Path, pytest.MonkeyPatch], Site]] = {
    "file": _file,
    "file-named": _file_named,
    "memory": lambda root, patch: MemorySite("here"),
    "retry": lambda root, patch: Retry(MemorySite("here")),
    "throttle": lambda root, patch: Throttle(MemorySite("here"), 1e12),
    "fault": lambda root, patch: Fault(MemorySite("here")),
    "stack": lambda root, patch: Retry(Throttle(Fault(FileSite("here", root)), 1e12)),
    "flaky": _flaky,
}


#: Processes of their own, so of the block tier.
STORES: dict[str, tuple[str, Callable[[int], Site]]] = {
    "s3-rclone": (
        "rclone",
        # As every site is opened: rclone answers 500 now and then when several threads put into one new folder.
        lambda port: Retry(S3Site("here", stores.bucket(port), "a/prefix", access=stores.access(port))),
    ),
    "s3-moto": ("moto", lambda port: S3Site("here", stores.bucket(port), access=stores.access(port))),
    "s3-moto-versions": (
        "moto",
        lambda port: S3Site("here", stores.bucket(port, versions=True), "p", access=stores.access(port)),
    ),
}
#: `make test-ceph` starts one and says on which port (tests/tools/ceph).
CEPH_PORT = os.environ.get("REFLOAT_CEPH", "")
if CEPH_PORT:
    STORES["s3-ceph"] = ("ceph", lambda port: S3Site("here", stores.bucket(port), access=stores.access(port)))
    STORES["s3-ceph-versions"] = (
        "ceph",
        lambda port: S3Site("here", stores.bucket(port, versions=True), "p", access=stores.access(port)),
    )
#: How far back a site's clock may round a time.
_ROUNDS = {**dict.fromkeys(STORES, timedelta(seconds=1))}


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], int]]:
    """Starts a store at its first use; the port."""
    ports: dict[str, int] = {}
    with contextlib.ExitStack() as stack:

        def start(kind: str) -> int:
            if kind == "ceph":
                return int(CEPH_PORT)
            if kind not in ports:
                root = tmp_path_factory.mktemp(kind) / "root"
                root.mkdir()
                ports[kind] = stack.enter_context({"rclone": stores.rclone, "moto": stores.moto}[kind](root))
            return ports[kind]

        yield start


@pytest.fixture(params=[*SITES, *(pytest.param(name, marks=pytest.mark.block) for name in [*STORES, "vault"])])
def site(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, running: Callable[[str], int]
) -> Iterator[Site]:
    root = tmp_path / "site"
    root.mkdir()
    with contextlib.ExitStack() as stack:
        if request.param == "vault":
            vault = stack.enter_context(vault_running(root))
            site: Site = vault.site(vault.token(Role.OPERATOR))
        elif request.param in STORES:
            kind, make = STORES[request.param]
            site = make(running(kind))
        else:
            site = SITES[request.param](root, monkeypatch)
        stack.callback(site.close)
        yield site


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> timedelta:
    """How far back the clock of the test's site may round: the kernel stamps files with its last tick, up to 10 ms
    back."""
    return _ROUNDS.get(request.node.callspec.params["site"], timedelta(milliseconds=50))


def names(site: Site, prefix: str = "") -> list[str]:
    return [info.name for info in site.list(prefix)]


def is_whole(error: RefloatError, name: str) -> bool:
    """Whether the error carries the fields that the contract asks for, and a message that says both."""
    return error.fields["site"] == "here" and error.fields["name"] == name and name in error.message


# --- put


@pytest.mark.parametrize(
    "body",
    [
        [],
        [b""],
        [b"abc"],
        [b"", b"abc", b"", b"def", b""],
        [b"a", bytearray(b"b"), memoryview(b"c"), memoryview(bytearray(b"d"))],
        [memoryview(bytes(range(64))).cast("Q")],
        [memoryview(bytearray(range(64)))[3:50]],
    ],
    ids=["nothing", "empty", "one", "some-empty", "kinds", "wide-items", "slice"],
)
def test_put_joins_the_buffers(site: Site, body: Sequence[Buffer]) -> None:
    site.put("servers/a/packs/00/x", body)
    assert site.get("servers/a/packs/00/x") == b"".join(body)
    assert site.stat("servers/a/packs/00/x").size_bytes == len(b"".join(body))


def test_put_takes_64_mib_from_aligned_memory(site: Site) -> None:
    with mmap.mmap(-1, 64 * MIB) as big:
        for at in range(0, len(big), MIB):
            big[at : at + MIB] = random.Random(at).randbytes(MIB)
        digest = hashlib.sha256(big).digest()
        with memoryview(big) as view, view[:-3] as short:
            site.put("whole", [view])
            site.put("tail", [b"head", short])
        tail = hashlib.sha256(b"head" + big[:-3]).digest()
    assert hashlib.sha256(site.get("whole")).digest() == digest
    assert hashlib.sha256(site.get("tail")).digest() == tail


def test_put_is_create_only(site: Site) -> None:
    site.put("a/b", [b"first"])
    before = site.stat("a/b")
    for body in ([b"other"], [b"longer than the first"], [b""]):
        with pytest.raises(ObjectExistsError) as caught:
            site.put("a/b", body)
        assert is_whole(caught.value, "a/b")
    assert site.get("a/b") == b"first"
    assert site.stat("a/b") == before


class Exploding(Sequence[Buffer]):
    """Three parts; the last one raises when it is asked for the `nth` time."""

    def __init__(self, nth: int) -> None:
        self._left = nth

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: Any) -> Any:
        if index >= 3:
            raise IndexError
        if index == 2:
            self._left -= 1
            if not self._left:
                raise RuntimeError("the source broke")
        return b"x" * MIB


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_nothing_of_a_failed_put_is_visible(site: Site, nth: int) -> None:
    try:
        site.put("a/b", Exploding(nth))
    except RuntimeError:
        assert names(site) == []
        with pytest.raises(ObjectMissingError):
            site.get("a/b")
        site.put("a/b", [b"the name is free"])
    else:
        assert site.get("a/b") == b"x" * (3 * MIB)


def test_put_keeps_no_buffer(site: Site) -> None:
    grows, mapped = bytearray(b"x" * (MIB + 5)), mmap.mmap(-1, MIB)
    with memoryview(mapped) as view:
        site.put("a", [grows, view])
        grows[0] = ord("y")
        with pytest.raises(ObjectExistsError) as kept:  # the traceback must not hold them either
            site.put("a", [grows, view])
    grows.extend(b"more")  # BufferError while somebody holds a view
    mapped.close()
    assert site.get("a") == b"x" * (MIB + 5) + bytes(MIB)
    assert kept.value.fields["name"] == "a"


# --- get


def test_get_gives_ranges(site: Site) -> None:
    data = random.Random(1).randbytes(300_000)
    site.put("r", [data])
    draw = random.Random(2)
    edges = [0, 1, 4095, 4096, 4097, 299_999, 300_000]
    for start, end in [*itertools.combinations_with_replacement(edges, 2), *[(0, draw.randrange(300_001))] * 20]:
        assert site.get("r", start, end - start) == data[start:end]
    for start in edges:
        assert site.get("r", start) == data[start:]
    assert type(site.get("r", 1, 2)) is bytes


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 101), (100, 1), (99, 2), (101, None), (101, 0), (1 << 62, None), (0, 1 << 62), (1 << 62, 1)],
)
def test_get_of_more_than_there_is_is_corrupt(site: Site, offset: int, length: int | None) -> None:
    site.put("short", [bytes(100)])
    with pytest.raises(CorruptError) as caught:
        site.get("short", offset, length)
    assert is_whole(caught.value, "short")


@pytest.mark.parametrize(("offset", "length"), [(-1, None), (0, -1)])
def test_a_negative_range_is_a_bug(site: Site, offset: int, length: int | None) -> None:
    site.put("a", [b"abc"])
    with pytest.raises(ValueError, match="negative"):
        site.get("a", offset, length)


@pytest.mark.parametrize("name", ["nothing", "a", "a/b/", "a/b/c", "a/bb", "a/b/c/d"])
def test_what_is_not_there_is_missing(site: Site, name: str) -> None:
    site.put("a/b/x", [b"1"])
    name = name.rstrip("/")
    for verb in (site.get, site.stat, site.delete):
        with pytest.raises(ObjectMissingError) as caught:
            verb(name)
        assert is_whole(caught.value, name)
    assert names(site) == ["a/b/x"]


def test_an_object_is_no_folder(site: Site) -> None:
    site.put("a", [b"1"])
    for verb in (site.get, site.stat, site.delete):
        with pytest.raises(ObjectMissingError):
            verb("a/b")
    assert names(site, "a/") == []


# --- list, stat, delete

ORDER = [
    "a",
    "a+b/x",
    "a-b",
    "a.b/c",
    "a.json",
    "b/0",
    "b/A",
    "b/a",
    "b/a.b",
    "b/a0",
    "b/aa/_",
    "b/aa/z",
    "b=",
    "c/d/e/f",
]


def test_list_is_sorted_by_whole_name(site: Site) -> None:
    for name in random.Random(3).sample(ORDER, len(ORDER)):
        site.put(name, [name.encode()])
    found = list(site.list())
    assert [info.name for info in found] == sorted(ORDER)
    assert [info.size_bytes for info in found] == [len(name) for name in sorted(ORDER)]
    assert [site.stat(info.name) for info in found] == found


def test_list_sorts_a_folder_between_its_neighbours(site: Site) -> None:
    """`/` sorts after `+`, `-` and `.`, before digits: the folder `x` is not where the name `x` would be."""
    order = ["d/x+", "d/x-", "d/x.y", "d/x/1", "d/x/2", "d/x0", "d/x=", "d/xa"]
    for name in reversed(order):
        site.put(name, [])
    assert names(site) == order == sorted(order)


def test_list_takes_folder_prefixes(site: Site) -> None:
    for name in ORDER:
        site.put(name, [b"1"])
    for prefix in ("", "a.b/", "b/", "b/aa/", "c/", "c/d/", "b/a/", "none/", "none/none/"):
        assert names(site, prefix) == [name for name in sorted(ORDER) if name.startswith(prefix)]


@pytest.mark.parametrize("prefix", ["a", "a/b", "/", "a//", "../", "a/../", "./", ".tmp/", "/etc/", "a\0/", "a/" * 501])
def test_list_refuses_what_is_no_folder_prefix(site: Site, prefix: str) -> None:
    site.put("a/b", [b"1"])
    with pytest.raises(FormatError):
        list(site.list(prefix))


def test_list_streams(site: Site) -> None:
    for number in range(5):
        site.put(f"a/{number}", [])
    found = site.list()
    assert iter(found) is found
    assert next(found).name == "a/0"  # and the rest may be left


def test_a_fresh_site_is_empty(site: Site) -> None:
    assert names(site) == []
    with pytest.raises(ObjectMissingError):
        site.stat("servers/x/server.json")


def test_received_is_the_time_of_the_put_in_utc(site: Site, rounds: timedelta) -> None:
    start = datetime.now(UTC)
    site.put("a", [b"1"])
    received = site.stat("a").received
    assert received.utcoffset() == timedelta(0)
    assert start - rounds <= received <= datetime.now(UTC)


def test_delete_removes_one_object_and_frees_its_name(site: Site) -> None:
    for name in ("a/b", "a/c", "d"):
        site.put(name, [b"old"])
    site.delete("a/b")
    assert names(site) == ["a/c", "d"]
    with pytest.raises(ObjectMissingError):
        site.get("a/b")
    with pytest.raises(ObjectMissingError):
        site.delete("a/b")
    site.put("a/b", [b"new"])
    assert site.get("a/b") == b"new"


# --- names

HOSTILE = [
    "", "/", "/etc/passwd", "a/", "a//b", ".", "..", "../x", "a/../b", "a/./b", "a/..", ".hidden", "a/.hidden/b",
    ".tmp/x", "a\0b", "a\nb", "a\n", "a b", "a\\b", "é", "a/\u202ex", "~", "$HOME", "a;b", "*", "a:b", "%2e%2e/x",
    "x" * 256, "/".join(["x" * 99] * 11), "\udcff",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_hostile_name_touches_nothing(site: Site, name: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"outside")
    verbs: list[Callable[[], object]] = [
        lambda: site.put(name, [b"1"]),
        lambda: site.get(name),
        lambda: site.stat(name),
        lambda: site.delete(name),
    ]
    for verb in verbs:
        with pytest.raises(FormatError):
            verb()
    assert names(site) == []
    assert (tmp_path / "x").read_bytes() == b"outside"
    assert sorted(os.listdir(tmp_path)) == ["site", "x"]


@pytest.mark.parametrize("name", ["x" * 255, "/".join(["y" * 199] * 5), "a", "_", "-", "+=._-0", "a..b", "a."], ids=len)
def test_the_longest_and_oddest_good_names_work(site: Site, name: str) -> None:
    site.put(name, [b"1"])
    assert names(site) == [name]
    assert site.get(name) == b"1"


# --- threads


def test_of_many_puts_of_one_name_exactly_one_wins(site: Site) -> None:
    store = site.inner if isinstance(site, Retry) else site
    if isinstance(store, S3Site) and not store.is_create_only():
        pytest.xfail("this store ignores create-only puts: docs/sites.md and `refloat check` say so")
    for turn in range(5):
        bodies = [bytes([number]) * (200_000 + number) for number in range(8)]
        gate = threading.Barrier(len(bodies))

        def put(body: bytes, name: str = f"servers/x/{turn}/same", gate: threading.Barrier = gate) -> bool:
            gate.wait()
            try:
                site.put(name, [body])
            except ObjectExistsError:
                return False
            return True

        with ThreadPoolExecutor(len(bodies)) as pool:
            won = list(pool.map(put, bodies))
        assert won.count(True) == 1
        assert site.get(f"servers/x/{turn}/same") == bodies[won.index(True)]


def test_many_threads_put_get_and_list_at_once(site: Site) -> None:
    def work(number: int) -> None:
        for turn in range(6):
            name = f"servers/s{number % 2}/packs/{turn:02x}/{number}"
            site.put(name, [name.encode() * 50])
            assert site.get(name) == name.encode() * 50
            seen = names(site)
            assert seen == sorted(set(seen))
            assert name in seen

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(names(site)) == 48


def test_threads_list_the_top_at_once(site: Site) -> None:
    """Descriptors of one open folder share a position: each listing needs its own."""
    expected = [f"object-{number:04}" for number in range(600)]
    for name in expected:
        site.put(name, [])
    with ThreadPoolExecutor(4) as pool:
        assert all(found == expected for found in pool.map(lambda _: names(site), range(40)))


# --- full (the real thing, a small disk: `sites/test_file_disks.py`)


@pytest.mark.parametrize(
    "full",
    [
        lambda: MemorySite("here", capacity_bytes=1000),
        lambda: Fault(MemorySite("here"), [Rule(What.FULL, amount=1000)]),
        lambda: Retry(MemorySite("here", capacity_bytes=1000)),
    ],
    ids=["memory", "fault", "retry"],
)
def test_no_room_is_said_and_nothing_is_left(full: Callable[[], Site]) -> None:
    site = full()
    site.put("fits", [bytes(999)])
    with pytest.raises(SiteFullError) as caught:
        site.put("a/b", [bytes(2)])
    assert is_whole(caught.value, "a/b")
    assert names(site) == ["fits"]


def test_two_names_of_one_folder_are_one_place(tmp_path: Path) -> None:
    (tmp_path / "de").mkdir()
    (tmp_path / "fr").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "de")
    places = [FileSite(name, tmp_path / name).place() for name in ("de", "link", "fr")]
    assert places[0] == places[1] != places[2]
    one, two = MemorySite("a"), MemorySite("a")
    assert one.place() != two.place()
