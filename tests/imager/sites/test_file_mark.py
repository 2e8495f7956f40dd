"""The file driver: which folder is a site, and which must not become one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import (
    FormatError,
    ObjectExistsError,
    ObjectMissingError,
    SiteError,
    VersionError,
)
from imager.sites import mark
from imager.sites.file import FileSite


def test_the_first_put_marks_the_folder(root: Path) -> None:
    site = FileSite("de", root)
    (root / "lost+found").mkdir()
    assert list(site.list()) == []
    assert not (root / mark.NAME).exists()
    site.put("a", [b"1"])
    assert (root / mark.NAME).read_bytes() == b'{"refloat":"site","version":1}'
    assert [info.name for info in site.list()] == ["a"]
    assert [info.name for info in FileSite("de", root).list()] == ["a"]


def test_the_mark_stays(site: FileSite, root: Path) -> None:
    with pytest.raises(ObjectExistsError):
        site.put(mark.NAME, [b"{}"])
    with pytest.raises(SiteError):
        site.delete(mark.NAME)
    assert site.get(mark.NAME) == mark.CONTENT


def test_many_first_puts_make_one_mark(root: Path) -> None:
    failures: list[BaseException] = []
    gate = threading.Barrier(8)

    def first(number: int) -> None:
        site = FileSite("de", root)
        gate.wait()
        try:
            site.put(f"a/{number}", [b"1"])
        except BaseException as error:
            failures.append(error)
        site.close()

    threads = [threading.Thread(target=first, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(list(FileSite("de", root).list())) == 8


def every_verb(site: FileSite) -> list[Callable[[], object]]:
    return [
        lambda: site.put("a", [b"1"]),
        lambda: site.get("a"),
        lambda: list(site.list()),
        lambda: site.stat("a"),
        lambda: site.delete("a"),
    ]


def refused(site: FileSite, error: type[Exception] = SiteError) -> SiteError:
    """Every verb raises `error`, and not that an object is missing; gives the last one."""
    for verb in every_verb(site):
        with pytest.raises(error) as caught:
            verb()
        assert not isinstance(caught.value, ObjectMissingError)
    assert caught.value.fields["site"] == "de"  # type: ignore[attr-defined]
    return caught.value  # type: ignore[return-value]


@pytest.mark.parametrize("create", [False, True])
def test_a_missing_root_is_never_made(tmp_path: Path, create: bool) -> None:
    (tmp_path / "file").write_bytes(b"")
    for root in (tmp_path / "none", tmp_path / "none" / "below", tmp_path / "file", tmp_path / "file" / "below"):
        error = refused(FileSite("de", root, create=create))
        assert "mount it" in (error.hint or "")
        assert error.fields["transient"] is False
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_of_something_else_is_refused_unless_meant(root: Path) -> None:
    (root / "photos").mkdir()
    assert "photos" in refused(FileSite("de", root)).message
    assert os.listdir(root) == ["photos"]
    meant = FileSite("de", root, create=True)
    assert list(meant.list()) == []
    meant.put("a", [b"1"])
    assert FileSite("de", root).get("a") == b"1"


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", FormatError),
        (b"{", FormatError),
        (b"[" * 4000, FormatError),
        (b"\xff\xfe", FormatError),
        (b'"site"', FormatError),
        (b'{"refloat":"image","version":1}', FormatError),
        (b'{"refloat":"site","version":2}', VersionError),
        (b'{"refloat":"site"}', VersionError),
    ],
)
def test_a_wrong_mark_is_refused(root: Path, content: bytes, error: type[Exception]) -> None:
    (root / mark.NAME).write_bytes(content)
    refused(FileSite("de", root, create=True), error)
    assert os.listdir(root) == [mark.NAME]


def test_a_mark_that_is_a_link_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(mark.CONTENT)
    (root / mark.NAME).symlink_to(tmp_path / "elsewhere")
    refused(FileSite("de", root))


@pytest.mark.parametrize("below", ["", "refloat", "deep/er"])
def test_a_mount_point_without_its_mount_is_refused(tmp_path: Path, below: str) -> None:
    point = tmp_path / "mount point"
    root = point / below
    root.mkdir(parents=True)
    fstab = tmp_path / "fstab"
    escaped = str(point).replace(" ", "\\040")
    fstab.write_text(f"# a comment\n\nUUID=1 {escaped} ext4 noauto 0 2\n")
    error = refused(FileSite("de", root, fstab=fstab))
    assert str(point) in error.message
    assert os.listdir(root) == []
    fstab.write_text(
        f"# UUID=1 {escaped} ext4\nUUID=1 / ext4\nUUID=2 none swap\nshort\n{tmp_path} {tmp_path}/other ext4\n"
    )
    FileSite("de", root, fstab=fstab).put("a", [b"1"])


def test_a_marked_folder_needs_no_mount(site: FileSite, root: Path, tmp_path: Path) -> None:
    site.put("a", [b"1"])
    (tmp_path / "fstab").write_text(f"UUID=1 {root} ext4\n")
    assert FileSite("de", root, fstab=tmp_path / "fstab").get("a") == b"1"


def test_a_missing_object_of_an_unmarked_folder_asks_for_the_mount(site: FileSite) -> None:
    with pytest.raises(ObjectMissingError) as caught:
        site.get("a")
    assert "mounted" in (caught.value.hint or "")


def test_the_way_to_the_root_may_hold_links(root: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(root)
    FileSite("de", tmp_path / "alias").put("a", [b"1"])
    assert (root / "a").read_bytes() == b"1"


def test_a_root_that_is_taken_away_is_an_error(site: FileSite, root: Path) -> None:
    site.put("a", [b"1"])
    (root / "a").unlink()
    (root / mark.NAME).unlink()
    root.rmdir()
    root.mkdir()
    assert "removed" in refused(site).message  # for reading too: it is not an empty site
    assert os.listdir(root) == []


def test_a_mark_made_while_we_look_counts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listdir = os.listdir

    def overtaken(folder: int) -> list[str]:
        monkeypatch.undo()
        other = FileSite("de", root)
        other.put("theirs", [b"1"])
        other.close()
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", overtaken)
    site = FileSite("de", root)
    site.put("ours", [b"1"])
    assert [info.name for info in site.list()] == ["ours", "theirs"]
