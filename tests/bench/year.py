"""What a restore costs after a year of nights and prunes, against one right after a full: `python -m tests.bench.year`.

A small disk of bytes that do not compress, an image a night at a site in memory, pruned and collected every night by
the default policy. The site counts what a restore of the newest image asks of it; times are modelled from that.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.config import RetentionConfig
from imager.sites.memory import MemorySite
from tests.appliance.retention.years import Years
from tests.imager.rig import Rig

#: Modelled sites: seconds a request, bytes a second. A restore has eight requests under way.
SITES = {
    "200 Mbit/s, 30 ms": (0.030, 25e6),
    "NFS on 1 Gbit/s, 2 ms": (0.002, 115e6),
    "disk beside it, 8 ms": (0.008, 180e6),
}
THREADS = 8
#: One block written: which, of how many.
Churn = Callable[[random.Random, int], Iterator[int]]


@dataclass(frozen=True)
class Cost:
    """What a restore asked of the site."""

    requests: int
    fetched_bytes: int

    def seconds(self, latency: float, rate: float) -> float:
        """As long as a restore takes that waits for the site only."""
        return self.requests * latency / THREADS + self.fetched_bytes / rate


class Accounting(MemorySite):
    """A site that counts."""

    requests = fetched_bytes = 0

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        data = super().get(name, offset, length)
        self.requests, self.fetched_bytes = self.requests + 1, self.fetched_bytes + len(data)
        return data


def lived_in(rng: random.Random, blocks: int) -> Iterator[int]:
    """1 % of the disk a night as servers do it: most of it again and again the same twentieth (database, journal), a
    log that goes round, a new file now and then, and a little anywhere."""
    count = max(4, blocks // 100)
    hot = blocks // 20
    yield from (rng.randrange(hot) for _ in range(count * 6 // 10))
    start = rng.randrange(blocks)
    yield from ((start + each) % blocks for each in range(count * 3 // 10))
    yield from (rng.randrange(blocks) for _ in range(max(1, count // 10)))


def anywhere(rng: random.Random, blocks: int) -> Iterator[int]:
    """1 % of the disk a night, each block as likely as any other: worse than servers are."""
    yield from (rng.randrange(blocks) for _ in range(blocks // 100))


def live(folder: Path, nights: int, blocks: int, churn: Churn, config: RetentionConfig) -> Years:
    """A server after that many nights."""
    years = Years(folder, blocks=blocks, config=config, pack_bytes=32 << 20, remembers=False)
    years.sites[0] = years.rig.sites[0] = Accounting("de1", clock=lambda: years.now)
    for _ in range(nights):
        for block in churn(years.rng, blocks):
            years.write(block)
        years.night()
        years.prune()
        years.gc()
    return years


def cost(years: Years, into: Path) -> Cost:
    """Of restoring the newest image to a blank disk; the restored bytes are compared."""
    site = years.sites[0]
    assert isinstance(site, Accounting)
    site.requests = site.fetched_bytes = 0
    years.rig.restore(site, into)
    found = Cost(site.requests, site.fetched_bytes)
    (restored,) = into.iterdir()
    assert restored.read_bytes() == bytes(years.disk)
    return found


def full(folder: Path, years: Years) -> Cost:
    """Of restoring the same disk from a full image just taken."""
    fresh = Years(folder, blocks=years.blocks, pack_bytes=32 << 20)
    fresh.sites[0] = Accounting("de1")
    fresh.rig = Rig(folder, [fresh.sites[0]], pack_bytes=32 << 20)
    fresh.disk = years.disk
    fresh.rig.disk().write_bytes(fresh.disk)
    fresh.night()
    return cost(fresh, folder / "out")


def main(nights: int = 365, blocks: int = 2048) -> None:
    """Print the figures as a table."""
    print(f"{nights} nights of a disk of {blocks // 16} MiB, pruned and collected every night\n")
    print("| writes | requests | fetched | at the site | " + " | ".join(SITES) + " |")
    print("|---|---|---|---|" + "---|" * len(SITES))
    for name, churn in (("as servers do", lived_in), ("anywhere", anywhere)):
        with tempfile.TemporaryDirectory() as scratch:
            years = live(Path(scratch) / "old", nights, blocks, churn, RetentionConfig(copies=1))
            held = sum(info.size_bytes for info in years.sites[0].list())
            old, new = cost(years, Path(scratch) / "restored"), full(Path(scratch) / "new", years)
        ratios = [old.seconds(*each) / new.seconds(*each) for each in SITES.values()]
        print(
            f"| {name} | {old.requests} : {new.requests} | {old.fetched_bytes / new.fetched_bytes:.2f} × "
            f"| {held / new.fetched_bytes:.2f} × | " + " | ".join(f"{each:.2f} ×" for each in ratios) + " |",
            flush=True,
        )


if __name__ == "__main__":
    main(*(int(each) for each in sys.argv[1:]))
