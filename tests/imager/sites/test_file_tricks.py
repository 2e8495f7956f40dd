"""The file driver: links and oddities inside the folder, and what the kernel may answer."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import (
    CorruptError,
    ObjectMissingError,
    SiteError,
    SiteFullError,
)
from imager.sites.file import FileSite
from imager.sites.oserrors import as_site_error


@pytest.fixture
def trap(site: FileSite, root: Path, tmp_path: Path) -> Path:
    """A folder outside with one file, and links to both in the site."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_bytes(b"secret")
    site.put("servers/a/x", [b"1"])
    (root / "servers" / "folder").symlink_to(outside)
    (root / "servers" / "file").symlink_to(outside / "x")
    (root / "servers" / "dangling").symlink_to(outside / "new")
    (root / "servers" / "inside").symlink_to(root / "servers" / "a")
    return outside


@pytest.mark.parametrize("name", ["folder/x", "folder/new", "folder/deep/x", "inside/x", "file", "file/x", "dangling"])
def test_no_link_is_followed(site: FileSite, root: Path, trap: Path, name: str) -> None:
    name = f"servers/{name}"
    verbs: list[Callable[[], object]] = [lambda: site.get(name), lambda: site.stat(name), lambda: site.delete(name)]
    for verb in verbs:
        with pytest.raises(SiteError) as caught:
            verb()
        assert not isinstance(caught.value, ObjectMissingError)
        assert caught.value.fields["transient"] is False
    with pytest.raises(SiteError):
        site.put(name, [b"written through a link"])
    assert {path.name: path.read_bytes() for path in trap.iterdir()} == {"x": b"secret"}
    assert sorted(os.listdir(root / "servers")) == ["a", "dangling", "file", "folder", "inside"]
    assert site.get("servers/a/x") == b"1"


def test_list_shows_no_link(site: FileSite, trap: Path) -> None:
    assert [info.name for info in site.list()] == ["servers/a/x"]
    for prefix in ("servers/folder/", "servers/inside/", "servers/folder/deep/"):
        with pytest.raises(SiteError):
            list(site.list(prefix))


@pytest.mark.usefixtures("no_tmpfile")
def test_drafts_follow_no_link(site: FileSite, root: Path, trap: Path) -> None:
    (root / ".tmp").rmdir()  # the put of `trap` made it
    (root / ".tmp").symlink_to(trap)
    os.utime(trap / "x", (0, 0))
    with pytest.raises(SiteError):
        site.put("a", [b"1"])
    assert os.listdir(trap) == ["x"]


def test_what_is_no_plain_file_is_no_object(site: FileSite, root: Path) -> None:
    site.put("a/x", [b"1"])
    os.mkfifo(root / "a" / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "a" / "socket"))
    for name in (".nfs0001", "with blank", "new\nline", "naïve"):
        (root / "a" / name).write_bytes(b"1")
    (root / "a" / "an odd folder").mkdir()
    (root / "a" / "an odd folder" / "x").write_bytes(b"1")
    assert [info.name for info in site.list()] == ["a/x"]
    for name in ("a/fifo", "a/socket"):  # and opening a FIFO does not wait for the other end
        verbs: list[Callable[[str], object]] = [site.get, site.stat, site.delete]
        for verb in verbs:
            with pytest.raises(SiteError):
                verb(name)


def test_a_name_below_an_object_is_refused(site: FileSite) -> None:
    site.put("a", [b"1"])
    with pytest.raises(SiteError) as caught:
        site.put("a/b", [b"2"])
    assert "object" in (caught.value.hint or "")
    assert site.get("a") == b"1"


def test_an_object_cut_while_it_is_read_is_corrupt(site: FileSite, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.put("a", [bytes(1000)])
    pread = os.pread

    def cut_first(handle: int, length: int, offset: int) -> bytes:
        os.truncate(root / "a", 400)
        return pread(handle, length, offset)

    monkeypatch.setattr(os, "pread", cut_first)
    with pytest.raises(CorruptError) as caught:
        site.get("a", 100, 800)
    assert (caught.value.fields["site"], caught.value.fields["name"]) == ("de", "a")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_has_a_class_of_its_own(number: int) -> None:
    with pytest.raises(SiteFullError) as caught, as_site_error("de", "a"):
        raise OSError(number, "x")
    assert caught.value.hint
    assert caught.value.fields == {"site": "de", "name": "a"}


@pytest.mark.parametrize(
    ("number", "transient"),
    [(errno.EROFS, False), (errno.EACCES, False), (errno.ELOOP, False), (errno.ESTALE, True), (errno.EIO, True)],
)
def test_errors_have_hints_and_say_whether_to_try_again(number: int, transient: bool) -> None:
    with pytest.raises(SiteError) as caught, as_site_error("de", "a"):
        raise OSError(number, "x")
    assert type(caught.value) is SiteError
    assert caught.value.hint
    assert os.strerror(number) in caught.value.message
    assert caught.value.fields["transient"] is transient
