"""Retry, Throttle and Fault: what they do beyond passing the suite."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from core.errors import CorruptError, ObjectExistsError, ObjectMissingError, SiteError, SiteFullError
from imager.sites.base import ObjectInfo, Site
from imager.sites.fault import Fault, Rule, What
from imager.sites.memory import MemorySite
from imager.sites.wrap import Retry, Throttle


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def filled() -> MemorySite:
    site = MemorySite("de")
    for number in range(5):
        site.put(f"a/{number}", [bytes([number]) * 100])
    return site


def retried(*rules: Rule, attempts: int = 4, jitter: float = 1.0) -> tuple[Retry, Fault, Clock]:
    clock, fault = Clock(), Fault(filled(), rules)
    return Retry(fault, attempts=attempts, sleep=clock.sleep, jitter=lambda: jitter), fault, clock


def verbs(site: Site) -> dict[str, Callable[[], object]]:
    return {
        "put": lambda: site.put("b", [b"1"]),
        "get": lambda: site.get("a/1"),
        "list": lambda: list(site.list()),
        "stat": lambda: site.stat("a/1"),
        "delete": lambda: site.delete("a/1"),
    }


# --- Retry


@pytest.mark.parametrize("verb", ["put", "get", "list", "stat", "delete"])
@pytest.mark.parametrize("what", [What.FAIL, What.LOSE_ANSWER])
def test_a_passing_failure_is_not_noticed(verb: str, what: What) -> None:
    site, fault, clock = retried(Rule(what, nth=1))
    calm = verbs(filled())[verb]()
    found = verbs(site)[verb]()
    assert str(found).split("received")[0] == str(calm).split("received")[0]
    assert len(clock.slept) == 1
    assert [each for each, _ in fault.calls].count(verb) == 2


@pytest.mark.parametrize("verb", ["put", "get", "list", "stat", "delete"])
def test_attempts_are_bounded_and_the_last_error_comes_out(verb: str) -> None:
    site, fault, clock = retried(Rule(What.FAIL), attempts=3)
    with pytest.raises(SiteError, match="failed"):
        verbs(site)[verb]()
    assert len(fault.calls) == 3
    assert clock.slept == [0.5, 1.0]


@pytest.mark.parametrize(
    "error", [SiteFullError, ObjectMissingError, ObjectExistsError, CorruptError, "final"], ids=str
)
def test_what_will_not_pass_is_raised_at_once(error: type[SiteError] | str) -> None:
    site, fault, clock = retried(
        Rule(What.FULL, "put", contains="full", amount=0),
        Rule(What.VANISH, "stat"),
    )
    attempt: dict[object, Callable[[], object]] = {
        SiteFullError: lambda: site.put("full", [b"1"]),
        ObjectMissingError: lambda: site.get("none"),
        ObjectExistsError: lambda: site.put("a/1", [b"1"]),
        CorruptError: lambda: site.get("a/1", 0, 1000),
        "final": lambda: site.stat("a/1"),
    }
    with pytest.raises(SiteError if isinstance(error, str) else error):
        attempt[error]()
    assert clock.slept == []
    assert len(fault.calls) == 1


def test_waits_double_up_to_a_cap_and_are_jittered() -> None:
    clock = Clock()
    site = Retry(
        Fault(filled(), [Rule(What.FAIL)]),
        attempts=7,
        base_seconds=1,
        cap_seconds=5,
        sleep=clock.sleep,
        jitter=lambda: 1,
    )
    with pytest.raises(SiteError):
        site.get("a/1")
    assert clock.slept == [1, 2, 4, 5, 5, 5]
    halved, _, clock = retried(Rule(What.FAIL), jitter=0.5)
    with pytest.raises(SiteError):
        halved.get("a/1")
    assert clock.slept == [0.25, 0.5, 1.0]


def test_real_jitter_differs() -> None:
    slept: list[float] = []
    site = Retry(Fault(filled(), [Rule(What.FAIL)]), attempts=10, base_seconds=1, cap_seconds=1, sleep=slept.append)
    with pytest.raises(SiteError):
        site.get("a/1")
    assert len(set(slept)) > 1
    assert all(0 <= wait <= 1 for wait in slept)


def test_a_put_whose_answer_was_lost_succeeds_if_it_is_ours() -> None:
    site, fault, _ = retried(Rule(What.LOSE_ANSWER, "put", nth=1))
    site.put("big", [b"x" * 5_000_000, b"y" * 5_000_000])
    assert fault.get("big") == b"x" * 5_000_000 + b"y" * 5_000_000
    pieces = [name for verb, name in fault.calls if verb == "get"]
    assert len(pieces) > 2  # read back by pieces, not whole


@pytest.mark.parametrize("theirs", [b"1234", b"12", b"124", b""])
def test_a_put_that_lost_the_name_to_another_fails(theirs: bytes) -> None:
    """The first attempt did nothing, and before the second another writer took the name."""
    inner = MemorySite("de")
    fault = Fault(inner, [Rule(What.FAIL, "put", nth=1)])
    site = Retry(fault, sleep=lambda _: inner.put("a", [theirs]))
    with pytest.raises(ObjectExistsError):
        site.put("a", [b"123"])
    assert inner.get("a") == theirs


def test_a_first_put_of_a_taken_name_fails_even_if_equal() -> None:
    site, fault, _ = retried()
    with pytest.raises(ObjectExistsError):
        site.put("a/1", [bytes([1]) * 100])
    assert fault.calls == [("put", "a/1")]


def test_comparing_what_is_there_is_retried_too() -> None:
    site, fault, clock = retried(
        Rule(What.LOSE_ANSWER, "put", nth=1), Rule(What.FAIL, "stat", nth=1), Rule(What.FAIL, "get", nth=1)
    )
    site.put("b", [b"1"])
    assert len(clock.slept) == 3
    assert fault.get("b") == b"1"


class Breaking(MemorySite):
    """A list that breaks after every second name."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        for count, info in enumerate(super().list(prefix)):
            if count == self.patience:
                self.patience += 2
                raise SiteError("broke", site=self.name, name=prefix)
            yield info

    patience = 0


