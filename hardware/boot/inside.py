"""Files of the restored system, read and written without ever leaving it.

The server chose every name and symlink in there, and `/etc/fstab` may point at a file of the rescue environment. So
each path is resolved by the kernel below the root (openat2(2), RESOLVE_IN_ROOT), and only regular files are opened.
What is changed is kept first, below `/var/backups/refloat`, in a folder of this repair. Imports `core` only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fnmatch
import os
import stat
from collections.abc import Iterator

from core.errors import TargetError, WriteError

BEFORE = "/var/backups/refloat"
_OPENAT2 = 437  # the same on every architecture
_NO_MAGICLINKS, _IN_ROOT = 0x02, 0x10  # linux/openat2.h
_LIMIT_BYTES = 1 << 30
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR})
_LIBC = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def _openat2(folder: int, path: str, flags: int) -> int:
    how = _How(flags | os.O_CLOEXEC, 0, _IN_ROOT | _NO_MAGICLINKS)
    for _attempt in range(20):
        handle = int(_LIBC.syscall(_OPENAT2, folder, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how)))
        if handle >= 0:
            return handle
        if (code := ctypes.get_errno()) != errno.EAGAIN:
            break
    raise OSError(code, os.strerror(code), path)


class Root:
    """The restored system below `path`. With `read_only` nothing is written, and `changed` tells what would be.

    `repair` names the repair: one that is run again finds what it kept the first time, while what a repair of an
    earlier restore left, and the image brought along, does not count.
    """

    def __init__(self, path: str, *, read_only: bool = False, repair: str = "") -> None:
        self.path = os.path.realpath(path).rstrip("/")  # empty for the running system
        self.read_only = read_only
        self.before = f"{BEFORE}/{repair}".rstrip("/")
        self.changed: list[str] = []
        self._handle = os.open(self.path or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._handle)

    def __enter__(self) -> Root:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _opened(self, path: str, flags: int = os.O_PATH) -> Iterator[int]:
        handle = _openat2(self._handle, path.strip("/") or ".", flags)
        try:
            yield handle
        finally:
            os.close(handle)

    def real(self, path: str) -> str | None:
        """The path with every symlink resolved, as seen inside; None when nothing is there."""
        try:
            with self._opened(path) as handle:
                return os.readlink(f"/proc/self/fd/{handle}")[len(self.path) :] or "/"
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise TargetError(f"{path} in the restored system cannot be followed: {error.strerror}") from error

    def outside(self, path: str) -> str:
        """Where that is for the rescue environment, without a symlink on the way. Raises TargetError when absent."""
        real = self.real(path)
        if real is None:
            raise TargetError(f"the restored system has no {path}")
        return self.path + real if real != "/" else self.path or "/"

    def exists(self, path: str) -> bool:
        """Whether something is there."""
        return self.real(path) is not None

    def stat(self, path: str) -> os.stat_result | None:
        """What is there, symlinks followed inside; None: nothing."""
        if not self.exists(path):
            return None
        with self._opened(path) as handle:
            return os.fstat(handle)

    def read(self, path: str) -> bytes | None:
        """A regular file's bytes; None when nothing is there. Raises TargetError for anything else than a file."""
        if not self.exists(path):
            return None
        with self._opened(path) as handle:
            facts = os.fstat(handle)
            if not stat.S_ISREG(facts.st_mode) or facts.st_size > _LIMIT_BYTES:
                raise TargetError(f"{path} in the restored system is no plain file, or too large")
            with open(f"/proc/self/fd/{handle}", "rb") as file:
                return file.read()

    def text(self, path: str) -> str | None:
        """A file as text (bytes that are not UTF-8 survive a write); None when nothing is there."""
        data = self.read(path)
        return None if data is None else data.decode("utf-8", "surrogateescape")

    def original(self, path: str) -> str | None:
        """The file's text before this repair touched it, also when it did so in an earlier run."""
        kept = self.text(self.before + (self.real(path) or path))
        return self.text(path) if kept is None else kept

    def names(self, folder: str) -> list[str]:
        """The names in a folder, sorted; none when it is absent or no folder."""
        try:
            with self._opened(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK) as handle:
                return sorted(os.listdir(handle))
        except OSError as error:
            if error.errno in _ABSENT:
                return []
            raise

    def glob(self, pattern: str) -> list[str]:
        """Regular files matching the pattern (`/etc/netplan/*.yaml`), `*` within one path component."""
        found = [""]
        for part in pattern.strip("/").split("/"):
            found = [f"{base}/{name}" for base in found for name in self._matching(base, part)]
        return [path for path in found if (facts := self.stat(path)) and stat.S_ISREG(facts.st_mode)]

    def _matching(self, base: str, part: str) -> list[str]:
        if not any(char in part for char in "*?["):
            return [part]
        return [name for name in self.names(base or "/") if fnmatch.fnmatchcase(name, part)]

    def write(self, path: str, data: bytes | str, *, mode: int = 0o644, keep: bool = True) -> bool:
        """Create or replace a file in one step, durable; owner, mode and attributes stay. False when it is like that.

        `keep`: a file that was there is copied to `before` first, unless an earlier run did. Raises WriteError.
        """
        data = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
        old = self.read(path)
        if old == data:
            return False
        self.changed.append(path)
        if self.read_only:
            return True
        if keep and old is not None:
            self._keep(path, old)
        try:
            self._replace(self.real(path) or path, data, mode)
        except OSError as error:
            raise WriteError(f"{path} in the restored system cannot be written: {error.strerror}", path=path) from error
        return True

    def edit(self, path: str, old: str, new: str) -> bool:
        """`write` when the text differs from what was read."""
        return new != old and self.write(path, new)

    def _keep(self, path: str, data: bytes) -> None:
        aside = self.before + (self.real(path) or path)
        if not self.exists(aside):
            facts = self.stat(path)
            self._replace(aside, data, stat.S_IMODE(facts.st_mode) if facts else 0o600)

    def _replace(self, path: str, data: bytes, mode: int) -> None:
        folder, name = os.path.split(path.rstrip("/"))
        self.make_folder(folder)
        with self._opened(folder, os.O_RDONLY | os.O_DIRECTORY) as parent:
            temporary = f".{name}.refloat-new"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=parent)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            handle = os.open(temporary, flags, 0o600, dir_fd=parent)
            try:
                with open(handle, "wb") as file:
                    file.write(data)
                    _dress(file.fileno(), parent, name, mode)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=parent)
                raise
            os.fsync(parent)

    def make_folder(self, path: str, mode: int = 0o755) -> None:
        """Make a folder and what is missing above it. Raises WriteError, also for a symlink to nothing."""
        if self.read_only or self.exists(path):
            return
        above, name = os.path.split(path.rstrip("/"))
        self.make_folder(above)
        self.changed.append(path)
        try:
            self._make_folder(above, name, mode)
        except OSError as error:
            raise WriteError(f"{path} in the restored system cannot be made: {error.strerror}", path=path) from error

    def _make_folder(self, above: str, name: str, mode: int) -> None:
        with self._opened(above, os.O_RDONLY | os.O_DIRECTORY) as parent:
            os.mkdir(name, mode, dir_fd=parent)
            with contextlib.suppress(OSError):
                handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
                try:
                    _label(handle, parent)
                finally:
                    os.close(handle)

    def remove(self, path: str) -> bool:
        """Take a file's name away (a symlink's, not what it points at); False when it is not there."""
        folder, name = os.path.split(path.rstrip("/"))
        if name not in self.names(folder or "/"):
            return False
        self.changed.append(path)
        if not self.read_only:
            with self._opened(folder or "/", os.O_RDONLY | os.O_DIRECTORY) as parent:
                os.unlink(name, dir_fd=parent)
                os.fsync(parent)
        return True

    def set_aside(self, path: str) -> bool:
        """Move a file or folder itself (not what a symlink points at) to `before`; False when it is not there."""
        folder, name = os.path.split(path.rstrip("/"))
        if name not in self.names(folder or "/"):
            return False
        self.changed.append(path)
        if self.read_only:
            return True
        real = (self.real(folder or "/") or "").rstrip("/")
        self.make_folder(self.before + real)
        with (
            self._opened(real or "/", os.O_RDONLY | os.O_DIRECTORY) as here,
            self._opened(self.before + real, os.O_RDONLY | os.O_DIRECTORY) as there,
        ):
            taken = set(os.listdir(there))
            other = next(each for each in (name, *(f"{name}.{n}" for n in range(2, 1000))) if each not in taken)
            _move(here, name, there, other)
        return True


