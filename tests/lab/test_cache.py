"""The cache: one build for one set of inputs, nothing left of a build that failed, old versions pruned."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tests.lab.cache import Cache, digest_of_files, note
from tests.lab.tools import GuestCrash


def quiet(root: Path) -> Cache:
    return Cache(root=root, said=lambda text: None)


def test_built_once_for_the_same_inputs_and_again_for_others(tmp_path: Path) -> None:
    built: list[Path] = []
    first = quiet(tmp_path).get("a", ["1"], built.append)
    assert quiet(tmp_path).get("a", ["1"], built.append) == first
    assert quiet(tmp_path).get("a", ["2"], built.append).digest != first.digest
    assert len(built) == 2


def test_what_it_was_made_from_counts(tmp_path: Path) -> None:
    cache = quiet(tmp_path)
    bases = [cache.get("base", [each], lambda folder: None) for each in "12"]
    tops = [cache.get("top", [], lambda folder: None, needs=[base]) for base in bases]
    assert tops[0].digest != tops[1].digest


def test_a_failed_build_is_not_there_and_is_tried_again(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise ValueError("no")

    cache = quiet(tmp_path)
    with pytest.raises(ValueError, match="no"):
        cache.get("a", [], fail)
    assert not list(tmp_path.glob("a-*"))
    made = cache.get("a", [], lambda folder: note(folder, whole=True))
    assert made.facts == {"whole": True}
    assert not (made.path / "half").exists()


def test_a_guest_that_crashed_is_tried_once_more_and_it_is_noted(tmp_path: Path) -> None:
    tried: list[Path] = []

    def crash(folder: Path) -> None:
        tried.append(folder)
        (folder / "half").touch()
        raise GuestCrash("it crashed")

    def crash_once(folder: Path) -> None:
        if len(tried) == 2:
            tried.append(folder)
            raise GuestCrash("it crashed")

    cache = quiet(tmp_path)
    with pytest.raises(GuestCrash):
        cache.get("a", [], crash)
    assert len(tried) == 2
    assert cache.get("a", [], crash_once).facts == {"once_more": "it crashed"}


def test_two_builders_at_once_build_once(tmp_path: Path) -> None:
    built: list[Path] = []

    def slow(folder: Path) -> None:
        time.sleep(0.2)
        built.append(folder)

    threads = [threading.Thread(target=lambda: quiet(tmp_path).get("a", [], slow)) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(built) == 1


def test_old_versions_go_but_not_what_others_stand_on_or_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = quiet(tmp_path)
    recent = [cache.get("used", [each], lambda folder: None) for each in "123"]
    assert all(each.path.exists() for each in recent)
    monkeypatch.setattr("tests.lab.cache.RECENT", -1)
    first = cache.get("base", ["0"], lambda folder: None)
    cache.get("top", [], lambda folder: None, needs=[first])
    made = []
    for number in range(1, 5):
        time.sleep(0.02)
        made.append(cache.get("base", [str(number)], lambda folder: None))
    assert first.path.exists()
    assert [each.path.exists() for each in made] == [False, False, False, True]


def test_fresh_does_steps_again_once_and_leaves_material(tmp_path: Path) -> None:
    built: list[Path] = []
    for cache in (quiet(tmp_path), Cache(root=tmp_path, said=lambda text: None, fresh=True)):
        for _ in range(2):
            cache.get("step", [], built.append, step=True)
            cache.get("material", [], built.append)
    assert [path.name.split("-")[1] for path in built] == ["step", "material", "step"]


def test_a_digest_of_files_sees_bytes_names_and_modes(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    (top / "file").write_text("a")
    seen = {digest_of_files(top)}
    (top / "file").write_text("b")
    seen.add(digest_of_files(top))
    (top / "file").chmod(0o755)
    seen.add(digest_of_files(top))
    (top / "file").rename(top / "other")
    seen.add(digest_of_files(top))
    assert len(seen) == 4
    (top / "__pycache__").mkdir()
    (top / "__pycache__" / "x.pyc").write_bytes(b"x")
    assert digest_of_files(top) in seen
