"""Trees of files: the comparison finds whatever differs, and names that are no text get through."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hardware.trees.child import Answer, _plain
from hardware.trees.same import compare
from hardware.trees.survey import survey

MIB = 1 << 20


def make(root: Path) -> Path:
    """A small tree with a bit of everything that needs no root."""
    (root / "folder" / "empty").mkdir(parents=True)
    (root / "file").write_bytes(b"content")
    os.link(root / "file", root / "folder" / "twin")
    (root / "other").write_bytes(b"content")
    (root / "link").symlink_to("file")
    os.mkfifo(root / "fifo")
    with (root / "sparse").open("wb") as file:
        file.seek(4 * MIB)
        file.write(b"end")
    for path in sorted(root.rglob("*"), reverse=True):
        os.utime(path, ns=(10**18, 10**18 + 123_456_789), follow_symlinks=False)
    os.utime(root, ns=(10**18, 10**18))
    return root


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return make(tmp_path / "one"), make(tmp_path / "other")


def _differences(pair: tuple[Path, Path]) -> list[str]:
    found = compare(*(os.fsencode(each) for each in pair))
    assert found.count == len(found.differences)
    return list(found.differences)


def test_the_same(pair: tuple[Path, Path]) -> None:
    found = compare(*(os.fsencode(each) for each in pair))
    assert (found.count, found.differences, found.entries) == (0, (), 9)
    assert 3 * 7 + 3 <= found.content_bytes < MIB  # what is a hole in both is not read


def _rewrite(path: Path, text: bytes) -> None:
    state = path.stat()
    with path.open("r+b") as file:
        file.write(text)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def _in(folder: Path, change: Callable[[], object]) -> None:
    """A change that leaves the folder's times."""
    state = folder.stat()
    change()
    os.utime(folder, ns=(state.st_atime_ns, state.st_mtime_ns))


def _cut_twin(root: Path) -> None:
    twin = root / "folder" / "twin"
    _in(twin.parent, twin.unlink)
    _in(twin.parent, lambda: shutil.copy2(root / "file", twin))


def _swap_twin(root: Path) -> None:
    """The name of another file with the same content."""
    _in(root / "folder", (root / "folder" / "twin").unlink)
    _in(root / "folder", lambda: os.link(root / "other", root / "folder" / "twin"))


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "mode": (lambda root: (root / "file").chmod(0o611), "another mode"),
    "folder mode": (lambda root: (root / "folder" / "empty").chmod(0o1700), "another mode"),
    "root mode": (lambda root: root.chmod(0o711), "another mode"),
    "nanosecond": (lambda root: os.utime(root / "fifo", ns=(1, 10**18 + 123_456_788)), "time of modification"),
    "link time": (lambda root: os.utime(root / "link", ns=(1, 1), follow_symlinks=False), "time of modification"),
    "content": (lambda root: _rewrite(root / "other", b"contenT"), "another content"),
    "size": (lambda root: _rewrite(root / "other", b"content and more"), "another content"),
    "in a hole": (lambda root: _hole(root / "sparse"), "another content"),
    "missing": (lambda root: _in(root, (root / "fifo").unlink), "is missing"),
    "more": (lambda root: _in(root / "folder", (root / "folder" / "new").touch), "holds 'new' as well"),
    "kind": (lambda root: _in(root, lambda: _other_kind(root / "fifo")), "another kind"),
    "target": (lambda root: _in(root, lambda: _other_target(root / "link")), "another target"),
    "attribute": (lambda root: os.setxattr(root / "file", "user.a", b"1"), "another attributes"),
    "twins parted": (_cut_twin, "another names"),
    "twins swapped": (_swap_twin, "another names"),
}


def _hole(path: Path) -> None:
    state = path.stat()
    with path.open("r+b") as file:
        file.seek(2 * MIB)
        file.write(b"x")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def _other_kind(path: Path) -> None:
    path.unlink()
    path.touch()


def _other_target(path: Path) -> None:
    path.unlink()
    path.symlink_to("fil3")
    os.utime(path, ns=(10**18, 10**18 + 123_456_789), follow_symlinks=False)


@pytest.mark.parametrize("change", sorted(CHANGES))
def test_a_difference_is_found_whichever_side_has_it(pair: tuple[Path, Path], change: str) -> None:
    make_change, words = CHANGES[change]
    make_change(pair[1])
    assert any(words in text for text in _differences(pair)), _differences(pair)
    assert _differences((pair[1], pair[0]))


def test_the_first_differences_are_told_and_all_are_counted(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    for number in range(50):
        (one / f"{number}").touch()
    found = compare(os.fsencode(one), os.fsencode(other))
    assert found.count >= 50 and len(found.differences) == 20


def test_a_survey_counts_a_file_of_two_names_once_and_no_holes(pair: tuple[Path, Path]) -> None:
    found = survey(os.fsencode(pair[0]))
    assert found.inodes == 8 and found.foreign == ()
    assert found.data_bytes < MIB


def test_names_that_are_no_text_get_through() -> None:
    answer = Answer(error=os.fsdecode(b"/\xff/x: No such file"))
    assert _plain(answer) == {"error": "/\\xff/x: No such file", "survey": None, "comparison": None}
