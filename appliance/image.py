"""Taking an image: disks and sites from the configuration, one pass, a result that says how each site fared.

May import `imager`, `hardware`, `core`. Lives as long as `take_image`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import threading
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from appliance.archives import ArchiveOutcome, Archives, Frozen, layout_dumps
from appliance.config import Config, SiteConfig
from appliance.hold import holding
from appliance.locks import renew_all
from appliance.places import open_place
from appliance.sweep import sweeping
from appliance.tracking import Tracking
from core.errors import (
    ConfigError,
    DamagedError,
    HeldError,
    LockedError,
    PartialError,
    PolicyError,
    RefloatError,
    SiteError,
)
from core.files import state_errors
from core.layout import volumes_of
from core.monitor import Monitor
from core.run import Runner
from hardware.boot.hold import is_held
from hardware.boot.inside import Root
from hardware.inventory import firmware_mode
from hardware.read import DiskSource, read_layout
from imager.archive.writer import ArchiveRequest
from imager.hold.hooks import Hooks
from imager.hold.window import Terms
from imager.keys import ServerKeys
from imager.repository.capture import Capture, Request, SiteResult
from imager.repository.journal import Journal, load_journals
from imager.repository.lineage import SiteState
from imager.repository.manifest import NOTE_MAX
from imager.repository.parents import next_image_name, remember_attempt, remember_commit, survey, sweep_cache
from imager.repository.store import Repository
from imager.sites.base import Site
from imager.sites.wrap import Retry
from imager.source import be_polite
from imager.volumes import Volume

#: A site may have to read the whole map back when the server lost its cache.
_SURVEY_SECONDS = 600
#: But once one site is ready, the others have this long: a hanging one must not hold it up.
_LATE_SECONDS = 60


@dataclass(frozen=True)
class ImageOptions:
    """What the command line adds. `disks` replace those of the configuration; `only` are site names; `whole` volume
    names."""

    disks: tuple[DiskSource, ...] = ()
    note: str = ""
    live: bool = False
    only: tuple[str, ...] = ()
    whole: frozenset[str] = frozenset()


@dataclass
class ImageOutcome:
    """What came of it; `parent` is the newest parent among the sites'. `state` as in the manifest. `window_seconds`:
    how long filesystems stood still; `why_not`: by volume, why what changed in it was not known; `archives`: how the
    second mechanism fared at the sites that have it."""

    server: str
    image: str
    parent: str | None
    state: str
    sites: list[SiteResult] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    volumes: list[Volume] = field(default_factory=list)
    window_seconds: float = 0.0
    why_not: dict[str, str] = field(default_factory=dict)
    archives: list[ArchiveOutcome] = field(default_factory=list)

    def raise_for_status(self) -> None:
        """The error that decides the exit code: no site, some sites, or a damaged source."""
        made: list[SiteResult | ArchiveOutcome] = [*self.sites, *self.archives]
        failed = [each for each in made if each.status != "committed"]
        if failed and len(failed) == len(made):
            raise failed[0].error or PartialError("no site has the image")
        if failed:
            reasons = "; ".join(f"{each.name}: {each.error.message if each.error else each.status}" for each in failed)
            raise PartialError(
                f"image {self.image} is not at every site ({reasons})",
                hint="the next run catches up; `refloat check` tells whether the site answers",
            )
        if self.state == "damaged":
            raise DamagedError(
                f"image {self.image} is committed, but parts of the source could not be read",
                hint="`refloat show` lists the ranges; replace the disk",
            )


def take_image(config: Config, options: ImageOptions, runner: Runner, monitor: Monitor) -> ImageOutcome:
    """Image this server's disks to its sites. Raises what concerns all sites; see ImageOutcome for the rest."""
    with Root("/") as root:
        if is_held(root):
            raise HeldError(
                "this server was restored and has not been released: the old one may still be there",
                hint="`refloat release`, once it is certain that the old server does not come back",
            )
    keys = ServerKeys.load(config.state_path)
    if keys.name != config.server:
        raise ConfigError(
            f"the keys in {config.state} are of server {keys.name!r}, the configuration is of {config.server!r}",
            hint="a server keeps its name for life; new keys start a new lineage",
        )
    if len(options.note) > NOTE_MAX:
        raise ConfigError(f"the note is longer than {NOTE_MAX} characters", hint="keep what is longer in a file")
    with _only_one(config.state_path):
        return _take(config, keys, options, runner, monitor)


