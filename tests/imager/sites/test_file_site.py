"""The file driver: an answer means that it is on the disk, and nothing is left lying about."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.errors import (
    ObjectExistsError,
    SiteError,
)
from imager.sites.durable import DIRECT_MIN_BYTES
from imager.sites.file import FileSite

MIB = 1 << 20


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Every real fsync and link of the test, in order, with the path (`draft` for a file without a name)."""
    found: list[tuple[str, str]] = []
    fsync, link = os.fsync, os.link

    def path_of(handle: int) -> str:
        path = os.readlink(f"/proc/self/fd/{handle}")
        return "draft" if path.endswith(" (deleted)") or "/.tmp/" in path else path

    def recorded_fsync(handle: int) -> None:
        fsync(handle)
        found.append(("fsync", path_of(handle)))

    def recorded_link(source: str, leaf: str, *, dst_dir_fd: int, **rest: Any) -> None:
        link(source, leaf, dst_dir_fd=dst_dir_fd, **rest)
        found.append(("link", f"{path_of(dst_dir_fd)}/{leaf}"))

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "link", recorded_link)
    return found


@pytest.mark.parametrize("size", [0, 10, DIRECT_MIN_BYTES + 1])
@pytest.mark.parametrize("named", [False, True])
def test_file_then_name_then_folder(
    site: FileSite, root: Path, events: list[tuple[str, str]], request: pytest.FixtureRequest, size: int, named: bool
) -> None:
    if named:
        request.getfixturevalue("no_tmpfile")
    site.put("a/0", [])
    events.clear()
    site.put("a/x", [bytes(size)])
    assert events == [("fsync", "draft"), ("link", f"{root}/a/x"), ("fsync", f"{root}/a")]


def test_new_folders_are_fsynced_up_to_the_root(site: FileSite, root: Path, events: list[tuple[str, str]]) -> None:
    site.put("0", [])
    events.clear()
    site.put("a/b/x", [b"1"])
    assert events[:2] == [("fsync", f"{root}"), ("fsync", f"{root}/a")]
    assert events[2:] == [("fsync", "draft"), ("link", f"{root}/a/b/x"), ("fsync", f"{root}/a/b")]


def test_a_folder_left_by_a_killed_run_is_fsynced_before_it_is_counted_on(
    site: FileSite, root: Path, events: list[tuple[str, str]]
) -> None:
    site.put("0", [])
    (root / "a").mkdir()
    events.clear()
    site.put("a/x", [b"1"])
    site.put("a/y", [b"1"])
    assert events.count(("fsync", f"{root}")) == 1
    assert events[0] == ("fsync", f"{root}")


def test_a_folder_made_again_is_fsynced_again(site: FileSite, root: Path, events: list[tuple[str, str]]) -> None:
    site.put("a/x", [b"1"])
    site.delete("a/x")
    (root / "a").rmdir()
    events.clear()
    site.put("a/x", [b"1"])
    assert events[0] == ("fsync", f"{root}")


def test_exists_is_said_of_durable_names_only(site: FileSite, root: Path, events: list[tuple[str, str]]) -> None:
    site.put("a/x", [b"1"])
    events.clear()
    with pytest.raises(ObjectExistsError):
        site.put("a/x", [b"1"])
    assert events == [("fsync", f"{root}/a")]


def test_delete_fsyncs_the_folder(site: FileSite, root: Path, events: list[tuple[str, str]]) -> None:
    site.put("a/x", [b"1"])
    events.clear()
    site.delete("a/x")
    assert events == [("fsync", f"{root}/a")]


@pytest.mark.parametrize("failing", ["file", "folder"])
def test_a_failed_fsync_leaves_no_name(
    site: FileSite, root: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    site.put("a/0", [])
    fsync = os.fsync

    def fail(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}") == (failing == "folder"):
            raise OSError(errno.EIO, "Input/output error")
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(SiteError) as caught:
            site.put("a/x", [b"1"])
    assert caught.value.fields == {"site": "de", "name": "a/x", "transient": True}
    assert os.listdir(root / "a") == ["0"]
    site.put("a/x", [b"1"])


@pytest.mark.usefixtures("no_tmpfile")
def test_a_named_draft_is_removed_and_stale_ones_are_swept(site: FileSite, root: Path) -> None:
    (root / ".tmp").mkdir()
    for name, age in (("stale", 90_000), ("fresh", 80_000)):
        (root / ".tmp" / name).write_bytes(b"left by a kill")
        os.utime(root / ".tmp" / name, (0, time.time() - age))
    site.put("a/x", [bytes(MIB)])
    with pytest.raises(TypeError):
        site.put("a/y", ["not bytes"])  # type: ignore[list-item]
    assert os.listdir(root / ".tmp") == ["fresh"]
    assert [info.name for info in site.list()] == ["a/x"]


@pytest.mark.usefixtures("no_tmpfile")
def test_a_link_whose_answer_was_lost_counts_as_made(site: FileSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS sends a request again when the answer got lost; the second one finds the name that the first one made."""
    link = os.link

    def twice(*args: Any, **more: Any) -> None:
        link(*args, **more)
        link(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", twice)
        site.put("a/x", [b"1"])
    assert site.get("a/x") == b"1"


def test_no_descriptor_is_leaked(site: FileSite, root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    (root / "link").symlink_to(root)
    marked = FileSite("de", root, create=True)
    verbs: list[Callable[[str], object]] = [
        lambda name: marked.put(name, [bytes(MIB)]),
        marked.get,
        marked.stat,
        marked.delete,
        lambda name: marked.put(name, ["not bytes"]),  # type: ignore[list-item]
        lambda name: list(marked.list(name + "/")),
        lambda name: next(marked.list(), None),
    ]
    for name in ("x/y/z", "x/y", "link/a", "link", "x/y/z/0"):
        for verb in verbs:
            try:
                verb(name)
            except (SiteError, TypeError):
                pass
    marked.close()
    assert len(os.listdir("/proc/self/fd")) == before
