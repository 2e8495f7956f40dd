"""A Stage's images pruned and collected; part of the soak. Time at its file sites is made to pass by setting files
back."""

from __future__ import annotations

import os

from appliance.config import RetentionConfig
from appliance.retention.gc import Collection, GcReport
from appliance.retention.prune import Prune
from core.monitor import Monitor
from tests.soak.stage import SITES, Stage

DAY = 24 * 3600
POLICY = RetentionConfig(daily=2, monthly=0, yearly=0, minimum=1)


def pruner(stage: Stage) -> Prune:
    """Both sites asked, keyless."""
    return Prune([stage.repository(name) for name in SITES], [], POLICY, Monitor())


def collect(stage: Stage, site: str) -> GcReport:
    """`refloat gc --apply` at a site."""
    return Collection(pruner(stage), stage.repository(site), POLICY, Monitor()).run(apply=True)


def age(stage: Stage, days: float) -> None:
    """Everything at the sites came that much earlier."""
    for site in SITES:
        for path in (stage.folder / site).rglob("*"):
            if path.is_file():
                found = path.stat()
                os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns - int(days * DAY) * 10**9))
