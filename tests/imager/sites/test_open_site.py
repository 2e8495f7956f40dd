"""The registry: which URL opens what."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.errors import (
    ConfigError,
)
from imager.sites import open_site
from imager.sites.file import FileSite


def test_open_site_opens_folders(root: Path) -> None:
    site = open_site("de", f"file://{root}")
    assert isinstance(site, FileSite)
    assert (site.name, site.root) == ("de", root)
    for url in (f"file://localhost{root}", f"FILE://{root}/", str(root).join(["file://", "/%61%20b"])):
        assert isinstance(open_site("de", url), FileSite)
    assert open_site("de", "file:///srv/a%20%3F").root == Path("/srv/a ?")  # type: ignore[attr-defined]


def test_open_site_touches_nothing(tmp_path: Path) -> None:
    site = open_site("de", f"file://{tmp_path}/none", create=True)
    site.close()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "url",
    ["", "x", "/srv/x", "ftp://h/x", "s3://", "s3:b", "s3://b?x", "s3://b/../c", "file:",
     "file:x", "file://x/y", "file://", "file://[", "file:///a?b",
     "file:///a#b",
     "file:///a%00b"],
)  # fmt: skip
def test_open_site_refuses_what_no_driver_knows(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_site("de", url)
    assert "://" in (caught.value.hint or "")
