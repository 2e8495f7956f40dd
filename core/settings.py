"""The settings table: every key of `refloat.toml`, once. Parsing, `refloat config example` and the docs come from it.

Constant data and pure functions; knows TOML and sizes, not what the values are for (that is `appliance.config`).
May import `core` only.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from core.errors import ConfigError
from core.sizes import parse_size

MAX_BYTES = 1 << 20
DEFAULT_PATH = "/etc/refloat/refloat.toml"
NAME_PATTERN = r"[a-z0-9][a-z0-9._-]{0,62}"

Values = dict[str, object]


class Kind(StrEnum):
    """What a value is. SIZE is read into bytes; WORDS is empty or exactly the setting's `sentence`."""

    TEXT = "text"
    TEXTS = "list of texts"
    INTEGER = "number"
    BOOLEAN = "true or false"
    SIZE = "size"
    WORDS = "sentence"


@dataclass(frozen=True)
class Setting:
    """One key. `default` None means that it must be given; `example` is what the example file shows, as TOML."""

    section: str
    key: str
    kind: Kind
    default: object
    help: str
    example: str
    choices: tuple[str, ...] = ()
    pattern: str = ""
    low: int = 0
    high: int = 1 << 62
    sentence: str = ""


@dataclass(frozen=True)
class Section:
    """A table of the file; `many` for `[[name]]`, of which the example shows the rows in `examples`."""

    name: str
    help: str
    many: bool = False
    examples: tuple[dict[str, str], ...] = ()


SECTIONS: tuple[Section, ...] = (
    Section("", "This server."),
    Section("disk", "The disks to image, one table each; partitions and filesystems on them are found.", True),
    Section("image", "How an image is taken."),
    Section(
        "site",
        "The places that keep images: at least two, in different countries of the EU or EEA.",
        True,
        (
            {"name": '"falkenstein"', "country": '"DE"', "url": '"file:///srv/refloat-de"'},
            {"name": '"strasbourg"', "country": '"FR"', "url": '"file:///srv/refloat-fr"'},
        ),
    ),
    Section("retention", "Which images `refloat prune` keeps; read where it runs, and counted by the sites' clocks."),
    Section("policy", "What `refloat check` refuses unless it is accepted here, in exactly these words."),
    Section("kit", "The recovery kit."),
)

