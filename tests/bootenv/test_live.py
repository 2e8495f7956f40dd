"""What runs at boot, as far as it is decisions: PIN, banner, clock, words from outside, media, advice."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootenv.addresses import Port
from bootenv.live.access import ssh_key
from bootenv.live.advice import find_advice
from bootenv.live.banner import banner
from bootenv.live.clock import Reading, correction
from bootenv.live.gate import LOCK_SECONDS, TRIES, PinGate
from bootenv.live.media import wanted_mounts
from bootenv.live.state import StationState, read_state, write_state
from bootenv.live.words import fw_cfg, fw_cfg_text, kernel_words, words_named
from core.errors import ConfigError


def test_a_pin_admits_once() -> None:
    pins: list[str] = []
    gate = PinGate(pins.append)
    assert gate.admit(f"{pins[0][:4]} {pins[0][4:]}")
    assert len(pins) == 2 and pins[1] != pins[0]
    assert not gate.admit(pins[0]) and gate.admit(pins[1])


def test_guessing_is_stopped() -> None:
    pins: list[str] = []
    now = [0.0]
    gate = PinGate(pins.append, clock=lambda: now[0])
    for _ in range(TRIES):
        assert not gate.admit("wrong")
    assert gate.locked and len(pins) == 2
    assert not gate.admit(pins[-1]), "while locked not even the right one"
    now[0] = LOCK_SECONDS
    assert gate.admit(pins[-1])


def test_the_state_is_for_root_only(tmp_path: Path) -> None:
    path = tmp_path / "run" / "station.json"
    assert read_state(path) is None
    state = StationState(pin="01234567", fingerprint="AB:CD", lines=("one",))
    write_state(state, path)
    assert read_state(path) == state and path.stat().st_mode & 0o777 == 0o600


def test_the_banner_fits_a_screen_and_says_all() -> None:
    fingerprint = ":".join(["AB"] * 32)
    urls = ["https://192.0.2.7/", "https://[2001:db8::7]/"]
    text = banner(StationState(pin="01234567", fingerprint=fingerprint, lines=("order x DONE",)), (), urls, blocks=True)
    joined = text.replace("\n", "").replace(" ", "").replace("(SHA-256)", "")
    assert fingerprint in joined and "0123 4567" in text and all(url in text for url in urls) and "x DONE" in text
    assert max(map(len, text.splitlines())) <= 79 and text.count("\n") <= 40


def test_without_an_address_the_banner_says_what_to_do() -> None:
    ports = (Port("eno1", False, ()), Port("eno2", True, ()))
    text = banner(StationState(pin="01234567", fingerprint="AB:CD"), ports, [], blocks=True)
    assert "eno1: no link" in text and "eno2: link" in text and "https" not in text
    assert "starting" in banner(None, (), [], blocks=True)


@pytest.mark.parametrize(
    ("ahead", "expected"),
    [
        ([], None), ([0.4], None), ([59], None), ([-61], -61), ([3.2e7], 3.2e7),
        ([86400, 86401, -5], 86400), ([-5, 86400], None), ([-1e9], None),
    ],
)  # fmt: skip
def test_the_clock_follows_the_middle_server(ahead: list[float], expected: float | None) -> None:
    now = 1_795_000_000.0  # 2026
    assert correction([Reading(f"http://{n}/", each) for n, each in enumerate(ahead)], now) == expected


def test_a_clock_of_a_dead_battery_is_corrected() -> None:
    assert correction([Reading("http://a/", 1.79e9)], 0.0) == 1.79e9


def test_words_of_the_kernel_line() -> None:
    line = "boot=refloat refloat.url=http://a/ quiet refloat.mount=DE:/mnt/de refloat.mount=FR:/mnt/fr x.refloat.url=no"
    assert kernel_words(line) == {"url": "http://a/", "mount": "FR:/mnt/fr"}
    assert words_named(line, "mount") == ["DE:/mnt/de", "FR:/mnt/fr"]
    assert wanted_mounts(line) == [("DE", Path("/mnt/de")), ("FR", Path("/mnt/fr"))]
    for wrong in ("DE:/etc", "DE:/mnt/../etc", "DE:mnt", ":/mnt/x", "DE"):
        with pytest.raises(ConfigError):
            wanted_mounts(f"refloat.mount={wrong}")


def test_entries_of_the_hypervisor(tmp_path: Path) -> None:
    entry = tmp_path / "opt/org.refloat/passphrase"
    entry.mkdir(parents=True)
    (entry / "raw").write_bytes("correct horse ä\n".encode())
    assert fw_cfg_text("passphrase", tmp_path) == "correct horse ä"
    assert fw_cfg("other", tmp_path) is None and fw_cfg_text("other", tmp_path) == ""
    (entry / "raw").unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        fw_cfg("passphrase", tmp_path)


def test_only_a_public_key_opens_ssh() -> None:
    assert ssh_key({"ssh": "ssh-ed25519:AAAAC3Nz"}) == "ssh-ed25519 AAAAC3Nz"
    assert ssh_key({}) == ""
    for wrong in ("ssh-ed25519:AA\nroot", 'command="x" ssh-ed25519:AAAA', "ssh-dss:AAAA", "yes"):
        with pytest.raises(ConfigError):
            ssh_key({"ssh": wrong})


def _device(sys: Path, name: str, kind: str, *, driver: bool = True, disk: str = "") -> None:
    folder = sys / "bus/pci/devices" / name
    folder.mkdir(parents=True)
    for file, text in (("class", kind), ("vendor", "0x1000"), ("device", "0x005d")):
        (folder / file).write_text(f"{text}\n")
    if driver:
        (folder / "driver").mkdir()
    if disk:
        (folder / disk).mkdir(parents=True)


def test_what_is_of_no_use_yet_is_named_with_a_hint(tmp_path: Path) -> None:
    _device(tmp_path, "0000:01:00.0", "0x010400")
    _device(tmp_path, "0000:02:00.0", "0x010400", disk="host0/target0:0:0/0:0:0:0/block/sda")
    _device(tmp_path, "0000:03:00.0", "0x010802", disk="nvme/nvme0/nvme0n1")
    _device(tmp_path, "0000:04:00.0", "0x020000", driver=False)
    _device(tmp_path, "0000:05:00.0", "0x030000", driver=False)
    _device(tmp_path, "0000:06:00.0", "0x010601")
    found = find_advice(tmp_path)
    assert [each.device.split()[-2] for each in found] == ["0000:01:00.0", "0000:04:00.0"]
    assert "virtual drive" in found[0].hint and "HBA" in found[0].hint and found[0].problem == "shows no disk"
    assert found[1].problem == "has no driver"
