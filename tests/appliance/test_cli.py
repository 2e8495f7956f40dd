"""The program: one frame for all errors, one object on stdout, and the commands of set-up from first to last."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest

from appliance import cli
from appliance.cli import COMMANDS, common, main
from appliance.cli.common import Context, command
from appliance.kit import KitSite, new_identity, new_kit, recipients_of, seal_kit
from appliance.receipt import encode_receipt, receipt_of
from core.errors import PartialError, SiteFullError

ROOT = Path(__file__).resolve().parents[2]
PASSPHRASE = "correct horse battery"
Refloat = Callable[..., tuple[int, str, str]]


@pytest.fixture
def refloat(capfd: pytest.CaptureFixture[str]) -> Refloat:
    """Runs the program in this process: exit status, stdout, stderr."""

    def run(*argv: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main([str(each) for each in argv])
        out, err = capfd.readouterr()
        return status, out, err

    return run


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A sound set-up but for keys and kit: two folders as sites."""
    for name in ("de", "fr"):
        (tmp_path / name).mkdir()
    path = tmp_path / "refloat.toml"
    path.write_text(
        f'server = "web1"\nstate = "{tmp_path}/state"\nrecipients = []\n'
        f'[[site]]\nname = "de"\ncountry = "DE"\nurl = "file://{tmp_path}/de"\n'
        f'[[site]]\nname = "fr"\ncountry = "FR"\nurl = "file://{tmp_path}/fr"\n'
        f'[kit]\nreceipt = "{tmp_path}/fleet.kit.receipt"\n'
    )
    (tmp_path / "pw").write_text(PASSPHRASE + "\n")
    return path


def _with_recipients(config: Path, *recipients: str) -> None:
    config.write_text(config.read_text().replace("recipients = []", f"recipients = {json.dumps(recipients)}"))


# The frame


