"""Which new network card takes the place of which old one. Pure; imports `core.layout` and `hardware.machine`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from core.errors import TargetError
from core.layout import Interface
from hardware.machine import Nic


def map_nics(before: Sequence[Interface], now: Sequence[Nic]) -> dict[str, str]:
    """Old hardware address → new one, in lower case. A card that moved along keeps its place; the others are paired
    those with link first, then by same driver, then in order. Cards without a partner are left out."""
    old = [each for each in before if each.mac]
    new = {each.mac.lower(): each for each in now if each.mac}
    found = {each.mac.lower(): each.mac.lower() for each in old if each.mac.lower() in new}
    free = [nic for mac, nic in new.items() if mac not in found]
    rest = {each.mac.lower(): each for each in old if each.mac.lower() not in found}
    for mac, card in sorted(rest.items(), key=lambda pair: not _was_used(pair[1])):
        if not free:
            break
        best = min(
            range(len(free)),
            key=lambda index: (_was_used(card) != bool(free[index].link), free[index].driver != card.driver, index),
        )
        found[mac] = free.pop(best).mac.lower()
    return found


def _was_used(card: Interface) -> bool:
    return bool(card.link) or bool(card.addresses)


def checked_map(wanted: Mapping[str, str], before: Sequence[Interface], now: Sequence[Nic]) -> dict[str, str]:
    """A person's mapping, in lower case. Raises TargetError for an address nobody has, or one new card twice."""
    found = {old.lower(): new.lower() for old, new in wanted.items()}
    here = {nic.mac.lower() for nic in now}
    known = {card.mac.lower() for card in before if card.mac}
    for old, new in found.items():
        if new not in here:
            raise TargetError(
                f"no network card here has the address {new}", hint=f"there are: {', '.join(sorted(here))}"
            )
        if known and old not in known:
            raise TargetError(f"the server had no card {old}", hint=f"it had: {', '.join(sorted(known))}")
    if len(set(found.values())) != len(found):
        raise TargetError("one new network card is to take the place of two")
    return found