def _take(config: Config, keys: ServerKeys, options: ImageOptions, runner: Runner, monitor: Monitor) -> ImageOutcome:
    state = config.state_path
    disks = options.disks or tuple(DiskSource(each.path, each.name, each.sector_bytes or None) for each in config.disks)
    if not disks:
        raise ConfigError(
            "no disk to image is named", hint='add [[disk]] path = "/dev/…" to the configuration, or --disk PATH'
        )
    tracking = Tracking(state / "tracking", config.image.tracking, config.image.keep_snapshot)
    with sweeping(keys.server_id, tracking, runner, monitor):
        outcome = _image(config, keys, disks, options, tracking, runner, monitor)
    _conclude(outcome, state, monitor)
    return outcome


def _image(
    config: Config,
    keys: ServerKeys,
    disks: Sequence[DiskSource],
    options: ImageOptions,
    tracking: Tracking,
    runner: Runner,
    monitor: Monitor,
) -> ImageOutcome:
    """The run itself: sites asked, volumes held, one pass over them."""
    state = config.state_path
    layout = read_layout(disks, runner, firmware_mode())
    names = [spec.name for spec in volumes_of(layout)]
    for name in sorted(options.whole - set(names)):
        raise ConfigError(f"--whole {name}: there is no such volume", hint=f"there are: {', '.join(names)}")
    journals, stale = load_journals(state / "journal", keys.server_id)
    for path in stale:
        path.unlink(missing_ok=True)
    cache = state / "maps"
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    outcome = ImageOutcome(config.server, "", None, "complete")
    chosen = _chosen(config, options.only)
    images = [each for each in chosen if "repository" in each.mechanisms]
    surveyed = _survey(images, config, keys, journals, monitor)
    for name, answer in surveyed.items():
        if isinstance(answer, RefloatError):
            monitor.warn(f"site {name}: {answer.message}")
            outcome.sites.append(SiteResult(name, "failed", None, error=answer))
    states = [answer for answer in surveyed.values() if isinstance(answer, SiteState)]
    _must_be_apart(states)
    archived = [connect(each) for each in chosen if "archive" in each.mechanisms]
    if not states and not archived:
        outcome.raise_for_status()
    sweep_cache(cache, states)
    now = datetime.now(UTC)
    outcome.image = next_image_name(states, now)
    remember_attempt(state, outcome.image)
    terms = Terms(
        outcome.image, keys.server_id, config.image.snapshot_share, config.image.freeze_seconds,
        Hooks(config.image.hooks, config.image.hook_seconds), keeps_thick=config.image.keep_snapshot,
    )  # fmt: skip
    tracking.states, outcome.why_not = states, tracking.why_not
    archives = Archives(
        archived,
        ArchiveRequest(
            keys=keys, recipients=config.recipients, layout=layout, specs=(), image=outcome.image, taken_at=now,
            state=state, note=options.note, threads=config.image.threads,
            patient=not states,
        ),
        monitor,
    )  # fmt: skip
    with archives, holding(
        layout, disks, terms, live=options.live or config.image.live, own=_own(config), copies=state / "hold",
        tracking=tracking, runner=runner, monitor=monitor,
    ) as held:  # fmt: skip
        be_polite(config.image.nice, config.image.io_class)  # not before: a freeze must be short
        request = Request(
            keys=keys, recipients=config.recipients, layout=held.layout, sources=held.sources, image=outcome.image,
            taken_at=now, state=state, note=options.note, level=config.image.level, threads=config.image.threads,
            pack_bytes=config.image.pack_size, bandwidth=config.image.bandwidth, whole=options.whole,
            check=held.check, frozen_ms=round(held.seconds * 1000), audit_share=config.image.audit / 1000,
            taps=archives.begin(held.layout, held.sources, lambda: layout_dumps(held.layout, disks, runner)),
        )  # fmt: skip
        outcome.window_seconds = held.seconds
        done, outcome.volumes, zeros = _run_until_all_had_their_turn(request, states, archives, runner, monitor)
        configured = [each.name for each in config.sites if "repository" in each.mechanisms]
        if states:
            kept = tracking.conclude(outcome.image, done, outcome.volumes, zeros, configured, runner, monitor)
            terms.kept.update(kept)
    outcome.sites.extend(done)
    committed = {each.name for each in done if each.status == "committed"}
    renew_all([each.repository for each in states if each.name in committed], keys, state, monitor)
    outcome.archives.extend(archives.outcomes[each.name] for each in archived)
    return outcome


