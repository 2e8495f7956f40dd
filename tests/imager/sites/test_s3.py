"""What only the s3 driver promises: versions, locks, probes, what a lying store can do; on real stores."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from core.errors import CorruptError, ObjectExistsError, ObjectMissingError, RefloatError, SiteError
from imager.sites.fault import Fault, Rule, What
from imager.sites.s3 import S3Site
from imager.sites.s3lock import locks_of, protection
from imager.sites.wrap import Retry
from tests.imager import stores

pytestmark = pytest.mark.block
PACK = "servers/x/packs/00/a"


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with stores.moto(tmp_path_factory.mktemp("moto")) as port:
        yield port


@pytest.fixture(scope="module")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    root = tmp_path_factory.mktemp("rclone") / "root"
    root.mkdir()
    with stores.rclone(root) as port:
        yield port


def locked(port: int, mode: str = "governance", days: int = 30) -> S3Site:
    return S3Site(
        "here", stores.bucket(port, lock=True), "p", access=stores.access(port), lock_days=days, lock_mode=mode
    )


# --- versions


def test_what_is_overwritten_or_deleted_later_is_still_read(moto: int) -> None:
    """As root on a server with the same credentials would: plain puts, and deletes, past the driver."""
    bucket = stores.bucket(moto, versions=True)
    site = S3Site("here", bucket, "p", access=stores.access(moto))
    for name in ("a", "b", "c"):
        site.put(name, [name.encode() * 9])
    for number in range(3):
        site.client.ask("put_object", "a", Key="p/a", Body=b"forged %d" % number)
    site.client.ask("delete_object", "b", Key="p/b")
    for fresh in (site, S3Site("here", bucket, "p", access=stores.access(moto))):
        assert [fresh.get(name) for name in "abc"] == [b"aaaaaaaaa", b"bbbbbbbbb", b"ccccccccc"]
        assert [(each.name, each.size_bytes) for each in fresh.list()] == [("a", 9), ("b", 9), ("c", 9)]
        assert fresh.get("a", 2, 3) == b"aaa"
        fresh.close()


def test_delete_leaves_no_version_behind(moto: int) -> None:
    site = S3Site("here", stores.bucket(moto, versions=True), access=stores.access(moto))
    site.put("a", [b"first"])
    site.put("a/b", [b"another"])
    site.client.ask("put_object", "a", Key="a", Body=b"second")
    site.client.ask("delete_object", "a", Key="a")
    site.delete("a")
    left = site.client.ask("list_object_versions", "", Prefix="a")
    assert [each["Key"] for each in left["Versions"]] == ["a/b"] and "DeleteMarkers" not in left
    with pytest.raises(ObjectMissingError):
        site.get("a")
    site.put("a", [b"again"])
    assert site.get("a") == b"again"
    site.close()


def test_more_versions_than_a_page(moto: int) -> None:
    """An attacker may put as many as he likes: the first is still the one."""
    site = S3Site("here", stores.bucket(moto, versions=True), access=stores.access(moto))
    site.put("a", [b"first"])
    site.put("b", [b"next"])
    for number in range(1010):
        site.client.ask("put_object", "a", Key="a", Body=b"%d" % number)
    assert (site.get("a"), site.get("b")) == (b"first", b"next")
    assert [each.size_bytes for each in site.list()] == [5, 4]
    site.close()


# --- locks


@pytest.mark.parametrize("mode", ["governance", "compliance"])
def test_objects_are_put_locked_and_cannot_be_deleted(moto: int, mode: str) -> None:
    site = locked(moto, mode)
    site.put(PACK, [b"data"])
    site.put("servers/x/leases/1.json", [b"{}"])
    head = site.head(PACK)
    assert head["ObjectLockMode"] == mode.upper()
    until, term = head["ObjectLockRetainUntilDate"], timedelta(days=30)
    assert abs(until - datetime.now(UTC) - term) < timedelta(minutes=1)
    with pytest.raises(SiteError) as caught:
        site.delete(PACK)
    assert caught.value.fields["transient"] is False
    assert site.get(PACK) == b"data"
    site.delete("servers/x/leases/1.json")
    site.close()


def test_a_lock_is_renewed_and_never_shortened(moto: int) -> None:
    site = locked(moto, days=30)
    site.put(PACK, [b"data"])
    locks = locks_of(Retry(site))
    assert locks is not None
    first = locks.until(PACK)
    assert first is not None
    longer = S3Site("here", site.bucket, "p", access=stores.access(moto), lock_days=60)
    more = locks_of(longer)
    assert more is not None
    more.renew(PACK)
    second = more.until(PACK)
    assert second is not None and second - first > timedelta(days=29)
    locks.renew(PACK)  # for 30 days only
    assert (locks.until(PACK) or second) >= second
    site.close()
    longer.close()


def test_an_unlocked_object_gets_a_lock(moto: int) -> None:
    site = locked(moto)
    plain = S3Site("here", site.bucket, "p", access=stores.access(moto))
    plain.put(PACK, [b"put before site.lock_days was set"])
    locks = locks_of(site)
    assert locks is not None and locks.until(PACK) is None and locks_of(plain) is None
    locks.renew(PACK)
    assert locks.until(PACK) is not None
    for each in (site, plain):
        each.close()


# --- what a store protects


def test_the_probe_tells_what_these_credentials_could_destroy(moto: int, rclone: int) -> None:
    plain = S3Site("here", stores.bucket(moto), access=stores.access(moto))
    ignoring = S3Site("here", stores.bucket(rclone), access=stores.access(rclone))
    strict, lax = locked(moto, "compliance"), locked(moto, "governance")
    told = {name: protection(site) for name, site in
            {"plain": plain, "ignoring": ignoring, "strict": strict, "lax": lax}.items()}  # fmt: skip
    assert all(told.values())
    assert [(name, each.create_only, each.lock, each.write_only) for name, each in told.items() if each] == [
        ("plain", True, False, False),
        ("ignoring", False, False, False),
        ("strict", True, True, True),
        ("lax", True, True, False),  # whoever may bypass governance, as here, can delete
    ]
    assert [list(site.list()) for site in (plain, ignoring, strict, lax)] == [[]] * 4
    again = protection(strict)
    assert again == told["strict"]
    for site in (plain, ignoring, strict, lax):
        site.close()


# --- answers that are lost, keys that are wrong


def test_a_put_whose_answer_was_lost_compares_the_bytes(moto: int) -> None:
    inner = S3Site("here", stores.bucket(moto), access=stores.access(moto))
    site = Retry(Fault(inner, [Rule(What.LOSE_ANSWER, "put", nth=1)]), sleep=lambda _: None)
    site.put("a", [b"da", b"ta"])
    assert inner.get("a") == b"data"
    other = Retry(Fault(inner, [Rule(What.FAIL, "put", nth=1)]), sleep=lambda _: None)
    with pytest.raises(ObjectExistsError):
        other.put("a", [b"else"])
    inner.close()


def test_wrong_keys_are_said_and_not_tried_again(rclone: int) -> None:
    access = replace(stores.access(rclone), secret_access_key="wrong")
    site = S3Site("here", stores.bucket(rclone), access=access)
    with pytest.raises(SiteError) as caught:
        site.stat("a")
    assert caught.value.fields["transient"] is False
    site.close()


def test_a_missing_bucket_is_no_empty_site(moto: int, rclone: int) -> None:
    for port in (moto, rclone):
        site = S3Site("here", "no-such-bucket", access=stores.access(port))
        for ask in (lambda site=site: list(site.list()), lambda site=site: site.put("a", [b"1"])):
            with pytest.raises(SiteError) as caught:
                ask()
            assert not isinstance(caught.value, ObjectMissingError)
            assert caught.value.fields["transient"] is False
        site.close()


def test_a_store_that_is_not_there_may_come_back() -> None:
    site = S3Site("here", "b", access=replace(stores.access(1), endpoint="http://127.0.0.1:9"))
    with pytest.raises(SiteError) as caught:
        site.get("a")
    assert caught.value.fields["transient"] is True
    site.close()


# --- a store that lies


@contextmanager
def lying(answer: Callable[[str], tuple[int, dict[str, str], bytes]]) -> Iterator[S3Site]:
    """A store that gives this (status, headers, body) for a path and query."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.endswith("?versioning"):
                status, headers, body = 200, dict[str, str](), b"<VersioningConfiguration/>"
            else:
                status, headers, body = answer(self.path)
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    site = S3Site("here", "b", access=stores.access(server.server_port))
    try:
        yield site
    finally:
        site.close()
        server.shutdown()
        thread.join()
        server.server_close()