def _move(here: int, name: str, there: int, other: str) -> None:
    try:
        os.rename(name, other, src_dir_fd=here, dst_dir_fd=there)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # another filesystem: it stays where it is, under a name nothing looks for
        os.rename(name, f"{name}.before-refloat", src_dir_fd=here, dst_dir_fd=here)


def _dress(handle: int, parent: int, name: str, mode: int) -> None:
    """Give a new file what the old one had, or what its folder suggests."""
    try:
        old = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP):  # ELOOP: a symlink to nothing, which is replaced
            raise
        os.fchmod(handle, mode)
        _label(handle, parent)
        return
    try:
        facts = os.fstat(old)
        with contextlib.suppress(PermissionError):  # vfat, or not root
            os.fchown(handle, facts.st_uid, facts.st_gid)
        os.fchmod(handle, stat.S_IMODE(facts.st_mode))
        with contextlib.suppress(OSError):  # vfat has no attributes
            for attribute in os.listxattr(old):
                os.setxattr(handle, attribute, os.getxattr(old, attribute))
    finally:
        os.close(old)


def _label(handle: int, parent: int) -> None:
    """SELinux: a new file takes its folder's type, as it would on the running server; without, services may not read
    it."""
    with contextlib.suppress(OSError):
        os.setxattr(handle, "security.selinux", os.getxattr(parent, "security.selinux"))