def _survey(
    entries: Sequence[SiteConfig], config: Config, keys: ServerKeys, journals: Sequence[Journal], monitor: Monitor
) -> dict[str, SiteState | RefloatError]:
    """What each site has, asked at once; one that does not answer in time has failed for this run and holds up none."""
    answers: dict[str, SiteState | RefloatError] = {
        entry.name: SiteError("did not answer in time", hint="`refloat check` tells more") for entry in entries
    }

    def ask(entry: SiteConfig) -> None:
        try:
            repository = Repository(connect(entry), config.server, config.state_path / "maps")
            answers[entry.name] = survey(repository, keys, config.state_path, journals, monitor)
        except RefloatError as error:
            answers[entry.name] = error

    # Daemons: a site that hangs for ever must not keep the process from ending.
    threads = [threading.Thread(target=ask, args=(entry,), name=f"ask {entry.name}", daemon=True) for entry in entries]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + _SURVEY_SECONDS
    while (waiting := [thread for thread in threads if thread.is_alive()]) and time.monotonic() < deadline:
        if any(isinstance(answer, SiteState) for answer in list(answers.values())):
            deadline = min(deadline, time.monotonic() + _LATE_SECONDS)
        waiting[0].join(0.05)
    return dict(answers)


def _must_be_apart(states: Sequence[SiteState]) -> None:
    """PolicyError when two sites are one place: that would be one copy, counted twice."""
    places: dict[str, str] = {}
    for state in states:
        if state.place in places:
            raise PolicyError(
                f"sites {places[state.place]} and {state.name} are one and the same place",
                hint="a link or a bind mount leads one to the other; give each site a place of its own",
            )
        places[state.place] = state.name


def _run_until_all_had_their_turn(
    request: Request, states: Sequence[SiteState], archives: Archives, runner: Runner, monitor: Monitor
) -> tuple[list[SiteResult], list[Volume], dict[str, array[int]]]:
    """The pass for all, archives too; then one alone for each site that lagged behind it: what is durable there counts,
    but an archive begins again."""
    frozen = Frozen(request.sources, request.whole, request.bandwidth, request.check)
    if not states:
        return [], archives.alone(frozen, request.keys.digest_key, runner), {}
    capture = Capture(request, states, runner, monitor)
    try:
        results = capture.run()
    except SiteError as error:
        if not request.taps:
            raise
        failed = [SiteResult(each.name, "failed", None, error=error) for each in states]
        return failed, archives.again(archives.sites, frozen, request.keys.digest_key, runner), {}
    archives.again(archives.finish(capture.volumes), frozen, request.keys.digest_key, runner)
    request = dataclasses.replace(request, taps=())
    finished = [each for each in results if each.status != "lagging"]
    for late in (each for each in results if each.status == "lagging"):
        monitor.warn(f"site {late.name} could not keep up; going on with it alone")
        site = next(each for each in states if each.name == late.name)
        journals, _ = load_journals(request.state / "journal", request.keys.server_id)
        try:
            again = survey(site.repository, request.keys, request.state, journals, monitor)
        except RefloatError as error:
            late.status, late.error = "failed", error
            finished.append(late)
            continue
        (result,) = Capture(request, [again], runner, monitor).run()
        result.seconds += late.seconds
        result.stored_bytes += late.stored_bytes
        finished.append(result)
    order = [state.name for state in states]
    return sorted(finished, key=lambda each: order.index(each.name)), capture.volumes, capture.zeros


def _conclude(outcome: ImageOutcome, state: Path, monitor: Monitor) -> None:
    committed = [each for each in outcome.sites if each.status == "committed"]
    outcome.parent = max((each.parent for each in committed if each.parent), default=None)
    outcome.warnings = list(monitor.warnings)
    if any(each.damaged for each in committed) or any(each.unreadable for each in outcome.volumes):
        outcome.state = "damaged"
    for each in committed:
        remember_commit(state, each.name, outcome.image, each.digest)
    if committed and len(committed) == len(outcome.sites):
        # Every site has it all: nothing that a killed run left is needed any more.
        for path in (state / "journal").glob("*.journal"):
            path.unlink(missing_ok=True)


def _own(config: Config) -> list[str]:
    """What this program writes to while it images: freezing that would stop it."""
    sites = [url.removeprefix("file://") for url in (each.url for each in config.sites) if url.startswith("file://")]
    return [config.state, *sites]


def connect(entry: SiteConfig) -> Site:
    """The configured site, with transient faults retried."""
    return Retry(open_place(entry))


def _chosen(config: Config, only: Sequence[str]) -> list[SiteConfig]:
    if not config.sites:
        raise ConfigError("no site is configured", hint="add two [[site]] tables; `refloat config example` shows them")
    return [config.site(name) for name in only] if only else list(config.sites)


@contextlib.contextmanager
def _only_one(state: Path) -> Iterator[None]:
    """Hold the server's lock; LockedError when another run has it. The kernel lets go when the process dies."""
    with state_errors(state / "lock"):
        handle = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockedError("another image of this server is being taken", hint="wait for it, or end it") from error
        yield
    finally:
        os.close(handle)
