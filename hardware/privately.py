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

# Type, options, device and folder of each mount, an empty word, then the command. Unmounted by name: what goes with the
# last process of a namespace is written out some time after that has ended (fs/namespace.c, delayed_mntput_work).
_SCRIPT = """
run() {
    if [ -z "$1" ]; then shift; "$@"; return; fi
    local folder="$4" code
    mount -t "$1" -o "$2" "$3" "$folder" || return 1
    shift 4
    run "$@"
    code=$?
    umount "$folder" || return 1
    return $code
}
run "$@"
"""
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
    """Run `argv` with these mounted, in this order; all is written out when it returns. Raises ToolError, also when one
    cannot be mounted."""
    words = [word for each in mounts for word in (each.type, f"{each.options},{_SAFE}", each.device, each.folder)]
    private = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", _SCRIPT, "sh", *words, ""]
    return runner.run([*private, *argv], purpose=purpose, timeout=timeout)


@contextlib.contextmanager
def mount_points(*names: str) -> Iterator[list[str]]:
    """Empty folders to mount on, removed again."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(tempfile.TemporaryDirectory(prefix=f"refloat-{name}-")) for name in names]