SETTINGS: tuple[Setting, ...] = (
    Setting("", "server", Kind.TEXT, None, "Name of this server at the sites: lower case, digits, `.`, `_`, `-`.",
            '"web1"', pattern=NAME_PATTERN),
    Setting("", "state", Kind.TEXT, "/var/lib/refloat", "Folder for this server's keys, journal and lock.",
            '"/var/lib/refloat"', pattern=r"/.*"),
    Setting("", "recipients", Kind.TEXTS, (), "Who can open images: the age1… keys that `refloat kit new` prints. "
            "Give two: one kit can be lost.", '["age1…", "age1…"]'),
    Setting("disk", "path", Kind.TEXT, None, "Block device or disk-image file.",
            '"/dev/disk/by-id/ata-DISK_SERIAL"', pattern=r"/.*"),
    Setting("disk", "name", Kind.TEXT, "", "Name within the image; empty: from the path.",
            '"system"', pattern=rf"({NAME_PATTERN})?"),
    Setting("disk", "sector_bytes", Kind.INTEGER, 0, "Sector size of a disk-image file; 0: as the kernel says, "
            "512 for files.", "4096", choices=("0", "512", "4096")),
    Setting("image", "level", Kind.INTEGER, 3, "zstd level, 1 to 19.", "3", low=1, high=19),
    Setting("image", "threads", Kind.INTEGER, 0, "Threads that compress; 0: one for each processor.", "0", high=256),
    Setting("image", "bandwidth", Kind.SIZE, 0, "Bytes a second to each site; 0: no limit.", '"50MiB/s"'),
    Setting("image", "nice", Kind.INTEGER, 19, "Processor priority while imaging, 0 to 19 (gives way to all).", "10",
            high=19),
    Setting("image", "io_class", Kind.TEXT, "best-effort", "Disk priority while imaging (ioprio_set(2)); "
            "none: unchanged.", '"best-effort"', choices=("best-effort", "idle", "none")),
    Setting("image", "pack_size", Kind.SIZE, 32 << 20, "Size of the objects written to sites, 1 MiB to 64 MiB.",
            '"32MiB"', low=1 << 20, high=64 << 20),
    Setting("image", "live", Kind.BOOLEAN, False, "Image mounted filesystems that are not frozen: whole, marked live.",
            "false"),
    Setting("image", "snapshot_share", Kind.INTEGER, 80, "Percent of a volume group's free space that snapshots of "
            "thick volumes may take, 1 to 100.", "80", low=1, high=100),
    Setting("image", "freeze_seconds", Kind.INTEGER, 60, "How long a filesystem may stay frozen at most; after that it "
            "is thawed whatever happens, and the image fails.", "60", low=1, high=3600),
    Setting("image", "hooks", Kind.TEXT, "/etc/refloat/hooks", "Folder of the hooks: executables in `pre-freeze.d` and "
            "`post-thaw.d`.", '"/etc/refloat/hooks"', pattern=r"/.*"),
    Setting("image", "hook_seconds", Kind.INTEGER, 60, "How long each hook may take.", "60", low=1, high=3600),
    Setting("image", "tracking", Kind.BOOLEAN, True, "Keep a thin snapshot between images, so that only what changed "
            "is read.", "true"),
    Setting("image", "keep_snapshot", Kind.BOOLEAN, False, "Keep thick snapshots between images too; each then takes "
            "half of snapshot_share, and writes cost more all day.", "false"),
    Setting("image", "audit", Kind.INTEGER, 1, "Of a thousand blocks that tracking calls unchanged, how many are read "
            "all the same (64 at least).", "1", high=1000),
    Setting("site", "name", Kind.TEXT, None, "Name of the site, in messages and in the recovery kit.",
            '"falkenstein"', pattern=NAME_PATTERN),
    Setting("site", "country", Kind.TEXT, None, "Country it stands in (ISO 3166-1 alpha-2).",
            '"DE"', pattern=r"[A-Z]{2}"),
    Setting("site", "url", Kind.TEXT, None, "Where it is: file:///FOLDER, https://VAULT:PORT, or s3://BUCKET/PREFIX.",
            '"file:///srv/refloat-de"', pattern=r"[a-z][a-z0-9+]*://.+"),
    Setting("site", "token", Kind.TEXT, "", "File with the token that a vault gave this server (https:// only).",
            '"/etc/refloat/falkenstein.token"', pattern=r"(/.*)?"),
    Setting("site", "pin", Kind.TEXT, "", "SHA-256 of the vault's certificate, when it made its own; empty: the "
            "machine's certificate authorities decide.",
            '""', pattern=r"([0-9A-Fa-f:]{64,95})?"),
    Setting("site", "endpoint", Kind.TEXT, "", "Address of the object store; empty: AWS, or as ~/.aws/config says.",
            '"https://s3.example.eu"', pattern=r"(https?://[^/]+.*)?"),
    Setting("site", "region", Kind.TEXT, "", "Region of the bucket.", '"eu-central-1"', pattern=r"([a-z0-9-]+)?"),
    Setting("site", "credentials", Kind.TEXT, "", "File with the keys of the object store, in the form of "
            "~/.aws/credentials; empty: environment, ~/.aws, or the machine's role.", '"/etc/refloat/s3.credentials"',
            pattern=r"(/.*)?"),
    Setting("site", "profile", Kind.TEXT, "", "Section of that file; empty: default.", '"refloat"'),
    Setting("site", "lock_days", Kind.INTEGER, 0, "Object Lock: for how many days each object is locked, renewed "
            "while it is needed; 0: not locked.", "30", high=36_500),
    Setting("site", "lock_mode", Kind.TEXT, "governance", "Object Lock: governance (an administrator of the bucket can "
            "lift it) or compliance (nobody can).", '"compliance"', choices=("governance", "compliance")),
    Setting("site", "mechanisms", Kind.TEXTS, ("repository",), "In which formats images are kept there; an archive is "
            "opened with stock tools alone (docs/archive.md).",
            '["repository"]', choices=("repository", "archive")),
    Setting("retention", "daily", Kind.INTEGER, 12, "Of how many days the last image stays.", "12", low=1, high=36500),
    Setting("retention", "monthly", Kind.INTEGER, 3, "Of how many past months the last image stays.", "3", high=1200),
    Setting("retention", "yearly", Kind.INTEGER, 1, "Of how many past years the last image stays.", "1", high=100),
    Setting("retention", "minimum", Kind.INTEGER, 3, "So many good images stay at each site, whatever their age.", "3",
            low=1, high=36500),
    Setting("retention", "copies", Kind.INTEGER, 2, "An image goes only where so many sites have a newer good one "
            "(all, where there are fewer).", "2", low=1, high=16),
    Setting("retention", "delay_days", Kind.INTEGER, 7, "Days between the decision that something goes and its "
            "deletion.", "7", low=1, high=365),
    Setting("policy", "accept_same_country", Kind.WORDS, "", "All sites stand in one country.",
            '"I know that one country is not enough"', sentence="I know that one country is not enough"),
    Setting("policy", "accept_outside_eu", Kind.WORDS, "", "A site stands outside the EU and EEA.",
            '"I know that images leave the EU"', sentence="I know that images leave the EU"),
    Setting("policy", "accept_single_site", Kind.WORDS, "", "There is one site only.",
            '"I know that one site is not enough"', sentence="I know that one site is not enough"),
    Setting("kit", "receipt", Kind.TEXT, "", "Receipt of the recovery kit (KIT.receipt; nothing secret), by which "
            "`refloat doctor` sees when the kit is out of date.", '"/etc/refloat/kit.receipt"', pattern=r"(/.*)?"),
)  # fmt: skip


