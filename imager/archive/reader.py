"""An archive opened for reading: one stream from its beginning to its end, the full's first, then the differential's.

Every part is checked against the signed SHA256SUMS before age sees a byte of it: age does not say who wrote what it
opens. May import `imager` (not `imager.repository`), `core`.
"""

from __future__ import annotations

import contextlib
import os
import tarfile
import threading
from collections.abc import Iterator, Sequence
from typing import IO

from core.errors import CorruptError, KeyMissingError, RefloatError, SiteError, ToolError
from core.run import Pipeline, pipeline
from imager.archive.description import Description
from imager.archive.members import MEMBER_MAX, Extent, parse_name
from imager.archive.store import ArchiveShelf, StoredArchive
from imager.keys import Identities
from imager.volumes import Volume


class OpenArchive:
    """A readable archive. `sites` have it, the preferred one first; `base` is its full, for a differential."""

    def __init__(
        self, sites: Sequence[ArchiveShelf], stored: StoredArchive, base: StoredArchive | None, identities: Identities
    ) -> None:
        self.sites, self.stored, self.base = list(sites), stored, base
        self.manifest: Description = stored.description
        self.complaints: list[str] = []
        self._identities = identities

    def missing(self) -> dict[str, list[str]]:
        """TIME → parts that no site has, of the archive and its full. Asked before a target is touched."""
        found = {}
        for stored in self.chain:
            gone: set[str] | None = None
            for site in self.sites:
                with contextlib.suppress(SiteError):
                    here = set(site.missing(stored))
                    gone = here if gone is None else gone & here
            if gone is None or gone:
                found[stored.description.image] = sorted(gone or {"all of it"})
        return found

    @property
    def chain(self) -> list[StoredArchive]:
        """The archives to be read, in order."""
        return [self.base, self.stored] if self.base else [self.stored]

    def extents(self, stored: StoredArchive) -> Iterator[tuple[Extent, memoryview]]:
        """Every extent of one archive of the chain; what a later archive says of a place hides what an earlier one
        says. The bytes (none for zeros) are valid until the next is asked for. CorruptError for one outside its volume.
        """
        buffer = memoryview(bytearray(MEMBER_MAX))
        sizes = {volume.spec.name: volume.spec.size_bytes for volume in self.manifest.volumes}
        with self._opened(stored) as stream:
            yield from _extents(stream, sizes, buffer)

    def read(self, volume: Volume, offset: int, length: int) -> bytes:
        """Bytes of a volume (unused blocks are zeros), in memory: for something small, as it reads all there is."""
        length = max(0, min(length, volume.spec.size_bytes - offset))
        out = bytearray(length)
        for extent, data in (each for stored in self.chain for each in self.extents(stored)):
            low, high = max(extent.offset, offset), min(extent.offset + extent.size_bytes, offset + length)
            if extent.volume == volume.spec.name and low < high:
                if extent.zero:
                    out[low - offset : high - offset] = bytes(high - low)
                else:
                    out[low - offset : high - offset] = data[low - extent.offset : high - extent.offset]
        return bytes(out)

    # -- the stream -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _opened(self, stored: StoredArchive) -> Iterator[IO[bytes]]:
        """The tar inside, as a stream. What went wrong anywhere is raised when the block is left at its end."""
        failures: list[Exception] = []
        with self._identity() as handle, contextlib.ExitStack() as stack:
            argvs = [["age", "--decrypt", "--identity", f"/proc/self/fd/{handle}"], ["zstd", "-dcq"]]
            purpose = f"open archive {stored.description.image}"
            running = stack.enter_context(pipeline(argvs, purpose=purpose, keep=[handle]))
            thread = threading.Thread(target=self._feed, args=(stored, running, failures), name="archive", daemon=True)
            thread.start()
            try:
                yield running.stdout
                while running.stdout.read(1 << 16):
                    pass  # what pads a tar
            except (tarfile.TarError, OSError, EOFError) as error:
                running.kill()
                thread.join()
                raise self._reason(failures, running, error) from error
            except GeneratorExit:
                running.kill()
                raise
            thread.join()
            if failures:
                raise failures[0]
            self._judge(running)

    def _feed(self, stored: StoredArchive, running: Pipeline, failures: list[Exception]) -> None:
        try:
            for number in range(len(stored.description.part_bytes)):
                view = memoryview(self._part(stored, number))
                while view:
                    view = view[os.write(running.stdin.fileno(), view) :]
        except BrokenPipeError:
            pass  # whoever broke it says why
        except Exception as error:  # noqa: BLE001 - outermost frame of this thread; raised again by the reader
            failures.append(error)
            running.kill()
        finally:
            with contextlib.suppress(OSError):
                running.stdin.close()

    def _part(self, stored: StoredArchive, number: int) -> bytes:
        first: RefloatError | None = None
        for site in self.sites:
            try:
                return site.part(stored, number)
            except RefloatError as error:
                first = first or error
                if len(self.sites) > 1 and len(self.complaints) < 100:
                    self.complaints.append(error.message)
        raise first or SiteError("no site holds this archive")

    def _reason(self, failures: list[Exception], running: Pipeline, error: Exception) -> Exception:
        if failures:
            return failures[0]
        with contextlib.suppress(ToolError):
            self._judge(running)
        return CorruptError(f"archive {self.manifest.image} holds no tar: {error}", hint="take another one")

    def _judge(self, running: Pipeline) -> None:
        try:
            running.finish()
        except ToolError as error:
            if "no identity matched" in str(error.fields.get("stderr", "")):
                raise KeyMissingError(
                    "this identity does not open the archive",
                    hint="use the recovery kit that holds one of the archive's recipients",
                ) from error
            raise

    @contextlib.contextmanager
    def _identity(self) -> Iterator[int]:
        """The identities in a file that is only in memory, as age wants one."""
        handle = os.memfd_create("identity", os.MFD_CLOEXEC)
        try:
            os.write(handle, "".join(f"{each}\n" for each in self._identities.secrets).encode())
            yield handle
        finally:
            os.close(handle)


def _extents(stream: IO[bytes], sizes: dict[str, int], buffer: memoryview) -> Iterator[tuple[Extent, memoryview]]:
    with tarfile.open(fileobj=stream, mode="r|", bufsize=1 << 20) as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]  # it would keep them all
            extent = parse_name(member.name, member.size) if member.isreg() else None
            if extent is None:
                continue
            if extent.offset + extent.size_bytes > sizes.get(extent.volume, 0) or member.size > MEMBER_MAX:
                raise CorruptError(
                    f"the archive holds {member.name[:80]}, which is no place in a volume", hint="take another archive"
                )
            file = tar.extractfile(member)
            done = 0
            while file is not None and done < member.size:
                count = file.readinto(buffer[done : member.size])  # type: ignore[attr-defined]
                if not count:
                    raise CorruptError("the archive ends in the middle of a member", hint="take another archive")
                done += count
            yield extent, buffer[:done]
