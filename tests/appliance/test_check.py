"""The promise against configurations: a table of set-ups and what must be said of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from appliance.check import EEA, EU, Status, check_policy, failed, reach_sites
from appliance.config import Config, PolicyConfig, SiteConfig
from core.errors import SiteError
from imager.sites.base import ObjectInfo, Site

TWO = (("a", "DE", "file:///a"), ("b", "FR", "file:///b"))
ACCEPT = {
    "same": PolicyConfig(accept_same_country="x"),
    "outside": PolicyConfig(accept_outside_eu="x"),
    "single": PolicyConfig(accept_single_site="x"),
}


def _config(*sites: tuple[str, str, str], recipients: int = 2, policy: PolicyConfig = PolicyConfig()) -> Config:  # noqa: B008
    return Config(
        server="web1",
        state="/s",
        recipients=tuple(f"age1{number}" for number in range(recipients)),
        sites=tuple(SiteConfig(name=name, country=country, url=url) for name, country, url in sites),
        policy=policy,
    )


def _failures(config: Config) -> list[str]:
    return [each.message for each in check_policy(config) if each.status is Status.FAIL]


def test_two_sites_in_two_countries_pass() -> None:
    assert not failed(check_policy(_config(*TWO)))
    assert not failed(check_policy(_config(("a", "DE", "file:///a"), ("b", "NO", "file:///b"))))
    assert not failed(check_policy(_config(*TWO, ("c", "DE", "file:///c"))))


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ((), "no site is configured"),
        (TWO[:1], "one site is configured"),
        ((("a", "DE", "file:///a"), ("b", "DE", "file:///b")), "all sites are in DE"),
        ((("a", "DE", "file:///a"), ("b", "US", "file:///b")), "US is outside the EU and EEA"),
        ((("a", "DE", "file:///a"), ("b", "GB", "file:///b")), "GB is outside"),
        ((("a", "DE", "file:///a"), ("b", "CH", "file:///b")), "CH is outside"),
        ((("a", "DE", "file:///a"), ("b", "EL", "file:///b")), "EL is outside"),
        ((("a", "DE", "file:///a"), ("b", "FR", "file:///a/b")), "same place, or one holds the other"),
        ((("a", "DE", "file:///a/./b//"), ("b", "FR", "file:///a/b")), "same place, or one holds the other"),
        ((("a", "DE", "file:///a%20b"), ("b", "FR", "file:///a b")), "same place, or one holds the other"),
    ],
)
def test_refused(sites: tuple[tuple[str, str, str], ...], message: str) -> None:
    assert len(found := _failures(_config(*sites))) == 1
    assert message in found[0]


def test_neighbours_are_not_the_same_place() -> None:
    assert not _failures(_config(("a", "DE", "file:///srv/a"), ("b", "FR", "file:///srv/ab")))
    assert not _failures(_config(("a", "DE", "https://de.example/x"), ("b", "FR", "https://fr.example/x")))


@pytest.mark.parametrize(
    ("sites", "right"),
    [
        (TWO[:1], "single"),
        ((("a", "DE", "file:///a"), ("b", "DE", "file:///b")), "same"),
        ((("a", "DE", "file:///a"), ("b", "US", "file:///b")), "outside"),
    ],
)
def test_only_the_right_words_accept(sites: tuple[tuple[str, str, str], ...], right: str) -> None:
    for name, policy in ACCEPT.items():
        findings = check_policy(_config(*sites, policy=policy))
        assert failed(findings) == (name != right)
        if name == right:
            assert any(
                "accepted in the configuration" in each.message and each.status is Status.WARN for each in findings
            )


def test_no_words_accept_having_no_site() -> None:
    everything = PolicyConfig(accept_same_country="x", accept_outside_eu="x", accept_single_site="x")
    assert _failures(_config(policy=everything)) == ["no site is configured; images must go to at least two"]


def test_recipients() -> None:
    assert "no recipients" in _failures(_config(*TWO, recipients=0))[0]
    single = [each for each in check_policy(_config(*TWO, recipients=1)) if each.subject == "recipients"]
    assert single[0].status is Status.WARN and "single recipient" in single[0].message
    assert "kit new" in single[0].hint


def test_what_is_not_protected_is_said() -> None:
    findings = check_policy(_config(("a", "DE", "file:///a"), ("b", "FR", "https://v.example")))
    assert [each.subject for each in findings if "not write-only" in each.message] == ["site a"]
    assert all(each.hint for each in findings if each.status is not Status.OK and "accepted" not in each.message)


def test_the_country_table() -> None:
    assert len(EU) == 27 and len(EEA) == 30
    assert not EEA & {"GB", "CH", "UK", "EL", "US", "ZZ"}


class _Answers:
    """A site that answers its first `list` with this."""

    def __init__(self, name: str, answer: list[ObjectInfo] | SiteError, log: list[str]) -> None:
        self.name, self._answer, self._log = name, answer, log

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        if isinstance(self._answer, SiteError):
            raise self._answer
        return iter(self._answer)

    def place(self) -> str:
        return self.name

    def close(self) -> None:
        self._log.append(self.name)


def test_a_site_that_is_down_is_a_finding_and_the_next_is_still_asked() -> None:
    log: list[str] = []
    answers: dict[str, list[ObjectInfo] | SiteError] = {"a": SiteError("a: is down", hint="wait"), "b": []}

    def opened(name: str) -> Site:
        return _Answers(name, answers[name], log)  # type: ignore[return-value]

    found = reach_sites([(name, partial(opened, name)) for name in "ab"])
    assert [(each.status, each.message, each.hint) for each in found] == [
        (Status.FAIL, "is down", "wait"),
        (Status.OK, "reachable, and empty", ""),
    ]
    assert log == ["a", "b"]