@pytest.mark.parametrize(
    ("raised", "status", "code"),
    [
        (SiteFullError("de is full", hint="make room", site="de"), 21, "site-full"),
        (KeyError("oops"), 70, "bug"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (cli.Terminated(), 143, "terminated"),
        (click.UsageError("no"), 2, "usage"),
        (click.Abort(), 130, "interrupted"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_every_end_has_its_status(
    raised: BaseException, status: int, code: str, as_json: bool, refloat: Refloat, monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    @command(config=False)
    def fails(context: Context) -> None:
        raise raised

    monkeypatch.setattr(cli.LazyGroup, "get_command", lambda self, ctx, name: fails)
    found, out, err = refloat("fails", *(["--json"] if as_json else []))
    assert found == status
    assert ("Traceback" in err) == (status == 70)
    if as_json:
        assert json.loads(out)["error"]["code"] == code
    else:
        assert out == "" and "error: " in err


def test_an_error_after_the_result_leaves_one_object(refloat: Refloat, monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    @command(config=False)
    def half(context: Context) -> None:
        context.emit({"image": "x"})
        raise PartialError("fr was not reached", hint="try again")

    monkeypatch.setattr(cli.LazyGroup, "get_command", lambda self, ctx, name: half)
    status, out, err = refloat("half", "--json")
    assert status == 42 and json.loads(out) == {"image": "x"}
    assert err == "error: fr was not reached\nhint: try again\n"


def test_usage_and_help(refloat: Refloat) -> None:
    assert refloat("nonsense")[0] == 2
    assert refloat("config", "show", "--nonsense")[2].startswith("error: No such option")
    assert json.loads(refloat("kit", "new", "--json")[1])["error"]["code"] == "usage"
    status, out, _ = refloat("--help")
    assert status == 0 and all(name in out for name in COMMANDS)
    assert refloat("--version")[1].startswith("refloat, version 0")


@pytest.mark.parametrize(
    "words",
    ["check", "doctor", "keys new", "keys show", "kit new", "kit add", "kit open", "config example", "config show"],
)
def test_help_of_every_command_has_an_example(words: str, refloat: Refloat) -> None:
    status, out, _ = refloat(*words.split(), "--help")
    assert status == 0
    assert f"refloat {words}" in out.partition("Usage:")[2].partition("\n")[2]


def test_a_prompt_without_a_terminal_is_a_usage_error(
    refloat: Refloat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "k").write_text("x")
    monkeypatch.setattr(click, "prompt", _end_of_input)
    monkeypatch.setattr(common, "_has_terminal", lambda: True)
    status, _, err = refloat("kit", "open", tmp_path / "k")
    assert status == 2 and "nobody answered" in err


@pytest.mark.block
def test_no_passphrase_is_asked_for_without_a_terminal(tmp_path: Path) -> None:
    """No getpass that warns and shows what is typed; what to do instead."""
    (tmp_path / "k").write_text("x")
    done = subprocess.run(
        [sys.executable, "-m", "appliance.cli", "kit", "open", "k"], cwd=tmp_path, input="secret words here\n",
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: nobody answered: ") and "hint: give --passphrase-file" in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_a_kit_of_nothing_warns(refloat: Refloat, tmp_path: Path) -> None:
    (tmp_path / "pw").write_text(PASSPHRASE)
    kit = tmp_path / "my fleet.kit"
    status, out, err = refloat("kit", "new", kit, "--passphrase-file", tmp_path / "pw")
    assert status == 0 and "warning: the kit names no site" in err and "warning: the kit pins no server" in err
    assert f"refloat kit open '{kit}'" in out


def _end_of_input(*_: object, **__: object) -> str:
    try:
        raise EOFError
    except EOFError:
        raise click.Abort from None


# Set-up, from first to last


def test_config_example_and_show(refloat: Refloat, tmp_path: Path) -> None:
    status, out, _ = refloat("config", "example")
    (tmp_path / "c.toml").write_text(out)
    assert status == 0
    status, out, _ = refloat("config", "show", "--config", tmp_path / "c.toml", "--json")
    assert status == 0 and json.loads(out)["config"]["sites"][1]["country"] == "FR"
    text = refloat("config", "show", "--config", tmp_path / "c.toml")[1]
    assert "image.level = 3\n" in text and "image.live = false\n" in text
    assert all(tomllib.loads(f"x = {line.partition(' = ')[2]}") for line in text.splitlines())


def test_no_configuration(refloat: Refloat, tmp_path: Path) -> None:
    status, _, err = refloat("check", "--config", tmp_path / "none")
    assert status == 10 and "hint: `refloat config example" in err


def test_keys_are_made_once(refloat: Refloat, config: Path) -> None:
    assert refloat("keys", "show", "--config", config)[0] == 10
    made = json.loads(refloat("keys", "new", "--config", config, "--json")[1])
    assert made["pin"] == f"web1:{made['id']}:{made['fingerprint']}"
    assert refloat("keys", "new", "--config", config)[0] == 10
    assert json.loads(refloat("keys", "show", "--config", config, "--json")[1]) == made


def test_the_whole_set_up(refloat: Refloat, config: Path, tmp_path: Path) -> None:
    """What operating.md tells a new user to do, in that order; each step says what is still missing."""
    kit, password = tmp_path / "fleet.kit", ("--passphrase-file", tmp_path / "pw")
    assert refloat("check", "--config", config)[0] == 11
    assert refloat("keys", "new", "--config", config)[0] == 0
    status, out, _ = refloat("kit", "new", kit, "--config", config, *password, "--json")
    made = json.loads(out)
    assert status == 0 and made["servers"][0]["name"] == "web1" and made["sites"] == ["de", "fr"]
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("fleet.kit*")} == {0o600}
    assert len(list(tmp_path.glob("fleet.kit*"))) == 3
    _with_recipients(config, *made["recipients"])
    assert refloat("check", "--config", config)[0] == 0

    before = kit.read_bytes()
    assert refloat("kit", "new", kit, *password)[0] == 10 and kit.read_bytes() == before

    status, out, _ = refloat("kit", "open", kit, *password, "--json")
    assert status == 0 and "identities" not in json.loads(out) and "AGE-SECRET" not in out
    receipt = json.loads((tmp_path / "fleet.kit.receipt").read_text())
    assert receipt["opened_at"] and receipt["recipients"] == made["recipients"]

    pin = "db1:" + "0b" * 16 + ":SHA256:" + "B" * 43
    assert refloat("kit", "add", kit, "--server", pin, *password)[0] == 0
    assert len(json.loads((tmp_path / "fleet.kit.receipt").read_text())["servers"]) == 2


def test_kit_new_writes_nothing_when_it_cannot(refloat: Refloat, tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("short\n")
    (tmp_path / "none").write_text("# no identity\n")
    for more in (["--server", "nonsense"], ["--identity", tmp_path / "none"], ["--config", tmp_path / "missing"], []):
        assert refloat("kit", "new", tmp_path / "a.kit", *more, "--passphrase-file", tmp_path / "pw")[0] == 10
    assert not list(tmp_path.glob("a.kit*"))


@pytest.fixture
def small_kit(tmp_path: Path) -> Path:
    """A kit that opens quickly."""
    kit = new_kit([new_identity()], now=datetime(2026, 1, 1, tzinfo=UTC))
    (tmp_path / "pw").write_text(PASSPHRASE)
    (tmp_path / "a.kit").write_text(seal_kit(kit, PASSPHRASE, work=2))
    return tmp_path / "a.kit"


def test_kit_open_shows_the_identity_only_when_told(
    refloat: Refloat, small_kit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = ("--passphrase-file", small_kit.parent / "pw")
    status, out, err = refloat("kit", "open", small_kit, *password)
    assert status == 0 and "AGE-SECRET" not in out and "recipient  age1" in out
    assert "a.kit.receipt is missing" in err
    shown = json.loads(refloat("kit", "open", small_kit, *password, "--show-identity", "--json")[1])
    assert list(recipients_of(shown["identities"])) == shown["kit"]["recipients"]
    reading, writing = os.pipe()
    os.write(writing, PASSPHRASE.encode())
    os.close(writing)
    monkeypatch.setenv("REFLOAT_PASSPHRASE_FD", str(reading))
    assert refloat("kit", "open", small_kit)[0] == 0
    os.close(reading)


def test_kit_open_with_a_wrong_passphrase(refloat: Refloat, small_kit: Path) -> None:
    (small_kit.parent / "pw").write_text("wrong horse battery\n")
    status, out, err = refloat("kit", "open", small_kit, "--passphrase-file", small_kit.parent / "pw")
    assert (status, out) == (30, "") and "Caps Lock" in err


def test_check_says_fail_and_why(refloat: Refloat, config: Path, tmp_path: Path) -> None:
    _with_recipients(config, *recipients_of([new_identity(), new_identity()]))
    (tmp_path / "fr").rmdir()
    status, out, err = refloat("check", "--config", config, "--json")
    found = json.loads(out)
    assert status == 11 and found["status"] == "fail" and err.startswith("error: the set-up does not keep the promise")
    assert [each["subject"] for each in found["findings"] if each["status"] == "fail"] == ["site fr"]
    assert refloat("check", "--config", config, "--offline")[0] == 0
    config.write_text(config.read_text().replace('"FR"', '"DE"'))
    status, out, _ = refloat("check", "--config", config, "--offline")
    assert status == 11 and "FAIL  countries" in out


def test_a_site_that_is_down_is_named_once(refloat: Refloat, config: Path, tmp_path: Path) -> None:
    refloat("keys", "new", "--config", config)
    (tmp_path / "fr").rmdir()
    status, _, err = refloat("images", "--config", config)
    assert status == 0 and err.startswith("warning: fr: there is no folder "), err
    assert "site fr: fr:" not in refloat("check", "--config", config)[1]


@pytest.mark.block
def test_doctor(refloat: Refloat, config: Path, small_kit: Path) -> None:
    status, out, _ = refloat("doctor", "--config", config, "--json")
    found = json.loads(out)["findings"]
    assert status == 60 and [each["subject"] for each in found if each["status"] == "fail"] == [
        "state",
        "keys",
        "recovery kit",
    ]
    refloat("keys", "new", "--config", config)
    status, out, _ = refloat(
        "doctor", "--config", config, "--kit", small_kit, "--passphrase-file", small_kit.parent / "pw"
    )
    assert status == 60 and "older than this server's keys" in out and "older than site de" in out
    assert refloat("doctor", "--rescue")[0] == 0


@pytest.mark.block
def test_doctor_on_a_replacement_asks_the_kits_sites(
    refloat: Refloat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "DEFAULT_PATH", str(tmp_path / "none"))
    site = KitSite(name="de", country="DE", url=f"file://{tmp_path}/de")
    kit = new_kit([new_identity()], sites=[site], now=datetime(2026, 1, 1, tzinfo=UTC))
    (tmp_path / "a.receipt").write_bytes(encode_receipt(receipt_of(kit, "")))
    status, out, _ = refloat("doctor", "--kit", tmp_path / "a.receipt")
    assert status == 60 and "FAIL  site de" in out and "keys" not in out
    (tmp_path / "de").mkdir()
    assert refloat("doctor", "--kit", tmp_path / "a.receipt")[0] == 0
    assert refloat("doctor")[0] == 10


@pytest.mark.block
def test_starting_is_quick() -> None:
    """Commands are imported when called: 0.25 s is what `refloat image` may cost before it begins."""
    took = []
    for _ in range(5):
        begun = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "appliance.cli", "config", "example"],
            cwd=ROOT,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        took.append(time.perf_counter() - begun)
    assert min(took) < 0.25


@pytest.mark.block
def test_a_closed_pipe_is_no_traceback() -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m appliance.cli config example | true"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr


@pytest.mark.block
@pytest.mark.parametrize(
    ("words", "status", "lines"),
    [
        ("config example", 52, 1),
        ("config example --json", 52, 1),
        ("check --config none --json", 10, 2),  # the error itself finds no stdout, and is told on stderr
    ],
)
def test_a_full_stdout_is_no_traceback(words: str, status: int, lines: int, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "appliance.cli", *words.split()],
            cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
    assert done.returncode == status
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == lines, done.stderr


@pytest.mark.block
def test_an_error_into_a_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "appliance.cli", "check", "--config", "none", "--json"],
        cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    os.close(writing)
    assert done.returncode == 10 and "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_texts_that_are_not_utf8(refloat: Refloat, config: Path) -> None:
    """Python makes lone surrogates of such bytes of the command line."""
    note = os.fsdecode(b"before \xff")
    status, out, err = refloat("image", "--config", config, "--note", note)
    assert (status, out) == (10, "") and err.startswith("error: note is not UTF-8: 'before \\udcff'\nhint: ")
    assert refloat("image", "--config", config, "--whole", note)[0] == 10
