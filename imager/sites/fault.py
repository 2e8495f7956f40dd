"""`Fault`: a site that goes wrong on purpose, by explicit rules or by a seeded draw; used by tests and the soak.

A plain wrapper; lives as long as the site inside. May import core and `imager.sites.base`.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from core.errors import SiteError, SiteFullError
from imager.sites.base import Buffer, ObjectInfo, Site, total_bytes


class What(StrEnum):
    """What goes wrong. FLIP, SHORT and SWAP change what `get` returns and touch no other verb."""

    FAIL = "fail"  # SiteError (transient), nothing done
    LOSE_ANSWER = "lose-answer"  # done, then SiteError (transient)
    SHORT = "short"  # `amount` bytes fewer (at least 1) than asked for
    FLIP = "flip"  # bit number `amount` of the answer, -1: one drawn
    SWAP = "swap"  # the bytes of object `other`
    FULL = "full"  # puts beyond `amount` bytes in all: SiteFullError
    HANG = "hang"  # `seconds` pass first
    VANISH = "vanish"  # this verb and every later one: SiteError (not transient)
    KILL_BEFORE = "kill-before"  # SIGKILL to this process, nothing done
    KILL_AFTER = "kill-after"  # done, then SIGKILL


@dataclass(frozen=True)
class Rule:
    """When `what` happens: at the `nth` call (from 1; 0: at each) of those that match `verb` ("" any) and whose name or
    prefix contains `contains`; and of those, with probability `chance`."""

    what: What
    verb: str = ""
    nth: int = 0
    contains: str = ""
    chance: float = 1.0
    amount: int = -1
    seconds: float = 0.0
    other: str = ""


class Fault:
    """`inner`, with `rules` applied. `calls` records every (verb, name) in order: as many points to kill at.

    The same seed draws the same when the calls come in the same order. `sleep` is injected.
    """

    def __init__(
        self, inner: Site, rules: Sequence[Rule] = (), *, seed: int = 0, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.name = inner.name
        self.calls: list[tuple[str, str]] = []
        self._inner = inner
        self._rules = tuple(rules)
        self._seen = [0] * len(self._rules)
        self._draw = random.Random(seed)  # noqa: S311 - reproducible faults, no secret
        self._sleep = sleep
        self._lock = threading.Lock()
        self._gone = False
        self._put_bytes = 0

    def put(self, name: str, body: Sequence[Buffer]) -> None:
        """Site.put with the faults due."""
        due = self._begin("put", name, total_bytes(body))
        self._inner.put(name, body)
        self._end(due, name)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Site.get with the faults due; breaks the contract as SHORT, FLIP and SWAP say."""
        due = self._begin("get", name)
        swap = next((rule.other for rule in due if rule.what is What.SWAP), name)
        data = self._inner.get(swap, offset, length)
        for rule in due:
            data = self._spoil(rule, data)
        self._end(due, name)
        return data

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Site.list; faults come when it is called, LOSE_ANSWER and KILL_AFTER when its last name was given."""
        due = self._begin("list", prefix)
        return self._listed(due, prefix)

    def stat(self, name: str) -> ObjectInfo:
        """Site.stat with the faults due."""
        due = self._begin("stat", name)
        info = self._inner.stat(name)
        self._end(due, name)
        return info

    def delete(self, name: str) -> None:
        """Site.delete with the faults due."""
        due = self._begin("delete", name)
        self._inner.delete(name)
        self._end(due, name)

    def place(self) -> str:
        """See Site.place."""
        return self._inner.place()

    def close(self) -> None:
        """Close the site inside."""
        self._inner.close()

    def _listed(self, due: Sequence[Rule], prefix: str) -> Iterator[ObjectInfo]:
        yield from self._inner.list(prefix)
        self._end(due, prefix)

    def _begin(self, verb: str, name: str, size_bytes: int = 0) -> Sequence[Rule]:
        """Count the call, do what is due before the verb, and return the rules that are due."""
        with self._lock:
            self.calls.append((verb, name))
            due = [rule for index, rule in enumerate(self._rules) if self._is_due(index, verb, name)]
            self._gone = self._gone or any(rule.what is What.VANISH for rule in due)
            self._put_bytes += size_bytes
        if self._gone:
            raise SiteError(f"{self.name} has vanished", site=self.name, name=name, transient=False)
        for rule in due:
            if rule.what is What.KILL_BEFORE:
                os.kill(os.getpid(), signal.SIGKILL)
            elif rule.what is What.HANG:
                self._sleep(rule.seconds)
            elif rule.what is What.FAIL:
                raise SiteError(f"{self.name} failed", site=self.name, name=name)
            elif rule.what is What.FULL and verb == "put" and self._put_bytes > rule.amount:
                raise SiteFullError(f"{self.name} has no room for {name}", site=self.name, name=name)
        return due

    def _is_due(self, index: int, verb: str, name: str) -> bool:
        rule = self._rules[index]
        if rule.verb not in ("", verb) or rule.contains not in name:
            return False
        self._seen[index] += 1
        return rule.nth in (0, self._seen[index]) and (rule.chance >= 1.0 or self._draw.random() < rule.chance)

    def _end(self, due: Sequence[Rule], name: str) -> None:
        for rule in due:
            if rule.what is What.KILL_AFTER:
                os.kill(os.getpid(), signal.SIGKILL)
            elif rule.what is What.LOSE_ANSWER:
                raise SiteError(f"{self.name} did not answer", site=self.name, name=name)

    def _spoil(self, rule: Rule, data: bytes) -> bytes:
        if rule.what is What.SHORT:
            return data[: -max(1, rule.amount)]
        if rule.what is What.FLIP and data:
            with self._lock:
                bit = rule.amount if rule.amount >= 0 else self._draw.randrange(8 * len(data))
            spoilt = bytearray(data)
            spoilt[bit // 8 % len(data)] ^= 1 << bit % 8
            return bytes(spoilt)
        return data
