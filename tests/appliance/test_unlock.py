"""What a command may open and whom it trusts, from every way of giving it."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from appliance.config import Config, SiteConfig
from appliance.kit import KitServer, KitSite, new_identity, new_kit, seal_kit
from appliance.unlock import Unlock, UnlockOptions, open_unlock, read_passphrase, read_text
from core.errors import ConfigError, KeyMissingError, RefloatError, TrustError
from imager.keys import ServerKeys

PASSPHRASE = "correct horse battery"
PIN = KitServer(name="web1", id="0a" * 16, fingerprint="SHA256:" + "A" * 43)
KIT = new_kit(
    [new_identity()],
    servers=[PIN],
    sites=[KitSite(name="de", country="DE", url="file:///kit-de", addresses=("192.0.2.1",))],
    now=datetime(2026, 1, 1, tzinfo=UTC),
)
TEXT = seal_kit(KIT, PASSPHRASE, work=2)


@pytest.fixture
def kit_file(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.kit"
    path.write_text(TEXT)
    return path


def _config(state: Path) -> Config:
    sites = (
        SiteConfig(name="de", country="DE", url="file:///cfg-de"),
        SiteConfig(name="fr", country="FR", url="file:///cfg-fr"),
    )
    return Config(server="web1", state=str(state), sites=sites)


def _open(options: UnlockOptions, config: Config | None = None, *, need: bool = True) -> Unlock:
    return open_unlock(options, lambda: config, need_identity=need, ask=lambda: PASSPHRASE)


def test_a_kit_is_enough(kit_file: Path) -> None:
    found = _open(UnlockOptions(kit=kit_file))
    assert found.identities is not None and found.trusted("web1") == (PIN,)
    assert [site.url for site in found.sites] == ["file:///kit-de"]
    assert "AGE-SECRET" not in repr(found)


def test_a_named_configuration_moves_sites_but_a_kits_pins_stand_alone(kit_file: Path, tmp_path: Path) -> None:
    own = ServerKeys.create(tmp_path / "state", "web1")
    found = _open(UnlockOptions(kit=kit_file), _config(tmp_path / "state"))
    assert found.site("de").url == "file:///cfg-de" and found.site("fr").country == "FR"
    assert own.fingerprint not in {pin.fingerprint for pin in found.servers}


def test_on_the_server_itself_its_own_key_is_trusted(tmp_path: Path) -> None:
    own = ServerKeys.create(tmp_path / "state", "web1")
    found = _open(UnlockOptions(), _config(tmp_path / "state"), need=False)
    assert found.identities is None
    assert [pin.fingerprint for pin in found.trusted("web1")] == [own.fingerprint]


def test_an_identity_file_and_places(tmp_path: Path) -> None:
    (tmp_path / "id").write_text(f"# made today\n{new_identity()}\n")
    options = UnlockOptions(identity=tmp_path / "id", servers=(str(PIN),), sites=("de=file:///mnt", "new=file:///new"))
    found = _open(options, _config(tmp_path / "none"))
    assert found.identities is not None and found.trusted("web1") == (PIN,)
    assert [(site.name, site.country, site.url) for site in found.sites] == [
        ("de", "DE", "file:///mnt"),
        ("fr", "FR", "file:///cfg-fr"),
        ("new", "ZZ", "file:///new"),
    ]


def test_a_moved_site_keeps_what_the_kit_knows_of_it(kit_file: Path) -> None:
    found = _open(UnlockOptions(kit=kit_file, sites=("de=file:///mnt",)))
    assert found.site("de").addresses == ("192.0.2.1",) and found.site("de").url == "file:///mnt"


def test_refusals(kit_file: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("# nothing\n")
    cases: list[tuple[UnlockOptions, type[RefloatError], str]] = [
        (UnlockOptions(), KeyMissingError, "nothing was given"),
        (UnlockOptions(kit=kit_file, identity=kit_file), ConfigError, "exclude each other"),
        (UnlockOptions(identity=tmp_path / "empty"), KeyMissingError, "no age identity"),
        (UnlockOptions(identity=tmp_path / "none"), ConfigError, "cannot be read"),
        (UnlockOptions(kit=tmp_path / "none"), ConfigError, "recovery kit .* cannot be read"),
        (UnlockOptions(kit=kit_file, sites=("de",)), ConfigError, "not a site's place"),
        (UnlockOptions(kit=kit_file, sites=("de=/mnt",)), ConfigError, "not a site's place"),
        (UnlockOptions(kit=kit_file, servers=("web1",)), ConfigError, "not a server's pin"),
    ]
    for options, error, message in cases:
        with pytest.raises(error, match=message):
            _open(options)


def test_an_unknown_server_is_never_trusted(kit_file: Path) -> None:
    found = _open(UnlockOptions(kit=kit_file))
    with pytest.raises(TrustError, match="no signing key is pinned for server 'db1' .pinned are: web1"):
        found.trusted("db1")
    with pytest.raises(ConfigError, match="no site is called 'it'"):
        found.site("it")


@pytest.mark.parametrize(
    ("data", "passphrase"), [(b"abc\n", "abc"), (b"abc", "abc"), (b" a b \r\nnext\n", " a b "), (b"\xc3\xa4\n", "ä")]
)
def test_passphrases_from_a_file_and_from_a_descriptor(data: bytes, passphrase: str, tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(data)
    assert read_passphrase(UnlockOptions(passphrase_file=tmp_path / "p"), lambda: "asked") == passphrase
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    assert read_passphrase(UnlockOptions(passphrase_fd=reading), lambda: "asked") == passphrase
    os.close(reading)


def test_passphrase_refusals(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b"\xff\n")
    (tmp_path / "large").write_bytes(b"x" * 5000)
    for options in (
        UnlockOptions(passphrase_file=tmp_path / "p"),
        UnlockOptions(passphrase_file=tmp_path / "large"),
        UnlockOptions(passphrase_file=tmp_path / "p", passphrase_fd=0),
        UnlockOptions(passphrase_fd=987),
    ):
        with pytest.raises(ConfigError):
            read_passphrase(options, lambda: "asked")
    assert read_passphrase(UnlockOptions(), lambda: "asked") == "asked"


def test_a_file_that_is_too_large_is_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match="larger than"):
        read_text(tmp_path / "sparse", "recovery kit")
