"""`refloat rescue build`: base system, layer, kernel, initrd, scripts and ISOs in one folder, ready to be served.

May import `core` and the other modules of `bootenv` below it.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bootenv.base import cache_folder, get_base
from bootenv.iso import write_iso, write_small_iso
from bootenv.layer import complete_initrd, pack_layer
from bootenv.script import APP, BASE, INITRD, KERNEL, Digests, ipxe_script
from core.errors import ConfigError, ToolError
from core.files import state_errors
from core.monitor import Monitor
from core.run import Runner, find_tool

DEFAULT_OUTPUT = "/var/lib/refloat/rescue"
MAX_BYTES, SMALL_ISO_MAX_BYTES = 450 << 20, 4 << 20
#: Tool → Debian's package.
_TOOLS = {
    "mmdebstrap": "mmdebstrap", "mksquashfs": "squashfs-tools", "xorriso": "xorriso", "mkfs.vfat": "dosfstools",
    "mcopy": "mtools",
}  # fmt: skip
_KINDS: dict[str, Callable[[], Any]] = {
    "sha256": hashlib.sha256,
    "blake2b": functools.partial(hashlib.blake2b, digest_size=32),
}
#: In the digest list, in the order they are made.
_MADE = (KERNEL, INITRD, BASE, APP, "refloat.iso", "refloat-ipxe.iso")


@dataclass(frozen=True)
class Built:
    """What was made: the folder, sizes by file name, SHA-256 by file name, what the kernel line names."""

    folder: Path
    sizes: dict[str, int]
    digests: dict[str, str]
    squashfs: Digests


def build(
    output: Path, runner: Runner, monitor: Monitor, *, cache: Path | None = None, force: bool = False, url: str = "",
    isos: bool = True,
) -> Built:  # fmt: skip
    """Build into `output`; `force` installs Debian anew (its updates), `url` is where the small ISO looks first.

    Raises ToolError when a tool is missing or a size limit is broken, ConfigError without root.
    """
    _require_tools()
    if url and not url.endswith("/"):
        raise ConfigError(f"a boot server's address ends in /: {url!r}", hint="such as http://192.0.2.10:8080/")
    with state_errors(output):
        output.mkdir(parents=True, exist_ok=True)
    base = get_base(runner, monitor, cache=cache or cache_folder(), force=force)
    shutil.copyfile(base.kernel, output / KERNEL)
    complete_initrd(base, output / INITRD)
    _link_or_copy(base.squashfs, output / BASE)
    pack_layer(base, output / APP, runner, monitor)
    digests = _squashfs(output)
    (output / "boot.ipxe").write_text(ipxe_script(digests, "${cwduri}"))
    shutil.copyfile(base.folder / "packages.txt", output / "packages.txt")
    loaders = output / "tftp"
    loaders.mkdir(exist_ok=True)
    for name in ("undionly.kpxe", "snponly.efi", "ipxe.efi"):
        shutil.copyfile(base.loaders / name, loaders / name)
    if isos:
        write_iso(base, output, digests, runner, monitor)
        write_small_iso(base, output, url, runner, monitor)
    return _conclude(output)


def read_built(folder: Path) -> Built:
    """What an earlier `build` left in this folder. Raises ConfigError when it is none."""
    try:
        rows = [line.split("  ", 1) for line in (folder / "SHA256SUMS").read_text().splitlines()]
        digests = {name: digest for digest, name in rows}
        sizes = {name: (folder / name).stat().st_size for name in digests}
        return Built(folder, sizes, digests, _squashfs(folder))
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{folder} holds no rescue environment", hint="make one: `refloat rescue build`") from error


def _squashfs(folder: Path) -> Digests:
    return Digests(*(_digest(folder / name, "blake2b") for name in (BASE, APP)))


def _conclude(output: Path) -> Built:
    digests = {name: _digest(output / name, "sha256") for name in _MADE if (output / name).exists()}
    (output / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in digests.items()))
    built = read_built(output)
    parts = sum(built.sizes[name] for name in (KERNEL, INITRD, BASE, APP))
    for name, size, limit in (
        ("the rescue environment", max(parts, built.sizes.get("refloat.iso", 0)), MAX_BYTES),
        ("refloat-ipxe.iso", built.sizes.get("refloat-ipxe.iso", 0), SMALL_ISO_MAX_BYTES),
    ):
        if size > limit:
            raise ToolError(f"{name} is {size >> 20} MiB, it must not be over {limit >> 20} MiB", hint="see recipe.py")
    return built


def _require_tools() -> None:
    missing = sorted({package for tool, package in _TOOLS.items() if find_tool(tool) is None})
    if missing:
        hint = f"apt install {' '.join(missing)}"
        raise ToolError("building the rescue environment needs tools that are not installed", hint=hint)


def _link_or_copy(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, _KINDS[kind]).hexdigest()
