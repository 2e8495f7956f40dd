"""The policy against a slow, literal reading of the promise, and what must hold whatever comes."""

from __future__ import annotations

import calendar
from datetime import UTC, date, datetime, timedelta

from hypothesis import assume, example, given
from hypothesis import strategies as st

from appliance.retention.policy import Candidate, State, Terms, decide, simulate

FAR = [datetime(2999, 1, 1, tzinfo=UTC)] * 8
moments = st.datetimes(datetime(2023, 1, 1), datetime(2029, 1, 1)).map(lambda each: each.replace(tzinfo=UTC))
terms = st.builds(
    Terms, daily=st.integers(1, 14), monthly=st.integers(0, 5), yearly=st.integers(0, 3), minimum=st.integers(1, 4)
)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Candidate], datetime]:
    """Nights with gaps, several a day, damaged ones, and a server clock that names them as it likes; `now` after."""
    at = draw(moments)
    steps = draw(st.lists(st.sampled_from([1, 5, 20, 24, 24, 24, 24, 48, 400, 900, 9000]), max_size=60))
    names = draw(st.permutations(range(len(steps))) if draw(st.booleans()) else st.just(range(len(steps))))
    found = []
    for step, name in zip(steps, names, strict=True):
        at += timedelta(hours=step)
        state = draw(st.sampled_from([State.GOOD] * 6 + [State.DAMAGED, State.DOUBTFUL]))
        found.append(Candidate(f"2030{1 + name // 28:02}{1 + name % 28:02}T000000Z", at, state))
    return found, at + timedelta(hours=draw(st.sampled_from([0, 1, 30, 800])))


def literal(images: list[Candidate], policy: Terms, now: datetime) -> set[str]:
    """Day by day back from today; month by month, within each from its last day back; year by year likewise."""
    known = [each for each in images if each.state is not State.DOUBTFUL and each.received <= now]
    kept: set[str] = set()
    if not known:
        return kept
    oldest = min(each.received for each in known).date()

    def best(some: list[Candidate]) -> Candidate | None:
        good = [each for each in some if each.state is State.GOOD]
        return max(good or some, key=lambda each: (each.received, each.image), default=None)

    def between(first: date, last: date) -> Candidate | None:
        return best([each for each in known if first <= each.received.date() <= last])

    day, left = now.date(), policy.daily
    while left and day >= oldest:
        if found := between(day, day):
            kept.add(found.image)
            left -= 1
        day -= timedelta(days=1)
    year, month, left = now.year, now.month, policy.monthly
    while left and (year, month) >= (oldest.year, oldest.month):
        year, month = (year, month - 1) if month > 1 else (year - 1, 12)
        if found := between(date(year, month, 1), date(year, month, calendar.monthrange(year, month)[1])):
            kept.add(found.image)
            left -= 1
    year, left = now.year - 1, policy.yearly
    while left and year >= oldest.year:
        if found := between(date(year, 1, 1), date(year, 12, 31)):
            kept.add(found.image)
            left -= 1
        year -= 1
    return kept


@given(histories(), terms)
def test_as_the_promise_reads(history: tuple[list[Candidate], datetime], policy: Terms) -> None:
    images, now = history
    stays = {each.image for each in decide(images, policy, now, FAR) if each.stays}
    good = sorted((each for each in images if each.state is State.GOOD), key=lambda each: (each.received, each.image))
    wanted = literal(images, policy, now) | {each.image for each in good[-policy.minimum :]}
    wanted |= {each.image for each in images if each.state is State.DOUBTFUL}
    wanted |= {max(some) for some in ([i.image for i in images if i.state is not State.DOUBTFUL],) if some}
    wanted |= {max(each.image for each in good)} if good else set()
    assert stays == wanted


@given(histories(), terms)
def test_every_month_end_that_was_promised_is_there(history: tuple[list[Candidate], datetime], policy: Terms) -> None:
    """The promise word for word: of each of the past months the night of its last day, or the last taken before it."""
    images, now = history
    images = [each for each in images if each.state is State.GOOD]
    stays = {each.image for each in decide(images, policy, now, FAR) if each.stays}
    end = now.date().replace(day=1)
    for _ in range(policy.monthly):
        before = [each for each in images if each.received.date() < end]
        if before:
            assert max(before, key=lambda each: each.received).image in stays
        end = (end - timedelta(days=1)).replace(day=1)
    assume(policy.yearly)
    before = [each for each in images if each.received.year < now.year]
    if before:
        assert max(before, key=lambda each: each.received).image in stays


@given(histories(), terms, st.lists(st.none() | moments, max_size=3), st.data())
def test_what_never_goes(
    history: tuple[list[Candidate], datetime], policy: Terms, others: list[datetime | None], data: st.DataObject
) -> None:
    """Pins, leases, what comes from the future; and where other sites have nothing newer, nothing goes at all."""
    images, now = history
    marked = [
        Candidate(
            each.image,
            each.received + timedelta(days=data.draw(st.sampled_from([0, 0, 0, 4000]))),
            each.state,
            data.draw(st.booleans()),
            data.draw(st.sampled_from([None, now, now + timedelta(seconds=1)])),
        )
        for each in images
    ]
    verdicts = {each.image: each for each in decide(marked, policy, now, others)}
    for each in marked:
        newer = sum(1 for other in others if other is not None and other > each.received)
        if each.pinned or each.received > now or each.leased_until == now + timedelta(seconds=1):
            assert verdicts[each.image].stays
        if others and not newer and policy.copies > 1:
            assert verdicts[each.image].stays
        assert verdicts[each.image].reason


@given(histories(), terms, st.integers(0, 4000))
def test_time_alone_takes_no_day_away(history: tuple[list[Candidate], datetime], policy: Terms, days: int) -> None:
    """A server that is away, or a site clock that jumps, loses none of the days; monthlies only gain."""
    images, now = history
    before = {each.image for each in decide(images, policy, now, FAR) if each.stays and "daily" in each.reason}
    after = {each.image for each in decide(images, policy, now + timedelta(days=days), FAR) if each.stays}
    assert before <= after


@given(histories(), terms)
def test_server_times_have_no_say(history: tuple[list[Candidate], datetime], policy: Terms) -> None:
    """Names are the server's; only the one it calls newest is spared for its name."""
    images, now = history
    images = [each for each in images if each.state is State.GOOD]
    renamed = [Candidate(f"20200101T{number:06}Z", each.received) for number, each in enumerate(images)]
    stays = {each.image for each in decide(images, policy, now, FAR) if each.stays}
    other = {each.image for each in decide(renamed, policy, now, FAR) if each.stays}
    assume(len({each.received for each in images}) == len(images))
    by_name = {old.image: new.image for old, new in zip(images, renamed, strict=True)}
    newest = max((each.image for each in images), default="")
    assert {by_name[each] for each in stays if each != newest} == other - {by_name.get(newest, "")}


@given(st.dates(date(2023, 1, 1), date(2026, 1, 1)))
@example(date(2024, 2, 28))
def test_a_simulated_year_and_more(first: date) -> None:
    """After 800 nights without a gap: 12 days, 3 month ends, 1 year end; never more than 16."""
    days = simulate(Terms(), 800, first)
    assert max(len(each.kept) for each in days) <= 16
    last = days[-1]
    assert {last.day - timedelta(days=number) for number in range(12)} <= last.kept.keys()
    end = last.day
    for _ in range(3):
        end = end.replace(day=1) - timedelta(days=1)
        assert end in last.kept
    assert date(last.day.year - 1, 12, 31) in last.kept
