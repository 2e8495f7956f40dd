"""What the watch makes of what device-mapper says: extend in time, give up in time, never too late."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from core.errors import SourceError
from core.run import Result, SystemRunner
from imager.hold.lvm import Snapshot
from imager.hold.watch import Watch

IMAGE = "20260302T020000Z"
THICK = Snapshot("vg0", f"root.refloat-{IMAGE}", "u1", "root", "o1", 64 << 20)
THIN = Snapshot("vg0", f"root.refloat-{IMAGE}", "u1", "root", "o1", 1 << 30, "pool", "p1", 4)
_NODE = f"vg0-root.refloat--{IMAGE}"
_GROUPS = '{{"report":[{{"vg":[{{"vg_name":"vg0","vg_free":"{}","vg_extent_size":"4194304"}}]}}]}}'
MIB = 1 << 20


class Machine(SystemRunner):
    """Answers as the tools do: the statuses in their order, the last one again and again; keeps what was asked for."""

    def __init__(self, statuses: Sequence[str], free_mib: int = 0) -> None:
        self._statuses, self._free, self.extended = list(statuses), free_mib * MIB, list[str]()

    def run(
        self,
        argv: Sequence[str],
        *,
        purpose: str,
        ok: Sequence[int] = (0,),
        timeout: float = 120,
        stdin: bytes | None = None,
    ) -> Result:
        text = ""
        if argv[0] == "dmsetup":
            text = self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]
        elif argv[0] == "vgs":
            text = _GROUPS.format(self._free)
        else:
            self.extended.append(argv[2])
        return Result(tuple(argv), 0, text.encode(), b"")


def _thick(used: int | str) -> str:
    return f"{_NODE}: 0 5324800 snapshot {used if isinstance(used, str) else f'{used}/1000 16'}\n"


def _pool(used: int, mode: str = "rw") -> str:
    return f"0 6291456 thin-pool 7 100/2048 {used}/1000 - {mode} discard_passdown queue_if_no_space - 1024\n"


def _looks(snapshot: Snapshot, machine: Machine, count: int) -> None:
    watch = Watch([snapshot], {snapshot.name: 1 << 30}, machine)
    for _ in range(count):
        watch.check(last=True)


def test_a_quiet_one_is_left_alone() -> None:
    machine = Machine([_thick(100), _thick(110)], free_mib=1000)
    _looks(THICK, machine, 3)
    assert machine.extended == []


def test_one_that_fills_is_extended_before_it_is_full() -> None:
    machine = Machine([_thick(100), _thick(500)], free_mib=1000)  # in two looks it would be full
    _looks(THICK, machine, 2)
    assert machine.extended == [f"+{4 * MIB}b"]  # an extent, the least that can be


@pytest.mark.parametrize(("status", "why"), [(_thick("Invalid"), "Invalid"), ("", "gone"), (_thick(980), "is full")])
def test_one_that_overflowed_is_gone_or_is_full_ends_the_run(status: str, why: str) -> None:
    with pytest.raises(SourceError, match=why) as caught:
        _looks(THICK, Machine([_thick(100), status]), 2)
    assert "nothing was committed" in (caught.value.hint or "")


def test_a_pool_ends_the_run_before_it_is_full() -> None:
    _looks(THIN, Machine([_pool(900), _pool(920), _pool(940)]), 3)
    with pytest.raises(SourceError, match="about to be full: data 94%"):
        _looks(THIN, Machine([_pool(900), _pool(940)]), 2)  # as fast as that, it is full two looks from now


def test_a_pool_that_takes_no_writes_ends_the_run() -> None:
    with pytest.raises(SourceError, match="out_of_data_space"):
        _looks(THIN, Machine([_pool(500, "out_of_data_space")]), 1)
