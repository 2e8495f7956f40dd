"""What the tests of the file driver share."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from imager.sites.file import FileSite


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty folder."""
    (tmp_path / "site").mkdir()
    return tmp_path / "site"


@pytest.fixture
def site(root: Path) -> FileSite:
    """A site in it."""
    return FileSite("de", root)


@pytest.fixture
def no_tmpfile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that has no O_TMPFILE here (a filesystem without it: `test_file_disks.py`)."""
    plain = os.open

    def refuse(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return plain(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refuse)
