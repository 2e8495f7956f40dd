"""The file driver: how bytes get to the disk (`durable.write_whole`)."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import (
    SiteError,
)
from imager.sites.durable import BOUNCE_BYTES, DIRECT_MIN_BYTES, write_whole
from imager.sites.file import FileSite

MIB = 1 << 20

EDGES = [0, 1, 4095, 4096, 4097, 65_536, DIRECT_MIN_BYTES, BOUNCE_BYTES - 1, BOUNCE_BYTES, BOUNCE_BYTES + 4096]
PART = st.tuples(
    st.sampled_from(EDGES) | st.integers(0, 3 * BOUNCE_BYTES),
    st.sampled_from([0, 0, 1, 4095, 4096]),
    st.booleans(),
)


@given(parts=st.lists(PART, max_size=5))
@settings(max_examples=60)
def test_any_mix_of_buffers_is_written_whole(
    parts: list[tuple[int, int, bool]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Sizes, offsets into a page and read-only views, in any mix: the file is their concatenation."""
    memory = memoryview(mmap.mmap(-1, 4 * BOUNCE_BYTES))
    memory[:] = random.Random(5).randbytes(len(memory))
    views = [memory[shift : shift + size] for size, shift, _ in parts]
    body = [view.toreadonly() if fixed else view for view, (_, _, fixed) in zip(views, parts, strict=True)]
    path = tmp_path_factory.getbasetemp() / "body"
    handle = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    try:
        write_whole(handle, body)
    finally:
        os.close(handle)
    assert path.read_bytes() == b"".join(body)


def recorded_writes(patch: pytest.MonkeyPatch) -> list[tuple[bool, int, int]]:
    """(direct?, address modulo 4096 of the offset, bytes) of every write."""
    found: list[tuple[bool, int, int]] = []
    pwrite = os.pwrite

    def recorded(handle: int, data: memoryview, offset: int) -> int:
        flags = fcntl.fcntl(handle, fcntl.F_GETFL)
        found.append((bool(flags & os.O_DIRECT), offset % 4096, len(data)))
        return pwrite(handle, data, offset)

    patch.setattr(os, "pwrite", recorded)
    return found


def test_aligned_memory_goes_straight_to_the_disk(site: FileSite, monkeypatch: pytest.MonkeyPatch) -> None:
    site.put("0", [])
    writes = recorded_writes(monkeypatch)
    big = memoryview(mmap.mmap(-1, 8 * MIB))
    site.put("a", [big[: 8 * MIB - 100]])
    assert writes == [(True, 0, 8 * MIB - 4096), (True, 0, 4096)]
    assert site.stat("a").size_bytes == 8 * MIB - 100


def test_other_memory_is_bounced_by_the_mebibyte(site: FileSite, monkeypatch: pytest.MonkeyPatch) -> None:
    site.put("0", [])
    writes = recorded_writes(monkeypatch)
    site.put("a", [b"x" * (2 * MIB + 10)])
    assert writes == [(True, 0, MIB), (True, 0, MIB), (True, 0, 4096)]
    assert site.get("a") == b"x" * (2 * MIB + 10)


@pytest.mark.parametrize("refuses_from", [0, MIB])
def test_a_device_that_refuses_direct_writes_gets_buffered_ones(
    site: FileSite, monkeypatch: pytest.MonkeyPatch, refuses_from: int
) -> None:
    pwrite = os.pwrite

    def picky(handle: int, data: memoryview, offset: int) -> int:
        if offset >= refuses_from and fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return pwrite(handle, data, offset)

    monkeypatch.setattr(os, "pwrite", picky)
    body = random.Random(6).randbytes(3 * MIB + 77)
    site.put("a", [body])
    assert site.get("a") == body


def test_short_writes_are_gone_on_with(site: FileSite, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda handle, data, offset: pwrite(handle, data[:300_001], offset))
    body: Sequence[bytes] = [random.Random(7).randbytes(2 * MIB + 77), b"end"]
    site.put("a", body)
    assert site.get("a") == b"".join(body)


def test_an_invalid_buffered_write_is_an_error_and_no_loop(site: FileSite, monkeypatch: pytest.MonkeyPatch) -> None:
    site.put("0", [])

    def broken(handle: int, data: memoryview, offset: int) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "pwrite", broken)
    for size in (10, MIB):
        with pytest.raises(SiteError):
            site.put("a", [bytes(size)])


def test_a_failed_write_keeps_no_view(site: FileSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error's traceback holds frames, frames hold views, a held view keeps the buffer from being freed."""
    pwrite = os.pwrite

    def full_later(handle: int, data: memoryview, offset: int) -> int:
        if offset >= 8192:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(handle, data[:8192], offset)

    site.put("0", [])
    monkeypatch.setattr(os, "pwrite", full_later)
    for head in (b"", b"unaligned"):
        mapped = mmap.mmap(-1, 4 * MIB)
        with pytest.raises(SiteError) as caught, memoryview(mapped) as view:
            site.put("a", [head, view])
        mapped.close()  # BufferError
        assert caught.value.fields["name"] == "a"