def test_a_list_that_breaks_goes_on_after_the_last_name() -> None:
    inner = Breaking("de")
    for number in range(9):
        inner.put(f"a/{number}", [])
    found = [info.name for info in Retry(inner, attempts=2, sleep=lambda _: None).list()]
    assert found == [f"a/{number}" for number in range(9)]


def test_a_first_delete_of_nothing_is_missing() -> None:
    site, _, clock = retried()
    with pytest.raises(ObjectMissingError):
        site.delete("none")
    assert clock.slept == []


# --- Throttle


def test_bytes_are_held_to_the_rate() -> None:
    clock = Clock()
    site = Throttle(MemorySite("de"), 1000, burst_bytes=500, clock=clock, sleep=clock.sleep)
    start = clock.now
    for number in range(20):
        site.put(f"a/{number}", [bytes(150), bytes(100)])
    assert clock.now - start == pytest.approx((20 * 250 - 500) / 1000)
    for number in range(20):
        site.get(f"a/{number}", 0, 50)
    assert clock.now - start == pytest.approx((20 * 250 + 20 * 50 - 500) / 1000)
    assert len(list(site.list())) == 20
    assert clock.now - start == pytest.approx((20 * 250 + 20 * 50 - 500) / 1000)


def test_a_rest_fills_the_bucket_and_no_more() -> None:
    clock = Clock()
    site = Throttle(MemorySite("de"), 1000, burst_bytes=500, clock=clock, sleep=clock.sleep)
    site.put("a", [bytes(500)])
    assert clock.slept == []
    clock.now += 3600
    site.put("b", [bytes(1500)])
    assert clock.slept == [pytest.approx(1.0)]


