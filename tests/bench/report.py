"""Judges what was measured: `bench.json`, a table in Markdown, a chart in SVG. Pure, but for `write`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

#: Contestant → measure (`day1_s`, `day1_bytes`, …) → one value a run.
Results = Mapping[str, Mapping[str, Sequence[float]]]
OURS, OURS_TWO, OURS_ARCHIVE, ZSTD, PARTCLONE, RESTIC, BORG = (
    "refloat",
    "refloat, two sites",
    "refloat, with archive",
    "zstd | age",
    "partclone | zstd | age",
    "restic",
    "borg",
)
MEMORY_MAX = 300 << 20

#: name, measure, ours, theirs, target: what issue and README promise.
TARGETS = (
    ("day 1, wall, against zstd | age", "day1_s", OURS, ZSTD, 0.65),
    ("day 1, wall, against restic", "day1_s", OURS, RESTIC, 0.35),
    ("day 1, stored, against partclone | zstd | age", "day1_bytes", OURS, PARTCLONE, 1.05),
    ("day 1, wall, two sites against one", "day1_s", OURS_TWO, OURS, 1.25),
    ("day 1, wall, with archive against without", "day1_s", OURS_ARCHIVE, OURS, 2.0),
    ("day 2, wall, with archive against without", "day2_s", OURS_ARCHIVE, OURS, 1.3),
    ("day 2, stored, against restic", "day2_bytes", OURS, RESTIC, 0.20),
    ("day 2, wall, against restic", "day2_s", OURS, RESTIC, 0.40),
    ("restore, wall, against age | zstd", "restore_s", OURS, ZSTD, 0.80),
    ("restore, wall, against restic", "restore_s", OURS, RESTIC, 0.40),
)


@dataclass(frozen=True)
class Row:
    """One promise: medians of both, their ratio, what it must not exceed. Seconds or bytes."""

    name: str
    ours: float
    theirs: float
    ratio: float
    target: float
    ok: bool


def judge(results: Results, memory: Mapping[str, int]) -> list[Row]:
    """The promises, kept or not; `memory` is our peak by what was done, in bytes."""
    rows = []
    for name, measure, ours, theirs, target in TARGETS:
        rows.append(_row(name, _median(results, ours, measure), _median(results, theirs, measure), target))
    rows += [_row(f"memory, {what}", peak, MEMORY_MAX, 1.0) for what, peak in memory.items()]
    return rows


def _row(name: str, ours: float, theirs: float, target: float) -> Row:
    ratio = ours / theirs
    return Row(name, round(ours, 3), round(theirs, 3), round(ratio, 3), target, ratio <= target)


def _median(results: Results, who: str, measure: str) -> float:
    return statistics.median(results[who][measure])


_COLUMNS = (
    ("day 1, s", "day1_s"),
    ("CPU s", "day1_cpu"),
    ("stored", "day1_bytes"),
    ("day 2, s", "day2_s"),
    ("CPU s", "day2_cpu"),
    ("stored on day 2", "day2_bytes"),
    ("restore, s", "restore_s"),
    ("CPU s", "restore_cpu"),
)


def table(results: Results, rows: Sequence[Row], title: str) -> str:
    """Medians of all contestants, then the promises."""
    lines = [title, "", "| | " + " | ".join(head for head, _ in _COLUMNS) + " |", "|---" * (len(_COLUMNS) + 1) + "|"]
    for who, measures in results.items():
        cells = [_cell(measures.get(key, ()), key) for _, key in _COLUMNS]
        lines.append(f"| {who.replace('|', chr(92) + '|')} | " + " | ".join(cells) + " |")
    lines += ["", "| | ours | theirs | ratio | must be at most | |", "|---|---|---|---|---|---|"]
    for row in rows:
        verdict = "kept" if row.ok else f"missed by {100 * (row.ratio / row.target - 1):.0f} %"
        cells = [row.name.replace("|", "\\|"), _amount(row.ours), _amount(row.theirs), f"{row.ratio:.2f}"]
        lines.append("| " + " | ".join([*cells, f"{row.target:.2f}", verdict]) + " |")
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[float], key: str) -> str:
    if not values:
        return "–"
    return _amount(statistics.median(values)) if key.endswith("bytes") else f"{statistics.median(values):.1f}"


def _amount(value: float) -> str:
    """Bytes from a megabyte up, else seconds: nothing here takes 12 days or stores less."""
    return f"{value / 1e6:,.0f} MB" if value >= 1e6 else f"{value:.1f} s"


_CHARTS = (
    ("day 1, seconds", "day1_s"),
    ("day 2, seconds", "day2_s"),
    ("day 2, MB stored", "day2_bytes"),
    ("restore, seconds", "restore_s"),
)
_STYLE = """\
text { fill: #1d2733; font: 13px system-ui, sans-serif } .head { font-weight: 600 } .value { font-size: 12px }
.ours { fill: #2f7d5b } .peer { fill: #9fb3c8 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .ours { fill: #57c795 } .peer { fill: #52677d } }"""


def chart(results: Results, title: str) -> str:
    """Bars, shorter is better; readable on light and dark grounds."""
    parts, y = [f'<text class="head" x="10" y="22">{title}; shorter is better</text>'], 52
    for head, key in _CHARTS:
        shown = [(who, statistics.median(measures[key])) for who, measures in results.items() if measures.get(key)]
        longest = max(value for _, value in shown)
        parts.append(f'<text class="head" x="10" y="{y}">{head}</text>')
        for who, value in shown:
            y += 22
            kind = "ours" if who.startswith("refloat") else "peer"
            width = 440 * value / longest
            label = f"{value / 1e6:,.0f}" if key.endswith("bytes") else f"{value:.1f}"
            parts.append(f'<text x="180" y="{y}" text-anchor="end">{who}</text>')
            parts.append(f'<rect class="{kind}" x="190" y="{y - 12}" width="{width:.1f}" height="15" rx="2"/>')
            parts.append(f'<text class="value" x="{196 + width:.1f}" y="{y}">{label}</text>')
        y += 38
    size = f'viewBox="0 0 720 {y - 10}" role="img" aria-label="{title}"'
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{_STYLE}</style>\n{body}\n</svg>\n'


def write(folder: Path, results: Results, memory: Mapping[str, int], title: str) -> list[Row]:
    """`bench.json`, `bench-runs.json`, `bench.md` and `bench.svg` in a folder; gives the judged rows."""
    rows = judge(results, memory)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    (folder / "bench-runs.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "bench.md").write_text(table(results, rows, title))
    (folder / "bench.svg").write_text(chart(results, title))
    return rows
