"""What the kernel says, in the words of a site: OSError → SiteError with a hint. Part of the file driver."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from core.errors import SiteError, SiteFullError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_HINTS = {
    errno.EROFS: "it is mounted read-only: a filesystem error may have done that; see the kernel log, then remount it",
    errno.EACCES: "Refloat needs to read and write this folder: check owner and mode",
    errno.EPERM: "the filesystem forbids it: an immutable flag, or no hard links (use ext4, xfs, btrfs or NFS)",
    errno.EOPNOTSUPP: "the filesystem cannot do this: use ext4, xfs, btrfs or NFS",
    errno.EXDEV: "another filesystem is mounted inside the site's folder: a site lives on one",
    errno.ELOOP: "there is a symbolic link inside the site; none is followed: put what it points to in its place",
    errno.ENOTDIR: "a part of the name is an object, not a folder",
    errno.ENAMETOOLONG: "the filesystem takes shorter names only: use ext4, xfs, btrfs or NFS",
    errno.ESTALE: "the NFS server no longer knows the folder: mount it again",
    errno.EIO: "the disk or its connection fails: see the kernel log",
    errno.ENOENT: "a folder of the site was removed meanwhile",
    errno.ENODEV: "the disk is gone: see the kernel log",
    errno.ENXIO: "the disk is gone: see the kernel log",
}
#: Errors that trying again may cure; every other is told to the operator at once.
_TRANSIENT = {
    errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EBUSY, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ETIMEDOUT,
    errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ECONNRESET, errno.ECONNREFUSED, errno.EREMOTEIO,
}  # fmt: skip


@contextlib.contextmanager
def as_site_error(site: str, name: str) -> Iterator[None]:
    """Turn an OSError of the block into SiteFullError or SiteError; `transient` says whether trying again may help."""
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        reason = os.strerror(number) if number else str(error)
        if number in _FULL:
            raise SiteFullError(
                f"{site} has no room for {name}: {reason}",
                hint="make room (prune, a larger disk or quota) and run it again: what is there already counts",
                site=site,
                name=name,
            ) from error
        raise SiteError(
            f"{site}: {name or 'the folder'}: {reason}",
            hint=_HINTS.get(number),
            site=site,
            name=name,
            transient=number in _TRANSIENT,
        ) from error
