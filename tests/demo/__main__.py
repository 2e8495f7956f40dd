"""The story: a disk is imaged to two sites, lives a day, is imaged again, is lost, and comes back on two others."""

from __future__ import annotations

import random
import shutil
import sys
import time
from pathlib import Path

from tests.demo import disk
from tests.demo.stage import Program, attached, note, partitioned, say, tool

_CONFIG = """\
server = "web1"
state = "{place}/state"
recipients = [{recipients}]
[[disk]]
path = "{place}/server.img"
name = "vda"
[[site]]
name = "falkenstein"
country = "DE"
url = "file://{place}/de"
[[site]]
name = "strasbourg"
country = "FR"
url = "file://{place}/fr"
"""


class Demo:
    """One run in `place`; `rows` become the table at the end."""

    def __init__(self, place: Path) -> None:
        self.place, self.refloat = place, Program()
        self.config, self.kit, self.image = place / "refloat.toml", place / "fleet.kit", place / "server.img"
        self.rows: list[tuple[str, ...]] = []
        self.unlock = ("--kit", self.kit, "--passphrase-file", place / "passphrase")

    def set_up(self) -> None:
        """Configuration, keys, kit: what is done once."""
        (self.place / "passphrase").write_text("a passphrase nobody guesses\n")
        for site in ("de", "fr"):
            (self.place / site).mkdir()
        self._configure("")
        self.refloat.show("keys", "new", "--config", self.config)
        made = self.refloat.ask(
            "kit", "new", self.kit, "--config", self.config, "--passphrase-file", self.place / "passphrase"
        )
        recipients = made["recipients"]
        assert isinstance(recipients, list)
        self._configure(", ".join(f'"{each}"' for each in recipients))
        self.refloat.show("check", "--config", self.config)

    def _configure(self, recipients: str) -> None:
        self.config.write_text(_CONFIG.format(place=self.place, recipients=recipients))

    def take_image(self, what: str) -> None:
        """One image, to both sites."""
        answer = self.refloat.ask("image", "--config", self.config, "--note", what)
        sites = answer["sites"]
        assert isinstance(sites, list)
        for site in sites:
            self._row(f"image, {what}", site["name"], site["read_bytes"], site["stored_bytes"], site["seconds"])

    def restore(self, what: str, size_bytes: int, wanted: dict[str, object]) -> None:
        """Plan, restore and prove, on a blank disk of another size."""
        blank = self.place / "blank.img"
        with blank.open("wb") as file:
            file.truncate(size_bytes)
        with attached(blank) as target:
            # What the plan prints: a loop device has no serial, so it is confirmed by path and size.
            token = f"{target}:{size_bytes}"
            self.refloat.show("restore", "web1/latest", *self.unlock, "--to", target, "--plan")
            before = time.monotonic()
            answer = self.refloat.ask("restore", "web1/latest", *self.unlock, "--to", target, "--confirm", token)
            self._row(f"restore, {what}", "", *_restored(answer), time.monotonic() - before)
            if size_bytes >= disk.SIZE_BYTES:
                self._again(target, token)
        with partitioned(blank) as target:
            disk.check_filesystems(target)
            note("fsck -n: clean")
            found = disk.fingerprint(target, self.place)
            for part, value in wanted.items():
                assert found[part] == value, f"{part} is not what it was"
                note(f"{part}: identical" + (f", {len(value)} entries" if isinstance(value, dict) else ""))
        blank.unlink()

    def _again(self, target: Path, token: str) -> None:
        """A second restore of the same: nothing differs, so nothing is written."""
        answer = self.refloat.ask("restore", "web1/latest", *self.unlock, "--to", target, "--confirm", token)
        _, written = _restored(answer)
        assert written == 0, answer
        note("restored a second time: nothing differed, nothing was written")

    def _row(self, what: str, site: str, read: int, stored: int, seconds: float) -> None:
        mib = 1 << 20
        rate = read / mib / max(seconds, 1e-3)
        self.rows.append((what, site, f"{read / mib:,.0f}", f"{stored / mib:,.1f}", f"{seconds:.1f}", f"{rate:,.0f}"))

    def table(self) -> None:
        """Everything measured."""
        rows = [("", "site", "read MiB", "stored or written MiB", "seconds", "MiB/s"), *self.rows]
        widths = [max(len(row[column]) for row in rows) for column in range(6)]
        for row in rows:
            cells = [
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            note("  ".join(cells))


def main() -> int:
    place = Path("build/demo").resolve()
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        _story(Demo(place), random.Random(1))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return 0


def _restored(answer: dict[str, object]) -> tuple[int, int]:
    """Bytes that were read back and had the right digest, and bytes written, of a restore's answer."""
    volumes = answer["volumes"]
    assert isinstance(volumes, list)
    checked = sum(each["verified_bytes"] for each in volumes)
    # With zeroes and what was right already, every block the image holds is accounted for.
    assert checked >= sum(each["written_bytes"] for each in volumes), answer
    return checked, sum(each["written_bytes"] + each["zeroed_bytes"] for each in volumes)


def _story(demo: Demo, rng: random.Random) -> None:
    say("A server's disk: GPT with BIOS-boot, ESP, /boot, root (ext4), data (xfs), swap")
    copied = disk.make(demo.image, demo.place, rng)
    note(f"{copied / (1 << 30):.2f} GiB of real files from /usr")
    say("Set-up: keys, recovery kit, two sites in two countries")
    demo.set_up()
    say("Day 1: image to both sites, from one read")
    demo.take_image("day 1")
    say("A day passes; image again")
    disk.live_a_day(demo.image, demo.place, rng)
    demo.take_image("day 2")
    demo.refloat.show("images", "--config", demo.config)
    with partitioned(demo.image) as server:
        wanted = disk.fingerprint(server, demo.place)
    say("The disk is lost, and all that the server knew")
    demo.image.unlink()
    tool("rm", "-r", demo.place / "state", demo.config)
    say("Onto a bigger blank disk, with nothing but the recovery kit")
    demo.restore("bigger disk", disk.BIGGER_BYTES, wanted)
    say("Onto a smaller one: what is free gives way")
    demo.restore("smaller disk", disk.SMALLER_BYTES, wanted)
    say("What it took")
    demo.table()


sys.exit(main())
