"""`file://`: a site that is a folder: a mounted disk, NFS, or a `local` site. One FileSite for one run.

The rules of the folder:
* It must be there already: a mount that is missing must not become a new site on the root disk. Nothing is touched, and
  nothing is found out, before the first verb.
* `refloat-site.json` marks it as a site. The first put into an empty folder (`lost+found` does not count) writes it;
  until then the folder reads as an empty site.
* An empty folder at or below a mount point of /etc/fstab with nothing mounted on it is refused, for reading as well.
* A folder with other things in it and no mark is refused, unless `create=True` says that it is meant.
* The folder is held open from the first verb to `close`, so that an unmount cannot slip another one underneath.

Symbolic links inside the folder are never followed, only its own path may hold some. Plain files whose names are object
names are objects; all else (links, sockets, names with a leading dot such as `.tmp`) is not listed. `received` is
the mtime.
May import core and `imager.sites`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from core.errors import CorruptError, ObjectExistsError, ObjectMissingError, SiteError
from imager.sites import mark
from imager.sites.base import Buffer, ObjectInfo, check_name, check_prefix
from imager.sites.durable import draft, write_whole
from imager.sites.oserrors import as_site_error

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # NONBLOCK: never wait for a FIFO's other end
_ABSENT = (FileNotFoundError, NotADirectoryError)
_TEMPORARY = ".tmp"


class FileSite:
    """The folder `root` as a site. `create` and the rules: see the module. Safe to use from several threads."""

    def __init__(self, name: str, root: Path | str, *, create: bool = False, fstab: Path = mark.FSTAB) -> None:
        self.name = name
        self.root = Path(root)
        self._create = create
        self._fstab = fstab
        self._lock = threading.Lock()
        self._handle: int | None = None
        self._marked = False
        self._durable: set[str] = set()
        """Folders whose own name is known to be on the disk: made or fsynced by this object."""

    def put(self, name: str, body: Sequence[Buffer]) -> None:
        """See Site.put. Fsyncs file and folder, and each folder above if its name may not be on the disk yet."""
        self.create(name, lambda handle: write_whole(handle, body))

    def create(self, name: str, fill: Callable[[int], None]) -> None:
        """As `put`, with a body that `fill` writes into an open file (and fsyncs). What it raises, passes, and nothing
        of the object is left."""
        check_name(name)
        with as_site_error(self.name, name):
            self._create_in(self._open(writing=True), name, fill)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See Site.get. An offset past the end is CorruptError, too."""
        check_name(name)
        if offset < 0 or (length is not None and length < 0):
            raise ValueError("negative range")
        with as_site_error(self.name, name), self._found(name) as (folder, leaf):
            handle = os.open(leaf, _READ, dir_fd=folder)
            try:
                size = self._plain(name, os.fstat(handle)).st_size
                wanted = max(size - offset, 0) if length is None else length
                # Compared before anything is allocated: ranges can come from a hostile map.
                data = _read(handle, offset, wanted) if offset + wanted <= size else b""
            finally:
                os.close(handle)
        if len(data) != wanted or offset > size:
            raise CorruptError(
                f"{name} at {self.name} is too short: {size} bytes, {offset + wanted} wanted",
                hint="`refloat verify` finds what else is damaged; restore from the other site",
                site=self.name,
                name=name,
            )
        return data

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See Site.list. One folder's names are in memory at a time (and those of the folders above it)."""
        check_prefix(prefix)
        return self._list(prefix)

    def stat(self, name: str) -> ObjectInfo:
        """See Site.stat."""
        check_name(name)
        with as_site_error(self.name, name), self._found(name) as (folder, leaf):
            return _info(name, self._plain(name, os.stat(leaf, dir_fd=folder, follow_symlinks=False)))

    def delete(self, name: str) -> None:
        """See Site.delete. The mark of the site is no object and stays."""
        check_name(name)
        if name == mark.NAME:
            raise SiteError(
                f"{name} marks {self.name} as a site and is not deleted", site=self.name, name=name, transient=False
            )
        with as_site_error(self.name, name), self._found(name) as (folder, leaf):
            self._plain(name, os.stat(leaf, dir_fd=folder, follow_symlinks=False))
            os.unlink(leaf, dir_fd=folder)
            os.fsync(folder)

    def make(self) -> None:
        """Mark the folder as a site now, and not with the first put. Raises SiteError where it must not become one."""
        with as_site_error(self.name, ""):
            self._open(writing=True)

    def place(self) -> str:
        """See Site.place: device and inode, so that a link or a bind mount to the same folder shows."""
        with as_site_error(self.name, ""):
            found = os.fstat(self._open())
        return f"file:{found.st_dev}:{found.st_ino}"

    def close(self) -> None:
        """Let the folder go, so that it can be unmounted."""
        with self._lock:
            if self._handle is not None:
                os.close(self._handle)
            self._handle = None

    def _open(self, *, writing: bool = False) -> int:
        """The folder's descriptor, after the rules above; `writing` makes the mark."""
        with self._lock:
            if self._handle is None:
                try:
                    self._handle = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                except _ABSENT as error:
                    raise SiteError(
                        f"{self.name}: there is no folder {self.root}",
                        hint="mount it, or make the folder if a new site is meant",
                        site=self.name,
                        transient=False,
                    ) from error
            if not os.fstat(self._handle).st_nlink:  # what is gone reads as empty to the kernel, and must not to us
                raise SiteError(f"{self.name}: the folder {self.root} was removed meanwhile", site=self.name)
            if not self._marked:
                self._marked = mark.is_marked(self._handle, self.name)
                if not self._marked:
                    mark.may_become(self._handle, self.root, self.name, create=self._create, fstab=self._fstab)
                    if writing:
                        self._make_mark(self._handle)
            return self._handle

    def _make_mark(self, root: int) -> None:
        with contextlib.suppress(ObjectExistsError):  # another process was first: as good
            self._create_in(root, mark.NAME, lambda handle: write_whole(handle, [mark.CONTENT]))
        self._marked = True

    def _create_in(self, root: int, name: str, fill: Callable[[int], None]) -> None:
        with self._parent(root, name, make=True) as (folder, leaf):
            with contextlib.suppress(FileNotFoundError):
                os.stat(leaf, dir_fd=folder, follow_symlinks=False)
                raise self._taken(name, folder)
            with draft(folder, lambda: self._temporary(root)) as new:
                fill(new.handle)
                try:
                    new.link(folder, leaf)
                except FileExistsError as error:
                    raise self._taken(name, folder) from error
                try:
                    os.fsync(folder)
                except OSError:  # a failed put leaves no name
                    with contextlib.suppress(OSError):
                        os.unlink(leaf, dir_fd=folder)
                    raise

    def _taken(self, name: str, folder: int) -> ObjectExistsError:
        os.fsync(folder)  # who is told "it exists" counts on it: another put may not have come to its own fsync yet
        return ObjectExistsError(f"{name} exists already at {self.name}", site=self.name, name=name)

    def _temporary(self, root: int) -> int:
        with contextlib.suppress(FileExistsError):
            os.mkdir(_TEMPORARY, 0o700, dir_fd=root)
        return _step(root, _TEMPORARY)

    @contextlib.contextmanager
    def _parent(self, root: int, name: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """The open folder that holds `name`, and the name's last component; folders are made when `make` says so."""
        *parts, leaf = name.split("/")
        # Not dup: a duplicate shares the position, and two threads listing would each see a part.
        handle, path = os.open(".", _FOLDER, dir_fd=root), ""
        try:
            for part in parts:
                path += part + "/"
                if make:
                    self._make(handle, part, path)
                below = _step(handle, part)
                os.close(handle)
                handle = below
            yield handle, leaf
        finally:
            os.close(handle)

    def _make(self, parent: int, part: str, path: str) -> None:
        """Make a folder if needed. One that was found may be new, its name not on the disk yet: fsync once."""
        try:
            os.mkdir(part, 0o700, dir_fd=parent)
        except FileExistsError:
            if path in self._durable:
                return
        os.fsync(parent)
        self._durable.add(path)

    @contextlib.contextmanager
    def _found(self, name: str) -> Iterator[tuple[int, str]]:
        """As `_parent`; what is not there, there or in the block, is ObjectMissingError."""
        try:
            with self._parent(self._open(), name) as found:
                yield found
        except _ABSENT as error:
            raise self._missing(name) from error

    def _missing(self, name: str) -> ObjectMissingError:
        hint = None if self._marked else f"{self.root} is empty and not marked as a site: is the right one mounted?"
        return ObjectMissingError(f"{name} is not at {self.name}", hint=hint, site=self.name, name=name)

    def _plain(self, name: str, found: os.stat_result) -> os.stat_result:
        if stat.S_ISDIR(found.st_mode):
            raise self._missing(name)
        if not stat.S_ISREG(found.st_mode):
            raise SiteError(f"{name} at {self.name} is no plain file", site=self.name, name=name, transient=False)
        return found

    def list_after(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        """As `list`, from the name behind `after` on; folders before it are not opened."""
        check_prefix(prefix)
        return self._list(prefix, after)

    def _list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        with as_site_error(self.name, prefix):
            try:
                with self._parent(self._open(), prefix + "end") as (folder, _):
                    yield from _walk(folder, prefix, after)
            except _ABSENT:
                return


def _walk(folder: int, prefix: str, after: str) -> Iterator[ObjectInfo]:
    """Objects below an open folder, sorted by whole name: a folder sorts as `name/`: after `name.x`, before `name0`."""
    with os.scandir(folder) as found:
        entries = sorted(
            (entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name, entry) for entry in found
        )
    for key, entry in entries:
        name = prefix + key
        if not _is_object_name(name.rstrip("/")) or name == mark.NAME:
            continue
        if name <= after and not after.startswith(name):
            continue
        with contextlib.suppress(*_ABSENT):  # deleted while we were listing
            if key.endswith("/"):
                below = _step(folder, entry.name)
                try:
                    yield from _walk(below, name, after)
                finally:
                    os.close(below)
            elif name > after and entry.is_file(follow_symlinks=False):
                yield _info(name, os.stat(entry.name, dir_fd=folder, follow_symlinks=False))


def _is_object_name(name: str) -> bool:
    try:
        check_name(name)
    except CorruptError:
        return False
    return True


def _step(folder: int, part: str) -> int:
    """Open a folder in a folder. A symbolic link there is ELOOP (the kernel says ENOTDIR, like for a plain file)."""
    try:
        return os.open(part, _FOLDER, dir_fd=folder)
    except NotADirectoryError:
        if stat.S_ISLNK(os.stat(part, dir_fd=folder, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, "a symbolic link", part) from None
        raise


def _read(handle: int, offset: int, length: int) -> bytes:
    data = os.pread(handle, length, offset)
    while len(data) < length:  # a signal, the 2 GiB a call may move, or a file that was cut just now
        more = os.pread(handle, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def _info(name: str, found: os.stat_result) -> ObjectInfo:
    return ObjectInfo(name, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))