def _page(keys: list[str], token: str = "") -> bytes:
    rows = "".join(
        f"<Contents><Key>{key}</Key><Size>1</Size><LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
        for key in keys
    )
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    return f"<ListBucketResult>{rows}{more}</ListBucketResult>".encode()


@pytest.mark.parametrize(
    "page",
    [
        _page(["b", "a"]), _page(["a", "a"]), _page(["a"], "again"), _page([], "again"),
        _page(["../../etc/passwd", "a"]), b"<no xml", b"", b"{}",
    ],
    ids=["unsorted", "twice", "for-ever", "for-ever-nothing", "hostile-name", "broken", "empty", "json"],
)  # fmt: skip
def test_a_list_that_lies_ends(page: bytes) -> None:
    with lying(lambda path: (200, {}, page)) as site:
        try:
            found = [each.name for each in site.list()]
        except RefloatError as error:
            assert error.fields["site"] == "here"
        else:
            assert found in (["a"], [])  # names that are none are not listed


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (206, {"Content-Range": "bytes 4-8/100"}, b"12345"),
        (206, {"Content-Range": "bytes 0-4/100"}, b"12345"),
        (200, {}, b"x" * 100),
        (206, {"Content-Range": "bytes 4-13/100", "Content-Length": "10"}, b"1234"),
        (206, {"Content-Range": "bytes 4-103/1000"}, b"x" * 100),
        (416, {}, b""),
    ],
    ids=["short", "elsewhere", "whole", "cut", "more", "no-such-range"],
)
def test_a_get_of_other_bytes_is_refused(status: int, headers: dict[str, str], body: bytes) -> None:
    with lying(lambda path: (status, headers, body)) as site, pytest.raises((CorruptError, SiteError)):
        site.get("a", 4, 10)
