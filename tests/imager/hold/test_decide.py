"""How volumes are held, and how a group's room is shared out: decisions over values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import SourceError
from core.layout import Content, Crypt, LvKind, VolumeRole, VolumeSpec
from imager.hold.decide import Facts, How, Lv, decide, frozen_together, share_out

MIB = 1 << 20


def _spec(name: str, kind: str, role: VolumeRole = VolumeRole.DEVICE) -> VolumeSpec:
    return VolumeSpec(
        name=name, key=name, disk=name, role=role, offset_bytes=0, size_bytes=MIB, content=Content(type=kind)
    )


def _lv(name: str, kind: LvKind = LvKind.LINEAR) -> Lv:
    return Lv("vg0", name, f"vg0-{name}", f"uuid-{name}", kind, 100 * MIB, "pool" if kind is LvKind.THIN else "")


def _facts(
    kind: str = "ext4", *, at: str = "", lv: Lv | None = None, busy: str = "", writable: bool = True,
    role: VolumeRole = VolumeRole.DEVICE, crypt: Crypt | None = None,
) -> Facts:  # fmt: skip
    mounts = (at,) if at else ()
    return Facts(_spec("v", kind, role), "/dev/v", 0, mounts, writable and bool(at), busy, lv, crypt)


def _safe(where: str) -> bool:
    return where not in ("/", "/var")


CRYPT = Crypt(name="v", node="vg0-secret", uuid="u", version=2, header_bytes=16 * MIB, size_bytes=MIB)


@pytest.mark.parametrize(
    ("facts", "how", "freeze"),
    [
        (_facts(), How.OFFLINE, ""),
        (_facts(at="/srv"), How.FROZEN, "/srv"),
        (_facts(at="/srv", writable=False), How.OFFLINE, ""),
        (_facts("vfat", at="/boot/efi"), How.AGREED, ""),
        (_facts(at="/", lv=_lv("root")), How.THICK, ""),
        (_facts(at="/srv", lv=_lv("srv")), How.THICK, "/srv"),
        (_facts("vfat", at="/srv", lv=_lv("srv")), How.THICK, ""),
        (_facts(lv=_lv("spare")), How.OFFLINE, ""),
        (_facts(lv=_lv("disk"), busy="a machine has it open"), How.THICK, ""),
        (_facts(lv=_lv("spare", LvKind.THIN)), How.THIN, ""),
        (_facts(at="/srv", lv=_lv("srv", LvKind.THIN)), How.THIN, "/srv"),
        (_facts(at="/srv", lv=_lv("secret"), crypt=CRYPT), How.THICK, "/srv"),
        (_facts(role=VolumeRole.HEAD, busy="it has partitions"), How.OFFLINE, ""),
    ],
)
def test_how_a_volume_is_held(facts: Facts, how: How, freeze: str) -> None:
    for live in (False, True):  # `--live` changes nothing for what can be held
        decision = decide(facts, live=live, safe=_safe)
        assert (decision.how, decision.freeze) == (how, freeze)


@pytest.mark.parametrize(
    "facts",
    [_facts(at="/"), _facts("reiserfs", at="/srv"), _facts(busy="it is part of md0"), _facts(at="/srv", busy="x")],
)
def test_what_cannot_be_held_is_refused_or_live(facts: Facts) -> None:
    with pytest.raises(SourceError) as caught:
        decide(facts, live=False, safe=_safe)
    assert "--live" in str(caught.value.hint)
    assert decide(facts, live=True, safe=_safe).how is How.LIVE


def test_filesystems_are_frozen_together_when_there_is_more_than_one() -> None:
    srv = decide(_facts(at="/srv", lv=_lv("srv")), live=False, safe=_safe)
    root = decide(_facts(at="/", lv=_lv("root")), live=False, safe=_safe)
    boot = decide(_facts(at="/boot"), live=False, safe=_safe)
    secret = decide(_facts(at="/secret", lv=_lv("secret"), crypt=CRYPT), live=False, safe=_safe)
    assert frozen_together([srv, boot]) == []  # LVM does it
    assert frozen_together([root, srv, boot]) == ["/srv"]
    assert frozen_together([secret]) == ["/secret"]  # LVM does not see what is above LUKS


@given(
    st.dictionaries(st.text("abc", min_size=1), st.integers(MIB, 1 << 44), min_size=1, max_size=6),
    st.integers(0, 1 << 44), st.sampled_from([4 * MIB, 32 * MIB]), st.integers(1, 100),
)  # fmt: skip
def test_room_is_shared_out_within_what_there_is(volumes: dict[str, int], free: int, extent: int, share: int) -> None:
    try:
        found = share_out("vg0", free, extent, volumes, share)
    except SourceError:
        least = sum(-(-max(16 * MIB, size // 100) // extent) * extent for size in volumes.values())
        assert least > free * share // 100
        return
    assert found.keys() == volumes.keys()
    assert sum(found.values()) <= free * share // 100
    for name, size in volumes.items():
        assert found[name] % extent == 0 and found[name] >= min(max(16 * MIB, size // 100), size)
        assert found[name] <= size + size // 128 + 2 * extent  # never more than a snapshot can fill
