"""Whether an initrd can reach the root filesystem on this hardware, and making it so by appending what it lacks.

Appending takes a second and changes nothing that was there; generating it anew would mean running the server's own
programs (see the package), and takes minutes on slow machines. Imports `core` and
`hardware.boot.{cpio,inside,kernels,values}`.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from core.run import Runner
from hardware.boot.cpio import MARK, Member, Segment, join, pack, split
from hardware.boot.inside import Root
from hardware.boot.kernels import Modules, is_module, module_name
from hardware.boot.values import Kernel

_CONF_MODULES = "conf/modules"
_INDEX = ("modules.order", "modules.builtin", "modules.builtin.modinfo", "modules.softdep", "modules.devname")


@dataclass(frozen=True)
class Held:
    """What an initrd holds: the distribution's `segments`, the module names, every member by name, and where modules
    lie (`usr/lib/modules` or `lib/modules`)."""

    segments: tuple[Segment, ...]
    members: Mapping[str, Member]
    modules: Mapping[str, str]
    prefix: str

    def has_program(self, name: str) -> bool:
        """Whether a program of that name is in it."""
        return any(path.endswith((f"bin/{name}", f"lib/systemd/{name}")) for path in self.members)


def examine(data: bytes, runner: Runner) -> Held:
    """Take an initrd apart. What an earlier run appended does not count. Raises FormatError, or ToolError (lz4)."""

    def unlz4(packed: bytes) -> bytes:
        return runner.run(["lz4", "-dcf"], purpose="unpack the initrd", stdin=packed, timeout=600).stdout

    segments = tuple(segment for segment in split(data, unlz4) if not segment.ours)
    members = {member.name: member for segment in segments for member in segment.members}
    modules = {module_name(path): path for path in members if "lib/modules/" in path and is_module(path)}
    some = next(iter(modules.values()), "")
    lib = members.get("lib")
    merged = some.startswith("usr/") if some else lib is not None and lib.is_link
    return Held(segments, members, modules, "usr/lib/modules" if merged else "lib/modules")


def missing(held: Held, modules: Modules, wanted: Iterable[str]) -> list[str]:
    """The wanted modules that the kernel has as files and the initrd lacks, with those they depend on left out."""
    return sorted({name for name in wanted if name in modules.files and name not in held.modules})


def missing_programs(held: Held, wanted: Iterable[str]) -> list[str]:
    """Programs that the root's stack needs in the initrd and that are not in it."""
    return [name for name in wanted if name and not held.has_program(name) and not held.has_program(f"systemd-{name}")]


def complete(
    root: Root,
    kernel: Kernel,
    held: Held,
    modules: Modules,
    names: Iterable[str],
    replaced: Mapping[str, bytes],
    runner: Runner,
) -> bool:
    """Append these modules, with what they depend on, and the `replaced` files. False when nothing was to be changed.

    Written beside and renamed, so that the old initrd is there until the new one is. Raises WriteError, ToolError.
    """
    names = list(names)
    files = dict(replaced)
    if names:
        files |= _module_files(root, held, modules, names, runner)
        conf = held.members.get(_CONF_MODULES)
        if conf is not None or "scripts/functions" in held.members:  # initramfs-tools loads these before udev starts
            before = (conf.data if conf else b"").rstrip(b"\n")
            files[_CONF_MODULES] = b"\n".join([before, *(name.encode() for name in names)]).lstrip(b"\n") + b"\n"
    if not files:
        return False
    files[MARK] = ("\n".join(sorted(files)) + "\n").encode()
    archive = pack(dict(sorted(files.items())), frozenset(held.members))
    return root.write(kernel.initrd, join(list(held.segments), archive), keep=False)


def _module_files(root: Root, held: Held, modules: Modules, names: list[str], runner: Runner) -> dict[str, bytes]:
    """The modules and the tables over old and new ones together, by their names in the initrd."""
    base, inside = f"/lib/modules/{modules.version}", f"{held.prefix}/{modules.version}"
    added = [path for path in modules.closure(names) if module_name(path) not in held.modules]
    found = {f"{inside}/{path}": _need(root, f"{base}/{path}") for path in added}
    with tempfile.TemporaryDirectory(prefix="refloat-depmod-") as stage:
        folder = Path(stage) / "lib/modules" / modules.version
        old = {path: held.members[path].data for path in held.modules.values()}
        for path, data in {**old, **found}.items():
            _put(folder, re.sub(r"^.*?lib/modules/[^/]+/", "", path), data)
        for name in _INDEX:
            if (table := root.read(f"{base}/{name}")) is not None:
                _put(folder, name, table)
        runner.run(["depmod", "--basedir", stage, modules.version], purpose="index the initrd's modules", timeout=600)
        tables = {path.name: path.read_bytes() for path in sorted(folder.glob("modules.*"))}
    return found | {f"{inside}/{name}": data for name, data in tables.items()}


def _put(folder: Path, name: str, data: bytes) -> None:
    path = os.path.normpath(folder / name)
    if not path.startswith(f"{folder}/"):
        return  # a name that leaves the folder can only be meant ill
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(path).write_bytes(data)


def _need(root: Root, path: str) -> bytes:
    data = root.read(path)
    if data is None:
        raise FileNotFoundError(path)
    return data
