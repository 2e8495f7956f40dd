"""Places that keep images: one contract (`base`), short drivers, wrappers, a registry (`open_site`).

A new driver is a module here, a row in the registry, and passes the suite in `tests/imager/test_sites.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from core.errors import ConfigError, FormatError
from imager.sites.base import Site, check_prefix
from imager.sites.file import FileSite
from imager.sites.s3 import S3Site
from imager.sites.s3client import Access

#: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html>, and `_`, which Ceph allows.
_BUCKET = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,254}")


def open_site(name: str, url: str, **options: Any) -> Site:
    """The site called `name` at `url`; `options` go to its driver. Nothing is connected to before the first verb.

    `file:///folder` takes `create` (see `imager.sites.file`); `https://vault:port` `token`, `pins` and `addresses`
    (`imager.sites.https`); `s3://bucket/prefix` what `imager.sites.s3` and its `Access` take. ConfigError for a URL
    that no driver knows.
    """
    scheme = url.partition(":")[0].lower()
    if scheme not in _DRIVERS:
        known = ", ".join(f"{each}://" for each in sorted(_DRIVERS))
        raise ConfigError(f"site {name}: no driver for {url!r}", hint=f"known are: {known}", site=name)
    return _DRIVERS[scheme](name, url, **options)


def _file(name: str, url: str, *, create: bool = False) -> Site:
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    path = unquote(parts.path)
    wrong = not path.startswith("/") or "\0" in path or parts.netloc not in ("", "localhost")
    if wrong or parts.query or parts.fragment:
        raise ConfigError(
            f"site {name}: {url!r} names no folder of this machine",
            hint="write three slashes and the full path: file:///srv/refloat (`?`, `#`, `%` as %3F, %23, %25)",
            site=name,
        )
    return FileSite(name, Path(os.path.normpath(path)), create=create)


def _https(name: str, url: str, **options: Any) -> Site:
    from imager.sites.https import HttpsSite  # a tenth of a second that who has no vault need not wait for

    return HttpsSite(name, url, **options)


def _s3(name: str, url: str, *, lock_days: int = 0, lock_mode: str = "governance", **access: str) -> Site:
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    bucket, prefix = parts.netloc, parts.path.strip("/")
    try:
        check_prefix(f"{prefix}/" if prefix else "")
    except FormatError:
        bucket = ""
    if _BUCKET.fullmatch(bucket) is None or parts.query or parts.fragment:
        raise ConfigError(
            f"site {name}: {url!r} names no bucket",
            hint="write s3://BUCKET or s3://BUCKET/PREFIX; the store's address is site.endpoint",
            site=name,
        )
    return S3Site(name, bucket, prefix, access=Access(**access), lock_days=lock_days, lock_mode=lock_mode)


_DRIVERS: dict[str, Callable[..., Site]] = {"file": _file, "https": _https, "s3": _s3}