def test_threads_share_one_bucket() -> None:
    clock = Clock()
    lock = threading.Lock()
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        with lock:
            waits.append(seconds)

    site = Throttle(MemorySite("de"), 1000, burst_bytes=100, clock=clock, sleep=sleep)
    threads = [threading.Thread(target=site.put, args=(f"a/{number}", [bytes(100)])) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(waits) == pytest.approx([number / 10 for number in range(1, 8)])  # the clock stood still


@pytest.mark.parametrize("rate", [0, -1])
def test_a_rate_of_nothing_is_a_bug(rate: float) -> None:
    with pytest.raises(ValueError, match="bytes_per_second"):
        Throttle(MemorySite("de"), rate)


# --- Fault


def test_the_nth_matching_call_fails_and_no_other() -> None:
    site = Fault(filled(), [Rule(What.FAIL, "get", nth=2, contains="/3")])
    site.get("a/3")
    site.get("a/1")
    site.stat("a/3")
    with pytest.raises(SiteError):
        site.get("a/3")
    assert site.get("a/3") == bytes([3]) * 100
    assert site.calls == [("get", "a/3"), ("get", "a/1"), ("stat", "a/3"), ("get", "a/3"), ("get", "a/3")]


def test_fail_does_nothing_and_lose_answer_does_it() -> None:
    site = Fault(MemorySite("de"), [Rule(What.FAIL, "put", nth=1), Rule(What.LOSE_ANSWER, "put", nth=2)])
    for there in (False, True):
        with pytest.raises(SiteError):
            site.put("a", [b"1"])
        assert bool(list(site.list())) is there


@pytest.mark.parametrize(("amount", "left"), [(-1, 99), (1, 99), (60, 40), (1000, 0)])
def test_short_reads(amount: int, left: int) -> None:
    assert Fault(filled(), [Rule(What.SHORT, amount=amount)]).get("a/1") == bytes([1]) * left


def test_flips_one_bit_where_told_or_drawn() -> None:
    told = Fault(filled(), [Rule(What.FLIP, amount=8 * 7 + 2)]).get("a/1")
    assert told == bytes([1]) * 7 + bytes([5]) + bytes([1]) * 92
    drawn = [Fault(filled(), [Rule(What.FLIP)], seed=seed).get("a/1") for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    for data in drawn:
        flipped = int.from_bytes(data, "big") ^ int.from_bytes(bytes([1]) * 100, "big")
        assert flipped.bit_count() == 1


def test_swaps_in_another_object() -> None:
    site = Fault(filled(), [Rule(What.SWAP, "get", contains="a/1", other="a/4")])
    assert site.get("a/1", 10, 5) == bytes([4]) * 5
    assert site.get("a/2", 10, 5) == bytes([2]) * 5


def test_full_after_so_many_bytes() -> None:
    site = Fault(MemorySite("de"), [Rule(What.FULL, amount=10)])
    site.put("a", [bytes(6)])
    site.put("b", [bytes(4)])
    with pytest.raises(SiteFullError):
        site.put("c", [bytes(1)])
    assert [info.name for info in site.list()] == ["a", "b"]


def test_hangs_for_a_while() -> None:
    clock = Clock()
    site = Fault(filled(), [Rule(What.HANG, "get", nth=1, seconds=60)], sleep=clock.sleep)
    assert site.get("a/1") == site.get("a/1") == bytes([1]) * 100
    assert clock.slept == [60]


def test_vanishes_for_good() -> None:
    site = Fault(filled(), [Rule(What.VANISH, "get", nth=2)])
    site.get("a/1")
    for verb in ("get", *verbs(site)):
        with pytest.raises(SiteError) as caught:
            verbs(site)[verb]()
        assert caught.value.fields["transient"] is False


def test_chance_is_seeded() -> None:
    def outcome(seed: int) -> list[bool]:
        site = Fault(filled(), [Rule(What.FAIL, chance=0.3)], seed=seed)
        failed = []
        for _ in range(200):
            try:
                site.stat("a/1")
                failed.append(False)
            except SiteError:
                failed.append(True)
        return failed

    assert outcome(1) == outcome(1) != outcome(2)
    assert 30 < sum(outcome(1)) < 90


def test_wrappers_close_what_they_wrap() -> None:
    closed: list[str] = []

    class Closing(MemorySite):
        def close(self) -> None:
            closed.append(self.name)

    Retry(Throttle(Fault(Closing("de")), 1)).close()
    assert closed == ["de"]
