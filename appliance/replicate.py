"""Images, archives and receipts from one site to another, without keys that open anything; and what is damaged healed.

Only what is missing is copied, in an order in which a kill leaves nothing that counts: packs, maps, card, receipt,
and the manifest last. Running it again goes on. Every object is checked against the digest that names it (packs,
maps), its signature (manifests, cards) or its archive's SHA256SUMS before it is put; what is healed is read back as
well. May import `appliance`, `imager`, `core`.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC
from functools import partial

import msgspec

from appliance.catalog import load_pinned
from appliance.kit import KitServer
from appliance.verify import Damage, Verify
from core.errors import (
    ConfigError,
    CorruptError,
    ObjectExistsError,
    ObjectMissingError,
    SiteFullError,
    TrustError,
)
from core.monitor import Monitor, Task
from imager.repository.frames import PackRef
from imager.repository.manifest import MANIFEST_MAX, SegmentRef
from imager.repository.segments import digest_of
from imager.repository.store import Repository, StoredImage, blamed, server_names
from imager.sites.base import Site

#: Objects of at most 64 MiB each in memory at once.
_THREADS = 4
_ROUNDS = 3
_SUMS_MAX = 512 << 20
_SUMS = "SHA256SUMS"
_SUM_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._-]*)")
_RECEIPT_MAX = 64 << 10


@dataclass
class Replicated:
    """What was copied (or, in a dry run, would be); `failed`: what could not be, and why; `healed`: objects
    replaced."""

    images: list[str] = field(default_factory=list)
    archives: list[str] = field(default_factory=list)
    objects: int = 0
    bytes: int = 0
    present: int = 0
    healed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def raise_for_status(self) -> None:
        """CorruptError when something could not be copied or healed."""
        if self.failed:
            raise CorruptError(
                f"{len(self.failed)} could not be replicated: {self.failed[0]}",
                hint="`refloat verify` shows what is damaged where; all that is sound was copied",
            )


class Replicate:
    """One server's images from `source` to `target`. `pins` may be empty: manifests are then only known to be signed by
    somebody, and `heal` refuses. `repair`: what is there in another size is replaced as well."""

    def __init__(
        self,
        source: Repository,
        target: Repository,
        pins: Sequence[KitServer],
        monitor: Monitor,
        *,
        dry_run: bool = False,
        repair: bool = False,
    ) -> None:
        if source.site.place() == target.site.place():
            raise ConfigError(
                f"{source.site.name} and {target.site.name} are one and the same place", hint="name two sites"
            )
        self._source, self._target, self._pins = source, target, tuple(pins)
        self._monitor, self._dry, self._repair = monitor, dry_run, repair
        self._there: dict[str, int] = {}
        self._lock = threading.Lock()
        self.report = Replicated()

    def run(self, only: Sequence[str] = ()) -> Replicated:
        """Copy every image and archive that is missing at the target (or those of `only`), oldest first.

        What is wrong with one image is in the report, and the next is copied; SiteError ends it.
        """
        self._there = {info.name: info.size_bytes for info in self._target.site.list(self._target.prefix)}
        with self._monitor.task(f"replicate {self._source.server}") as task:
            for row in self._source.images():
                if only and row.image not in only:
                    continue
                if self._source.image_name(row.image) in self._there:
                    self.report.present += 1
                    continue
                self._guarded(f"image {row.image}", partial(self._image, row.image, task))
            for stem in self._archives():
                if not only or stem in only:
                    self._guarded(f"archive {stem}", partial(self._archive, stem, task))
        return self.report

    def heal(self) -> Replicated:
        """Verify the target, and bring every damaged or missing object back from the source.

        An object is removed at the target only when a sound one of the source is in memory.
        """
        if not self._pins:
            raise ConfigError("nothing is healed without a pinned key", hint="give --kit, or --server-pin")
        tried: set[str] = set()
        for _ in range(_ROUNDS):  # a healed manifest shows maps, a healed map shows packs
            try:
                damage = Verify(self._target, self._pins, self._monitor).run().damage
            except ObjectMissingError:
                return self.report  # no image at all: `run` is what copies
            todo = [each for each in damage if each.object not in tried]
            if not todo:
                return self.report
            for each in todo:
                tried.add(each.object)
                self._guarded(each.object, partial(self._heal, each))
            if self._dry:
                return self.report
        return self.report

    def _guarded(self, what: str, work: Callable[[], None]) -> None:
        """Errors about one thing do not end the rest; a full or silent site does."""
        try:
            work()
        except SiteFullError:
            raise
        except (CorruptError, TrustError, ObjectMissingError, ObjectExistsError) as error:
            self.report.failed.append(f"{what}: {error.message}")

    # --- images

    def _image(self, image: str, task: Task) -> None:
        stored = self._load(self._source, image)
        refs = list(dict.fromkeys(ref for layer in stored.manifest.layers for ref in layer))
        for batch in self._packs(refs, stored):
            self._all([(self._source.pack_name(pack), pack.size_bytes) for pack in batch], task)
        self._all([(self._source.map_name(ref.digest), ref.size_bytes) for ref in refs], task)
        card = self._source.card_name
        if card not in self._there:
            self._source.card(self._pin_of(stored))
            self._put(card, self._source.site.get(card), task)
        self._lineage(stored, task)
        name = self._source.image_name(image)
        data = self._source.site.get(name)
        if digest_of(data) != stored.digest:
            raise CorruptError(f"{name} at site {self._source.site.name} changed while it was read")
        self._receipt(image, stored, task)
        self._put(name, data, task)
        self.report.images.append(image)

    def _load(self, repository: Repository, image: str) -> StoredImage:
        if self._pins:
            return load_pinned(repository, image, self._pins)
        return repository.load(image, None)

    def _pin_of(self, stored: StoredImage) -> str | None:
        return stored.signer if self._pins else None

    def _packs(self, refs: Iterable[SegmentRef], stored: StoredImage) -> Iterator[list[PackRef]]:
        """Packs that are missing at the target, a map segment's at a time."""
        for ref in refs:
            segment = self._source.segment(ref, stored.manifest.server_id)
            yield [pack for pack in dict.fromkeys(segment.packs) if not self._has(self._source.pack_name(pack), pack)]

    def _has(self, name: str, pack: PackRef) -> bool:
        return self._there.get(name) == pack.size_bytes

    def _all(self, objects: Iterable[tuple[str, int]], task: Task) -> None:
        """Copy objects, several at a time; the first error ends it, when those under way are done."""
        with ThreadPoolExecutor(_THREADS, "replicate") as pool:
            jobs = [pool.submit(self._copy_named, name, size, task) for name, size in objects]
            try:
                for job in jobs:
                    job.result()
            except BaseException:
                for job in jobs:
                    job.cancel()
                raise

    def _copy_named(self, name: str, size_bytes: int, task: Task) -> None:
        """Copy an object that its digest names, unless it is there."""
        if name in self._there:
            if self._there[name] == size_bytes:
                return
            if not self._repair:
                raise CorruptError(f"{name} at site {self._target.site.name} has another size; `--repair` heals it")
            self._replace(name, self._sound(name, size_bytes), "it has another size")
            return
        if self._dry:
            self._count(name, size_bytes)
            return
        self._put(name, self._sound(name, size_bytes), task)

    def _sound(self, name: str, size_bytes: int) -> bytes:
        """The bytes of an object of the source that have the digest in its name."""
        data = self._source.site.get(name, 0, size_bytes)
        with blamed(self._source.site, name):
            if digest_of(data) != name.rsplit("/", 1)[1]:
                raise CorruptError("its bytes do not have the digest that names it")
        return data

    def _put(self, name: str, data: bytes, task: Task) -> None:
        if not self._dry:
            try:
                self._target.site.put(name, [data])
            except ObjectExistsError:  # another run of this, or a nightly run, was quicker
                if self._target.site.get(name) != data:
                    raise
        self._count(name, len(data))
        task.advance(len(data))

    def _count(self, name: str, size_bytes: int) -> None:
        with self._lock:
            self._there[name] = size_bytes
            self.report.objects += 1
            self.report.bytes += size_bytes

    def _receipt(self, image: str, stored: StoredImage, task: Task) -> None:
        """When the image first came to a site, in that site's own words: retention must not take it for new here."""
        name = f"{self._source.prefix}receipts/{image}.json"
        if name in self._there:
            return
        try:
            if self._source.site.stat(name).size_bytes > _RECEIPT_MAX:
                raise CorruptError(f"{name} at site {self._source.site.name} is too large for a receipt")
            data = self._source.site.get(name)
        except ObjectMissingError:
            came = self._source.site.stat(self._source.image_name(image)).received.astimezone(UTC)
            data = msgspec.json.encode(
                {
                    "refloat": "receipt",
                    "version": 1,
                    "image": image,
                    "digest": stored.digest,
                    "received": f"{came:%Y-%m-%dT%H:%M:%SZ}",
                    "vault": self._source.site.name,
                }
            )
        self._put(name, data, task)

    def _lineage(self, stored: StoredImage, task: Task) -> None:
        """The parent as the source has it, where the target has another: so that the history can still be followed."""
        parent = stored.manifest.parent
        name = self._source.lineage_name(parent.digest) if parent else ""
        if parent is None or name in self._there:
            return
        try:
            if self._load(self._target, parent.image).digest == parent.digest:
                return
        except (CorruptError, TrustError, ObjectMissingError):
            return  # damaged, pruned, or copied later: nothing contradicts
        try:
            data = self._source.site.get(self._source.image_name(parent.image))
        except ObjectMissingError:
            data = self._source.site.get(name)
        if len(data) > MANIFEST_MAX or digest_of(data) != parent.digest:
            raise CorruptError(f"the parent {parent.image} at site {self._source.site.name} is another one")
        self._put(name, data, task)

    # --- archives: parts first, SHA256SUMS last

    def _archives(self) -> list[str]:
        prefix = f"{self._source.prefix}archives/"
        names = [info.name.removeprefix(prefix) for info in self._source.site.list(prefix)]
        stems = [name.split("/")[0] for name in names if name.count("/") == 1 and name.endswith(f"/{_SUMS}")]
        found = [stem for stem in stems if f"{prefix}{stem}/{_SUMS}" not in self._there]
        self.report.present += len(stems) - len(found)
        return found

    def _archive(self, stem: str, task: Task) -> None:
        folder = f"{self._source.prefix}archives/{stem}/"
        if self._source.site.stat(folder + _SUMS).size_bytes > _SUMS_MAX:
            raise CorruptError(f"{folder}{_SUMS} is too large")
        sums = self._source.site.get(folder + _SUMS)
        lines = [_SUM_LINE.fullmatch(line) for line in sums.decode("ascii", "replace").splitlines()]
        expected = {match[2]: match[1] for match in lines if match}
        if len(expected) != len(lines):
            raise CorruptError(f"{folder}{_SUMS} at site {self._source.site.name} has a line that is none")
        sizes = {info.name: info.size_bytes for info in self._source.site.list(folder)}
        if lost := [name for name in expected if folder + name not in sizes]:
            raise ObjectMissingError(f"{folder}{lost[0]} is not at site {self._source.site.name}")
        last = (f"{folder}{_SUMS}.sig", folder + _SUMS)
        for name in (*(each for each in sizes if each not in last), *(each for each in last if each in sizes)):
            if self._there.get(name) == sizes[name]:
                continue
            if self._dry:
                self._count(name, sizes[name])
                continue
            data = sums if name == last[1] else self._source.site.get(name)
            wanted = expected.get(name.removeprefix(folder))
            if wanted is not None and hashlib.sha256(data).hexdigest() != wanted:
                raise CorruptError(f"{name} at site {self._source.site.name} does not have its SHA-256")
            self._put(name, data, task)
        self.report.archives.append(stem)

    # --- healing

    def _heal(self, damage: Damage) -> None:
        self._replace(damage.object, self._from_source(damage.object), damage.problem)

    def _replace(self, name: str, data: bytes, problem: str) -> None:
        if self._dry:
            self.report.healed.append(name)
            return
        target = self._target.site
        try:
            if target.get(name) == data:
                raise CorruptError(f"{problem}, and the same at site {self._source.site.name}")
            target.delete(name)
        except ObjectMissingError:
            pass
        target.put(name, [data])
        if target.get(name) != data:
            raise CorruptError(f"{name} at site {target.name} reads back other bytes: is it locked as it was?")
        self.report.healed.append(name)

    def _from_source(self, name: str) -> bytes:
        """The bytes of an object at the source, proved as far as it can be."""
        source = self._source
        if name == source.card_name:
            for pin in self._pins:
                source.card(pin.fingerprint)
            return source.site.get(name)
        folder, _, leaf = name.removeprefix(source.prefix).rpartition("/")
        if folder == "images":
            stored = load_pinned(source, leaf.removesuffix(".json"), self._pins)
            data = source.site.get(name)
            if digest_of(data) != stored.digest:
                raise CorruptError(f"{name} at site {source.site.name} changed while it was read")
            return data
        return self._sound(name, source.site.stat(name).size_bytes)


def servers_at(site: Site, wanted: Sequence[str]) -> list[str]:
    """The servers to replicate. ObjectMissingError when one that was named has nothing at the site."""
    known = server_names(site)
    for name in wanted:
        if name not in known:
            raise ObjectMissingError(f"there is no image of {name} at site {site.name}", hint="`refloat images`")
    return list(wanted) or known
