"""Commands that see filesystems mounted which nobody else sees: in a mount namespace of their own, gone with them, also
when they are killed.

Imports `core` only. Nothing is kept.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from core.run import Result, Runner

# type, options, device and folder of each mount, an empty word, then the command
_SCRIPT = 'while [ -n "$1" ]; do mount -t "$1" -o "$2" "$3" "$4" || exit 1; shift 4; done; shift; exec "$@"'
_SAFE = "nosuid,nodev,noexec"


@dataclass(frozen=True)
class PrivateMount:
    """A filesystem to be mounted; `options` beside those that let nothing on it be executed or be a device."""

    device: str
    type: str
    options: str
    folder: str


def run_mounted(
    mounts: Sequence[PrivateMount], argv: Sequence[str], *, purpose: str, runner: Runner, timeout: float
) -> Result:
    """Run `argv` with these mounted, in this order. Raises ToolError, also when one cannot be mounted."""
    words = [word for each in mounts for word in (each.type, f"{each.options},{_SAFE}", each.device, each.folder)]
    private = ["unshare", "--mount", "sh", "-c", _SCRIPT, "sh", *words, ""]
    return runner.run([*private, *argv], purpose=purpose, timeout=timeout)


@contextlib.contextmanager
def mount_points(*names: str) -> Iterator[list[str]]:
    """Empty folders to mount on, removed again."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(tempfile.TemporaryDirectory(prefix=f"refloat-{name}-")) for name in names]
