"""Sealing: what we write is age, what we read is bounded, and any damage is found."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pyrage
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.seal import WORK, WORK_MAX, armor, dearmor, seal, unseal
from core.errors import FormatError, KeyMissingError, RefloatError, VersionError

SEALED = seal(b"hello", "correct horse", work=2)
TEXT = armor(SEALED)


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 200_000])
def test_another_implementation_opens_it(size: int) -> None:
    """pyrage is the Rust age: header, MAC, and the chunks with their last flag are as the format says."""
    plain = bytes(range(256)) * (size // 256) + bytes(size % 256)
    sealed = seal(plain, "pässwörd", work=2)
    assert pyrage.passphrase.decrypt(sealed, "pässwörd") == plain == unseal(sealed, "pässwörd")


def _on_a_terminal(command: str, typed: bytes) -> bytes:
    """`age` asks a terminal for the passphrase: script(1) gives it one."""
    argv = ["script", "-qec", command, "/dev/null"]
    return subprocess.run(argv, input=typed, capture_output=True, check=True, timeout=60).stdout


@pytest.mark.block
def test_stock_age_opens_ours(tmp_path: Path) -> None:
    (tmp_path / "a.age").write_bytes(seal(b"hello from age\n", "correct horse", work=10))
    assert b"hello from age" in _on_a_terminal(f"age -d {tmp_path}/a.age", b"correct horse\n")


@pytest.mark.block
def test_we_open_stock_ages(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"hello to refloat")
    _on_a_terminal(f"age -p -o {tmp_path}/a.age {tmp_path}/plain", b"correct horse\ncorrect horse\n")
    assert unseal((tmp_path / "a.age").read_bytes(), "correct horse") == b"hello to refloat"


def test_the_work_is_ages_own() -> None:
    assert f" {WORK}\n".encode() in seal(b"", "x", work=WORK).split(b"---")[0]
    assert WORK == 18


def test_wrong_passphrase() -> None:
    with pytest.raises(KeyMissingError, match="does not open"):
        unseal(SEALED, "correct horse ")


def test_a_passphrase_in_any_composition(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ä` is one character from a keyboard here and two there; what other programs sealed is opened as it was."""
    one, two = "p\u00e4ssw\u00f6rd", "pa\u0308sswo\u0308rd"
    mixed = "p\u00e4sswo\u0308rd"
    sealed = seal(b"x", two, work=2)
    assert {unseal(sealed, each) for each in (one, two, mixed)} == {b"x"}
    assert pyrage.passphrase.decrypt(sealed, one) == b"x"
    assert pyrage.passphrase.decrypt(seal(b"x", mixed, work=2), one) == b"x"
    with pytest.raises(KeyMissingError):
        unseal(sealed, "password")
    with monkeypatch.context() as patched:
        patched.setattr("appliance.seal.normal", lambda text: text)
        decomposed, odd = seal(b"y", two, work=2), seal(b"z", mixed, work=2)
    assert unseal(decomposed, one) == b"y" and unseal(odd, mixed) == b"z"


def test_work_that_would_eat_the_memory_is_refused_before_any_is_done() -> None:
    for work in (WORK_MAX + 1, 64, 99):
        with pytest.raises(FormatError, match=rf"2\^{work} KiB"):
            unseal(SEALED.replace(b" 2\n", f" {work}\n".encode(), 1), "correct horse")


def test_armor_stands_pasting() -> None:
    pasted = "\r\n\n".join(f"  {line}\t" for line in TEXT.splitlines()) + "\r\n"
    assert dearmor(pasted) == SEALED


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a recovery kit"),
        ("hello", "not a recovery kit"),
        (TEXT.replace("KIT 1", "KIT"), "not a recovery kit"),
        (TEXT.rsplit("\n", 2)[0], "cut off"),
        (TEXT.replace("\n", "\n!\n", 1), "line 2 of the recovery kit is damaged"),
        ("\n".join(TEXT.splitlines()[:1] + TEXT.splitlines()[2:]), "damaged"),
        ("\n".join([TEXT.splitlines()[0], *reversed(TEXT.splitlines()[1:-1]), TEXT.splitlines()[-1]]), "damaged"),
        (TEXT + "x", "cut off"),
        ("x" * ((1 << 20) + 1), "larger than"),
        ("-----BEGIN REFLOAT KIT 1-----\n-----END REFLOAT KIT 00000000-----", "damaged"),
    ],
)
def test_damaged_text(text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        dearmor(text)


def test_later_version() -> None:
    with pytest.raises(VersionError, match="version 2"):
        dearmor(TEXT.replace("KIT 1", "KIT 2", 1))


@given(st.integers(0, len(TEXT) - 1), st.integers(0, 7))
def test_every_flipped_bit_of_the_text_is_found(place: int, bit: int) -> None:
    """Found by the form, by the check on the last line, or by age; never opened as something else."""
    data = bytearray(TEXT.encode())
    data[place] ^= 1 << bit
    try:
        assert dearmor(data.decode("utf-8", "replace")) == SEALED  # a newline that became another white space
    except (FormatError, VersionError):
        pass


@given(st.integers(0, len(SEALED) * 8 - 1))
def test_every_flipped_bit_of_the_sealed_bytes_is_found(place: int) -> None:
    data = bytearray(SEALED)
    data[place // 8] ^= 1 << place % 8
    with pytest.raises((FormatError, KeyMissingError)):
        unseal(bytes(data), "correct horse")


@given(st.integers(0, len(SEALED) - 1))
def test_a_cut_is_found(length: int) -> None:
    with pytest.raises((FormatError, KeyMissingError)):
        unseal(SEALED[:length], "correct horse")


@given(st.text(max_size=300) | st.lists(st.sampled_from(TEXT.splitlines()), max_size=8).map("\n".join))
def test_any_text_gives_bytes_or_our_error(text: str) -> None:
    try:
        dearmor(text)
    except RefloatError:
        pass


@given(st.binary(max_size=300) | st.binary(max_size=60).map(lambda tail: SEALED[:60] + tail))
def test_any_bytes_give_our_error(data: bytes) -> None:
    with pytest.raises(RefloatError):
        unseal(data, "x")
