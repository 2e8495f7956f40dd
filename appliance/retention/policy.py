"""Which images stay, and why: values in, values out. Pure; imports the standard library only.

All times are a site's own (`received`, `now`): what a server says of its clock has no part in it. Days, months and
years are those of UTC. Periods without an image are not counted, so a server that is away loses nothing by time alone,
and a clock that jumps costs one place at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum


class State(StrEnum):
    """GOOD: whole, and the server's own; DAMAGED: its own, but with unreadable ranges or objects that are gone;
    DOUBTFUL: it cannot be read, or somebody else signed it."""

    GOOD = "good"
    DAMAGED = "damaged"
    DOUBTFUL = "doubtful"


@dataclass(frozen=True)
class Terms:
    """The policy, as `[retention]` gives it; see `core.settings`."""

    daily: int = 12
    monthly: int = 3
    yearly: int = 1
    minimum: int = 3
    copies: int = 2


@dataclass(frozen=True)
class Candidate:
    """One image at one site. `leased_until`: a restore reads it until then."""

    image: str
    received: datetime
    state: State = State.GOOD
    pinned: bool = False
    leased_until: datetime | None = None


@dataclass(frozen=True)
class Verdict:
    """What becomes of an image at a site, and the reason, for people."""

    image: str
    stays: bool
    reason: str


def decide(
    images: Iterable[Candidate], terms: Terms, now: datetime, others: Sequence[datetime | None] = ()
) -> list[Verdict]:
    """A verdict for every image of a server at one site, oldest first by name.

    `others`: for each other site of this server when it received its newest good image, None where it has none or
    cannot be asked.
    """
    all_images = sorted(images, key=lambda each: each.image)
    places = _places(all_images, terms, now)
    guards = guarded(all_images, terms.minimum, now)
    return [_verdict(each, places, guards, terms, others) for each in all_images]


def guarded(images: Sequence[Candidate], minimum: int, now: datetime) -> dict[str, str]:
    """Images that never go, whatever was decided: image → why."""
    found = {each.image: "a restore reads it" for each in images if each.leased_until and each.leased_until > now}
    found |= {each.image: "it came later than now: a clock was set" for each in images if each.received > now}
    found |= {each.image: "pinned" for each in images if each.pinned}
    good = sorted((each for each in images if each.state is State.GOOD), key=_age)
    found |= {each.image: f"among the newest {minimum} good ones" for each in good[-minimum:]}
    found |= {each.image: "the newest good one" for each in good[-1:]}
    # What the server calls its newest is what the next night builds on, however the site's clock has it.
    known = [each.image for each in images if each.state is not State.DOUBTFUL]
    if known:
        found.setdefault(max(known), "the next night builds on it")
    if good:
        found.setdefault(max(each.image for each in good), "the next night may build on it")
    return found


def _verdict(
    image: Candidate,
    places: dict[str, str],
    guards: dict[str, str],
    terms: Terms,
    others: Sequence[datetime | None],
) -> Verdict:
    reasons = [each[image.image] for each in (places, guards) if image.image in each]
    if reasons:
        return Verdict(image.image, True, "; ".join(reasons))
    if image.state is State.DOUBTFUL:
        return Verdict(image.image, True, "it cannot be judged; `refloat prune --drop` takes it away")
    have = 1 + sum(1 for newest in others if newest is not None and newest > image.received)
    need = min(terms.copies, 1 + len(others))
    if have < need:
        return Verdict(image.image, True, f"only {have} of {need} sites have a newer good one")
    why = "damaged; a good one has its place" if image.state is State.DAMAGED else "no period needs it"
    return Verdict(image.image, False, why)


def _places(images: Sequence[Candidate], terms: Terms, now: datetime) -> dict[str, str]:
    """Image → the period it stays for, the longest first."""
    known = [each for each in images if each.state is not State.DOUBTFUL and each.received <= now]
    found: dict[str, str] = {}
    for name, count, period in (
        ("yearly", terms.yearly, _year),
        ("monthly", terms.monthly, _month),
        ("daily", terms.daily, _day),
    ):
        last = _last_of_each(known, period)
        if name != "daily":  # a month has its last day only when it is over
            last.pop(period(now), None)
        for when in sorted(last)[len(last) - min(count, len(last)) :]:
            found.setdefault(last[when].image, f"{name} ({when})")
    return found


def _last_of_each(images: Iterable[Candidate], period: Callable[[datetime], str]) -> dict[str, Candidate]:
    """Per period the last good image, or where there is none the last of all."""
    found: dict[str, Candidate] = {}
    for each in sorted(images, key=lambda each: (each.state is State.GOOD, *_age(each))):
        found[period(each.received)] = each
    return found


def _age(image: Candidate) -> tuple[datetime, str]:
    return image.received, image.image


def _day(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d}"


def _month(moment: datetime) -> str:
    return _day(moment)[:7]


def _year(moment: datetime) -> str:
    return _day(moment)[:4]


@dataclass(frozen=True)
class Day:
    """A day of a simulation: what is held after that day's prune, and why."""

    day: date
    kept: dict[date, str]


def simulate(terms: Terms, days: int, first: date) -> list[Day]:
    """An image a night at 02:00 for `days` days from `first`, pruned every day; what is held after each."""
    held: list[Candidate] = []
    found = []
    for number in range(days):
        day = first + timedelta(days=number)
        taken = datetime(day.year, day.month, day.day, 2, tzinfo=UTC)
        held.append(Candidate(f"{taken:%Y%m%dT%H%M%SZ}", taken))
        verdicts = {each.image: each for each in decide(held, terms, taken + timedelta(hours=1), [taken] * 16)}
        held = [each for each in held if verdicts[each.image].stays]
        found.append(Day(day, {each.received.date(): verdicts[each.image].reason for each in held}))
    return found
