"""The second mechanism in a run of `refloat image`: which sites want an archive, fed from the pass of the repository or
from one of its own, and how each fared. May import `imager`, `core`. Lives as long as the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from core.errors import RefloatError
from core.layout import Layout
from core.monitor import Monitor
from core.run import Runner
from hardware.read import DiskSource
from imager.archive.alone import ArchivePass
from imager.archive.writer import ArchiveRequest, ArchiveResult, ArchiveWriter, LateError
from imager.sites.base import Site
from imager.source import Pace, Source
from imager.volumes import Volume


@dataclass
class ArchiveOutcome:
    """How the archive of a site fared. `status`: `committed` or `failed`."""

    name: str
    status: str
    result: ArchiveResult | None = None
    error: RefloatError | None = None


@dataclass(frozen=True)
class Frozen:
    """What a pass of its own reads; as in imager.repository.capture.Request."""

    sources: tuple[Source, ...]
    whole: frozenset[str]
    bandwidth: int
    check: Callable[[bool], None]


class Archives:
    """The archives of a run. `begin` before the pass, `finish` after it."""

    def __init__(self, sites: Sequence[Site], request: ArchiveRequest, monitor: Monitor) -> None:
        self.sites, self._request, self._monitor = list(sites), request, monitor
        self.writers: list[ArchiveWriter] = []
        self.outcomes: dict[str, ArchiveOutcome] = {}

    def __enter__(self) -> Archives:
        return self

    def __exit__(self, *_ignored: object) -> None:
        self._close()

    def begin(
        self, layout: Layout, sources: Sequence[Source], dumps: Callable[[], Mapping[str, bytes]]
    ) -> tuple[ArchiveWriter, ...]:
        """Writers that a pass can feed. What fails already is noted, and holds up nobody."""
        try:
            self._request = replace(
                self._request, layout=layout, specs=tuple(source.spec for source in sources),
                dumps=dumps() if self.sites else {},
            )  # fmt: skip
        except RefloatError as error:
            for site in self.sites:
                self._failed(site, error)
            return ()
        for site in self.sites:
            self._open(site, self._request)
        return tuple(self.writers)

    def _open(self, site: Site, request: ArchiveRequest) -> None:
        try:
            self.writers.append(ArchiveWriter(site, request))
        except RefloatError as error:
            self._failed(site, error)

    def finish(self, volumes: Sequence[Volume]) -> list[Site]:
        """Commit what a pass over these volumes fed. The sites that could not keep up: for `again`."""
        return [writer.site for writer in self.writers if not self._commit(writer, volumes)]

    def alone(self, frozen: Frozen, digest_key: bytes, runner: Runner) -> list[Volume]:
        """A pass for the writers there are, and nobody else; what was read. Raises what concerns the sources."""
        if not self.writers:
            return []
        made = ArchivePass(self.writers, digest_key, Pace(frozen.bandwidth), frozen.check)
        volumes = made.run(frozen.sources, frozen.whole, runner, self._monitor)
        self.finish(volumes)
        return volumes

    def again(self, sites: Sequence[Site], frozen: Frozen, digest_key: bytes, runner: Runner) -> list[Volume]:
        """Begin the archives of these sites once more, one after the other, under a later name: the parts of the first
        try lie under theirs for good. See `alone`."""
        self._close()
        volumes: list[Volume] = []
        for site in sites:
            self._monitor.warn(f"the archive of site {site.name} is begun again, alone")
            self._open(site, replace(self._request, patient=True))
            volumes = self.alone(frozen, digest_key, runner) or volumes
            self._close()
        return volumes

    def _commit(self, writer: ArchiveWriter, volumes: Sequence[Volume]) -> bool:
        """False when it could not keep up and may be tried again."""
        try:
            result = writer.finish(volumes)
        except LateError:
            return False
        except RefloatError as error:
            self._failed(writer.site, error)
        else:
            self.outcomes[writer.site.name] = ArchiveOutcome(writer.site.name, "committed", result)
        return True

    def _close(self) -> None:
        for writer in self.writers:
            writer.close()
        self.writers = []

    def _failed(self, site: Site, error: RefloatError) -> None:
        self._monitor.warn(f"archive at site {site.name}: {error.message}")
        self.outcomes[site.name] = ArchiveOutcome(site.name, "failed", error=error)


def layout_dumps(layout: Layout, disks: Sequence[DiskSource], runner: Runner) -> dict[str, bytes]:
    """What stock tools say of the layout, by file name: partition tables for sfdisk, volume groups for vgcfgrestore,
    and blkid's list for people. A table that cannot be dumped raises: without it restore.sh could do nothing."""
    found: dict[str, bytes] = {}
    for disk, source in zip(layout.disks, disks, strict=True):
        if disk.table is not None:
            argv = ["sfdisk", "--dump", source.path]
            found[f"{disk.name}.sfdisk"] = runner.run(argv, purpose=f"dump the table of {disk.name}").stdout
    with TemporaryDirectory(prefix="refloat-layout-") as folder:
        for group in layout.groups:
            file = Path(folder) / "group"
            argv = ["vgcfgbackup", "--file", str(file), group.name]
            runner.run(argv, purpose=f"describe volume group {group.name}")
            found[f"{group.name}.vg"] = file.read_bytes()
    # 2: nothing was found that blkid knows
    found["blkid.txt"] = runner.run(["blkid"], purpose="list what the devices hold", ok=(0, 2)).stdout
    return found
