"""Every error Refloat raises on purpose, and the table of exit codes (`docs/operating.md` prints it).

A class gives the code, the exit status and the HTTP status; an instance gives the message, a `hint` (what to do
next) and fields for programs. Libraries raise; only `appliance.cli.main` exits and only `web` maps to problem+json.
"""

from __future__ import annotations

from typing import ClassVar


class RefloatError(Exception):
    """The one root. `message` says what is wrong, `hint` what to do, `fields` carries values for `--json`."""

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    meaning: ClassVar[str] = "an error without a class of its own"

    def __init__(self, message: str, *, hint: str | None = None, **fields: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.fields = fields

    def as_dict(self) -> dict[str, object]:
        """The error as a JSON-ready object: `code`, `message`, `hint`, and the fields."""
        return {"code": self.code, "message": self.message, "hint": self.hint, **self.fields}


class ConfigError(RefloatError):
    code, exit_status, http_status = "config", 10, 400
    meaning = "the configuration is unreadable, incomplete or has an unknown key"


class PolicyError(RefloatError):
    code, exit_status, http_status = "policy", 11, 409
    meaning = "the set-up breaks the promise (two sites, two EU countries)"


class SiteError(RefloatError):
    code, exit_status, http_status = "site", 20, 502
    meaning = "a site cannot be reached or answered wrongly"


class SiteFullError(SiteError):
    code, exit_status, http_status = "site-full", 21, 507
    meaning = "a site has no room left"


class ObjectMissingError(SiteError):
    code, exit_status, http_status = "missing", 22, 404
    meaning = "an object that must be at a site is not there"


class ObjectExistsError(SiteError):
    code, exit_status, http_status = "exists", 24, 409
    meaning = "a create-only put met an object of that name"


class ForbiddenError(SiteError):
    code, exit_status, http_status = "forbidden", 27, 403
    meaning = "a site does not let this token do that"


class CorruptError(RefloatError):
    code, exit_status, http_status = "corrupt", 23, 502
    meaning = "bytes from a site are not what they must be (flipped bit, short read, another object)"


class FormatError(CorruptError):
    code, exit_status = "format", 25
    meaning = "an object breaks the format (`docs/format.md`)"


class VersionError(RefloatError):
    code, exit_status, http_status = "version", 26, 501
    meaning = "an object has a format version this Refloat does not know"


class KeyMissingError(RefloatError):
    code, exit_status, http_status = "key", 30, 403
    meaning = "the identity or passphrase does not open it"


class TrustError(RefloatError):
    code, exit_status, http_status = "trust", 31, 403
    meaning = "a signature is missing, wrong, or by a key that is not pinned; or a site shows an older state"


class SourceError(RefloatError):
    code, exit_status, http_status = "source", 40, 409
    meaning = "a source cannot be imaged as it is (mounted, unreadable, no such device)"


class DamagedError(RefloatError):
    code, exit_status, http_status = "damaged", 41, 409
    meaning = "the image was taken, but parts of the source could not be read; it is marked `damaged`"


class PartialError(RefloatError):
    code, exit_status, http_status = "partial", 42, 502
    meaning = "the image reached at least one site, but not all of them"


class TargetError(RefloatError):
    code, exit_status, http_status = "target", 50, 409
    meaning = "a target is refused: too small, mounted, boot medium, holds a site, other sector size"


class ConfirmError(RefloatError):
    code, exit_status, http_status = "confirm", 51, 409
    meaning = "a target that would be overwritten was not confirmed by its serial"


class WriteError(RefloatError):
    code, exit_status, http_status = "write", 52, 500
    meaning = "writing to a target failed, or it read back other bytes; the restore can be started again"


class UnbootableError(RefloatError):
    code, exit_status, http_status = "unbootable", 53, 500
    meaning = "every byte is restored, but a check says that the server will not boot, or not as was asked"


class HeldError(RefloatError):
    code, exit_status, http_status = "held", 63, 409
    meaning = "this server was restored and not released yet: the old one may still write its history"


class ToolError(RefloatError):
    code, exit_status, http_status = "tool", 60, 500
    meaning = "a system tool is missing, too old, or failed"


class StateError(RefloatError):
    code, exit_status, http_status = "state", 62, 507
    meaning = "a local file cannot be written (state folder or kit: disk full, read-only)"


class LockedError(RefloatError):
    code, exit_status, http_status = "locked", 61, 409
    meaning = "another run of the same server is under way"


#: Exit codes that no class carries.
OTHER_EXITS = {
    0: ("ok", "all went well"),
    2: ("usage", "the command line is wrong"),
    70: ("bug", "a fault of Refloat's own; the traceback is printed"),
    130: ("interrupted", "stopped by Ctrl-C"),
    129: ("terminated", "stopped by SIGHUP (the terminal or connection went away)"),
    143: ("terminated", "stopped by SIGTERM (systemd, shutdown)"),
}


def exit_table() -> list[tuple[int, str, str]]:
    """All exit codes as (status, code, meaning), sorted; one producer for docs, help and tests."""
    rows = [(status, code, meaning) for status, (code, meaning) in OTHER_EXITS.items()]
    todo: list[type[RefloatError]] = [RefloatError]
    while todo:
        cls = todo.pop()
        rows.append((cls.exit_status, cls.code, cls.meaning))
        todo.extend(cls.__subclasses__())
    return sorted(set(rows))