def read_settings(text: str) -> dict[str, Values | list[Values]]:
    """Checked values by section, defaults filled in, sizes in bytes; a list for a `[[section]]`.

    Raises ConfigError with the path of the offending key.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"the configuration is larger than {MAX_BYTES} characters")
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise ConfigError(f"not TOML: {error}", hint="`refloat config example` prints a working one") from error
    return _sections(document)


def _sections(document: Values) -> dict[str, Values | list[Values]]:
    known = {section.name for section in SECTIONS if section.name}
    top = {each.key for each in SETTINGS if not each.section}
    for key in document:
        if key not in known | top:
            raise _unknown(key, known | top)
    found: dict[str, Values | list[Values]] = {
        "": _values("", "", {key: value for key, value in document.items() if key in top})
    }
    for section in SECTIONS[1:]:
        given = document.get(section.name, [] if section.many else {})
        if section.many:
            if not isinstance(given, list):
                raise ConfigError(f"{section.name}: not a list of tables", hint=f"write it as [[{section.name}]]")
            found[section.name] = [
                _values(section.name, f"{section.name}[{number}].", row) for number, row in enumerate(given, 1)
            ]
        else:
            found[section.name] = _values(section.name, f"{section.name}.", given)
    return found


def _values(section: str, prefix: str, given: object) -> Values:
    if not isinstance(given, dict):
        raise ConfigError(f"{prefix.rstrip('.')}: not a table", hint=f"write it as [{section}]")
    table = {each.key: each for each in SETTINGS if each.section == section}
    for key in given:
        if key not in table:
            raise _unknown(f"{prefix}{key}", table, prefix)
    return {key: _value(f"{prefix}{key}", setting, given.get(key)) for key, setting in table.items()}


def _value(path: str, setting: Setting, value: object) -> object:
    """One value checked and converted; its default when it is not given."""
    if value is None:
        if setting.default is None:
            raise ConfigError(
                f"{path} is missing", hint=f"{setting.help} For example: {setting.key} = {setting.example}"
            )
        return setting.default
    if setting.kind is Kind.SIZE:
        return _bounded(path, setting, _size(path, value))
    if setting.kind is Kind.BOOLEAN and isinstance(value, bool):
        return value
    if setting.kind is Kind.INTEGER and isinstance(value, int) and not isinstance(value, bool):
        _choose(path, setting, [str(value)])
        return _bounded(path, setting, value)
    if setting.kind in (Kind.TEXT, Kind.WORDS) and isinstance(value, str):
        return _text(path, setting, value)
    if setting.kind is Kind.TEXTS and isinstance(value, list) and all(isinstance(each, str) for each in value):
        _choose(path, setting, value)
        return tuple(value)
    raise ConfigError(f"{path}: not a {setting.kind}", hint=f"for example: {setting.key} = {setting.example}")


def _text(path: str, setting: Setting, value: str) -> str:
    if "\x00" in value or not value.isprintable():
        raise ConfigError(f"{path}: holds a character that cannot be printed")
    if setting.sentence and value not in ("", setting.sentence):
        raise ConfigError(
            f"{path}: these are not the words",
            hint=f'to accept it, write exactly: {setting.key} = "{setting.sentence}"',
        )
    _choose(path, setting, [value])
    if setting.pattern and re.fullmatch(setting.pattern, value) is None:
        raise ConfigError(
            f"{path}: {value[:80]!r} will not do", hint=f"{setting.help} For example: {setting.key} = {setting.example}"
        )
    return value


def _choose(path: str, setting: Setting, values: Sequence[str]) -> None:
    for value in values:
        if setting.choices and value not in setting.choices:
            raise ConfigError(
                f"{path}: {value[:80]!r} is none of {', '.join(setting.choices)}", hint=_near(value, setting.choices)
            )


def _size(path: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ConfigError(f"{path}: not a size", hint="write it as 4096, 64M or 1.5GiB")
    try:
        return value if isinstance(value, int) else parse_size(value.removesuffix("/s"))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", hint=error.hint) from error


def _bounded(path: str, setting: Setting, value: int) -> int:
    if not setting.low <= value <= setting.high:
        raise ConfigError(f"{path}: {value} is not between {setting.low} and {setting.high}", hint=setting.help)
    return value


def _unknown(path: str, known: Iterable[str], prefix: str = "") -> ConfigError:
    names = sorted(known)
    return ConfigError(
        f"unknown key {path[:80]!r}", hint=_near(path.removeprefix(prefix), names) or f"known are: {', '.join(names)}"
    )


def _near(word: str, known: Sequence[str]) -> str | None:
    close = difflib.get_close_matches(word[:80], known, n=1)
    return f"did you mean {close[0]!r}?" if close else None


def example_text() -> str:
    """A commented configuration file; it parses as it stands, but for the recipients."""
    lines = [f"# Refloat's configuration ({DEFAULT_PATH}). What is commented out is an example."]
    for section in SECTIONS:
        lines += ["", f"# {section.help}"]
        for number, row in enumerate(section.examples or ({},)):
            if section.name:
                lines.append(f"[[{section.name}]]" if section.many else f"[{section.name}]")
            for each in SETTINGS:
                if each.section == section.name:
                    lines += _example_lines(each, row)[number > 0 :]
    return "\n".join(lines) + "\n"


def _example_lines(setting: Setting, row: dict[str, str]) -> list[str]:
    """A line of help and one that sets it, commented out when there is a default."""
    line = f"{setting.key} = {row.get(setting.key, setting.example)}"
    if setting.default is None:
        return [f"# {setting.help}", line]
    default = "" if setting.default in ("", ()) else f" Default: {_shown(setting)}"
    return [f"# {setting.help}{default}", f"#{line}"]


def markdown_table() -> str:
    """The settings as a Markdown table, for the docs."""
    rows = ["| key | what it is | default |", "|---|---|---|"]
    for each in SETTINGS:
        where = f"{each.section}.{each.key}" if each.section else each.key
        default = "must be given" if each.default is None else f"`{_shown(each)}`"
        rows.append(f"| `{where}` | {each.help} | {default} |")
    return "\n".join(rows) + "\n"


def _shown(setting: Setting) -> str:
    """The default as TOML."""
    if isinstance(setting.default, bool):
        return str(setting.default).lower()
    if isinstance(setting.default, tuple):
        return "[" + ", ".join(f'"{each}"' for each in setting.default) + "]"
    if setting.kind is Kind.SIZE and isinstance(setting.default, int):
        return f'"{setting.default >> 20}MiB"' if setting.default else "0"
    return str(setting.default) if isinstance(setting.default, int) else f'"{setting.default}"'
