"""core: errors, sizes, durable files, progress, and which volumes a layout has."""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import errors
from core.errors import ConfigError, RefloatError, StateError, exit_table
from core.files import replace, write_new
from core.layout import Content, Disk, Layout, Partition, Role, Table, TableKind, VolumeRole, volumes_of
from core.monitor import Monitor, StreamMonitor
from core.sizes import align_down, align_up, format_size, parse_size

MIB = 1 << 20


def _classes(root: type[RefloatError]) -> Iterator[type[RefloatError]]:
    yield root
    for each in root.__subclasses__():
        yield from _classes(each)


def test_every_error_has_its_own_exit_status_and_code() -> None:
    found = list(_classes(RefloatError))
    assert len({each.exit_status for each in found}) == len(found)
    assert len({each.code for each in found}) == len(found)
    assert not {each.exit_status for each in found} & errors.OTHER_EXITS.keys()
    assert [row[0] for row in exit_table()] == sorted({row[0] for row in exit_table()})


def test_an_error_as_json_keeps_its_fields() -> None:
    found = errors.SiteError("gone", hint="look", site="de").as_dict()
    assert found == {"code": "site", "message": "gone", "hint": "look", "site": "de"}


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("4096", 4096), ("64M", 64 * MIB), ("1.5 GiB", 3 << 29), (" 2kb ", 2048), ("1P", 1 << 50), ("3b", 3)],
)
def test_sizes_people_write(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1 EiB", "1..5M", "0x10", "1e9", "M", "9" * 19, "1,5G", "1M 2"])
def test_sizes_nobody_can_mean(text: str) -> None:
    with pytest.raises(ConfigError, match="not a size"):
        parse_size(text)


@given(st.text(max_size=30))
def test_any_text_is_a_size_or_a_config_error(text: str) -> None:
    try:
        assert parse_size(text) >= 0
    except ConfigError:
        pass


@given(st.integers(0, 1 << 60))
def test_printed_sizes_read_back_within_their_last_digit(size: int) -> None:
    assert abs(parse_size(format_size(size)) - size) <= max(size * 0.06, 0)


@given(st.integers(0, 1 << 60), st.sampled_from([1, 512, 4096, 1 << 20, 3]))
def test_alignment(value: int, unit: int) -> None:
    assert align_down(value, unit) <= value <= align_up(value, unit) < value + unit
    assert align_down(value, unit) % unit == align_up(value, unit) % unit == 0


def test_write_new_never_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_new(path, b"one")
    with pytest.raises(FileExistsError):
        write_new(path, b"two")
    assert path.read_bytes() == b"one"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["a"]


def test_replace_is_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a"
    replace(path, b"one")
    replace(path, b"two", mode=0o644)
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    (tmp_path / "folder").mkdir()
    with pytest.raises(StateError):
        replace(tmp_path / "folder", b"three")
    assert sorted(os.listdir(tmp_path)) == ["a", "folder"]


def test_files_are_synced_before_they_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes, then the name, then the folder: or a power failure leaves an empty file under the right name."""
    seen: list[str] = []
    real_fsync, real_link = os.fsync, os.link

    def fsync(handle: int) -> None:
        seen.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        real_fsync(handle)

    def link(old: str, new: Path) -> None:
        seen.append("link")
        real_link(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    write_new(tmp_path / "a", b"x")
    assert seen == ["file", "link", "folder"]


def test_a_task_is_finished_however_it_is_left() -> None:
    monitor = Monitor()
    with pytest.raises(KeyError), monitor.task("reading", 10) as task:
        task.advance(4)
        raise KeyError
    assert task.finished is not None and task.done_bytes == 4


def test_json_progress_is_one_object_a_line() -> None:
    stream = io.StringIO()
    monitor = StreamMonitor(stream, as_json=True)
    monitor.step("reading")
    with monitor.task("read", 10) as task:
        task.advance(10)
    monitor.warn("hot")
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [each["event"] for each in events if each["event"] != "progress"] == ["step", "done", "warning"]
    assert events[-2]["done_bytes"] == 10
    assert monitor.warnings == ["hot"]


def test_progress_for_people_names_what_was_done() -> None:
    stream = io.StringIO()
    with StreamMonitor(stream).task("read") as task:
        task.advance(3 * MIB)
    assert stream.getvalue().startswith("read: 3.0 MiB in ")


def _part(number: int, start: int, size: int, **more: object) -> Partition:
    return Partition(number=number, start_bytes=start * MIB, size_bytes=size * MIB, type="83", **more)  # type: ignore[arg-type]


def test_volumes_of_a_dos_disk_skip_swap_and_containers() -> None:
    table = Table(
        kind=TableKind.DOS,
        id="0x1",
        partitions=(
            _part(5, 21, 9, role=Role.LOGICAL),
            _part(1, 1, 10),
            _part(2, 11, 9, content=Content(type="swap")),
            _part(3, 20, 20, role=Role.EXTENDED),
        ),
    )
    found = volumes_of(Layout(disks=(Disk(name="sda", size_bytes=64 * MIB, sector_bytes=512, table=table),)))
    assert [(each.name, each.role, each.offset_bytes) for each in found] == [
        ("sda-head", VolumeRole.HEAD, 0),
        ("sda-part1", VolumeRole.PARTITION, MIB),
        ("sda-part5", VolumeRole.PARTITION, 21 * MIB),
    ]
    assert found[0].size_bytes == MIB


def test_volumes_of_bare_disks() -> None:
    disk = Disk(name="vdb", size_bytes=8 * MIB, sector_bytes=4096, content=Content(type="xfs", uuid="u"))
    swap = Disk(name="vdc", size_bytes=8 * MIB, sector_bytes=512, content=Content(type="swap"))
    found = volumes_of(Layout(disks=(disk, swap)))
    assert [(each.key, each.role, each.size_bytes) for each in found] == [("fs:u", VolumeRole.WHOLE, 8 * MIB)]


def test_cloned_disks_keep_distinct_keys() -> None:
    table = Table(kind=TableKind.GPT, id="same", partitions=(_part(1, 1, 2, uuid="same"),))
    disks = tuple(Disk(name=name, size_bytes=8 * MIB, sector_bytes=512, table=table) for name in ("sda", "sdb"))
    keys = [each.key for each in volumes_of(Layout(disks=disks))]
    assert len(set(keys)) == len(keys) == 4
