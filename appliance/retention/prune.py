"""Deciding which images go, at each site, and writing it down. Deletes nothing: `gc` does, after the delay.

May import `appliance`, `imager`, `core`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec

from appliance.config import RetentionConfig
from appliance.kit import KitServer
from appliance.retention.holdings import Holdings, digest_at, holdings
from appliance.retention.policy import Terms, Verdict, decide, guarded
from appliance.retention.records import Going, Records
from core.errors import ConfigError, ObjectMissingError, PolicyError, RefloatError
from core.monitor import Monitor
from imager.repository.store import Repository


@dataclass(frozen=True)
class Row:
    """One image at one site, as it is printed. `goes_at`: when `gc` may take it, where that is decided."""

    server: str
    site: str
    image: str
    received: datetime
    state: str
    stays: bool
    reason: str
    goes_at: datetime | None = None


@dataclass
class PruneReport:
    """What was found, site by site; `written` are the decisions that were put there."""

    rows: list[Row] = field(default_factory=list)
    written: list[str] = field(default_factory=list)


def terms_of(config: RetentionConfig) -> Terms:
    """The policy of a configuration."""
    values = {name: getattr(config, name) for name in Terms.__dataclass_fields__}
    return msgspec.convert(values, Terms)


class Prune:
    """One server at all its sites. `sites` are all that are known: those that do not answer count as having nothing."""

    def __init__(
        self, sites: Sequence[Repository], pins: Sequence[KitServer], config: RetentionConfig, monitor: Monitor
    ) -> None:
        self._sites, self._config, self._monitor = {each.site.name: each for each in sites}, config, monitor
        self.found: dict[str, Holdings] = {}
        for name, repository in self._sites.items():
            try:
                self.found[name] = holdings(repository, pins)
            except RefloatError as error:
                monitor.warn(f"site {name}: {error.message}")

    def repository(self, site: str) -> Repository:
        """The server's objects at that site."""
        return self._sites[site]

    def others(self, site: str) -> list[datetime | None]:
        """For each other site, when it received its newest good image."""
        return [self.found[name].newest_good if name in self.found else None for name in self._sites if name != site]

    def verdicts(self, site: str, now: datetime) -> list[Verdict]:
        """What becomes of every image at a site."""
        return decide(self.found[site].candidates, terms_of(self._config), now, self.others(site))

    def run(self, site: str, *, apply: bool = False, drop: Sequence[str] = ()) -> PruneReport:
        """Decide for one site; with `apply`, write it there. `drop`: images to take away whatever the policy says.

        PolicyError when one of those never goes; ObjectMissingError when it is not there.
        """
        held, repository = self.found[site], self._sites[site]
        records = Records(repository)
        now = records.clock() if apply else datetime.now(UTC)
        verdicts = self.verdicts(site, now)
        self._may_drop(held, drop, now)
        verdicts = [Verdict(each.image, False, "dropped by hand") if each.image in drop else each for each in verdicts]
        known = {each.image: each for each in held.images}
        thrown = {(image, digest): trash.received for trash, image, digest, _ in held.thrown()}
        delay = timedelta(days=self._config.delay_days)
        report, going = PruneReport(), []
        for each in verdicts:
            digest = known[each.image].digest or (digest_at(repository, each.image) if not each.stays else "")
            decided = thrown.get((each.image, digest), now if apply else None) if not each.stays else None
            if not each.stays and (each.image, digest) not in thrown:
                going.append(Going(each.image, digest, each.reason, each.image in drop))
            candidate = known[each.image].candidate
            report.rows.append(
                Row(
                    repository.server, site, each.image, candidate.received, candidate.state, each.stays, each.reason,
                    decided + delay if decided else None,
                )
            )  # fmt: skip
        if apply and going:
            report.written.append(records.throw(going, now))
        return report

    def _may_drop(self, held: Holdings, drop: Sequence[str], now: datetime) -> None:
        guards = guarded(held.candidates, 1, now)
        there = {each.image for each in held.images}
        for image in drop:
            if image not in there:
                raise ObjectMissingError(
                    f"there is no image {image} to drop", hint="`refloat images` lists what there is"
                )
            if image in guards:
                raise PolicyError(f"image {image} stays: {guards[image]}", hint="a pin is taken back by `refloat keep`")


def due(held: Holdings, verdicts: Mapping[str, Verdict], guards: Mapping[str, str], before: datetime) -> list[str]:
    """Images whose decision the site received before `before`, and which still may go: derived again, not believed."""
    digests = {each.image: each.digest for each in held.images}
    found = []
    for trash, image, digest, dropped in held.thrown():
        if trash.received > before or image not in digests or digests[image] != digest or image in found:
            continue
        if image not in guards and (dropped or not verdicts[image].stays):
            found.append(image)
    return found


def only_known(names: Sequence[str], known: Sequence[str], what: str) -> list[str]:
    """`names`, or all where none is given. ConfigError for one that is not known."""
    for name in names:
        if name not in known:
            raise ConfigError(f"no {what} is called {name!r}", hint=f"known are: {', '.join(known) or 'none'}")
    return list(names) or list(known)
