"""What was handed to the rescue environment from outside: words of the kernel line, and QEMU's fw_cfg entries.

fw_cfg (`-fw_cfg name=opt/org.refloat/NAME,file=…`) is readable by root of the guest only; the kernel line by everybody
who may read a serial log, so no secret is ever taken from there. May import `core`.
"""

from __future__ import annotations

from pathlib import Path

from core.errors import ConfigError, ToolError
from core.run import Runner

PREFIX = "opt/org.refloat"
FW_CFG = Path("/sys/firmware/qemu_fw_cfg/by_name")
_MAX_BYTES = 4 << 20


def kernel_words(line: str) -> dict[str, str]:
    """`refloat.NAME=VALUE` words of a kernel line; the last one of a name counts."""
    pairs = (word.partition("=") for word in line.split() if word.startswith("refloat."))
    return {name.removeprefix("refloat."): value for name, _, value in pairs}


def words_named(line: str, name: str) -> list[str]:
    """Every value of a word that may be given more than once."""
    start = f"refloat.{name}="
    return [word.removeprefix(start) for word in line.split() if word.startswith(start)]


def read_kernel_line(path: Path = Path("/proc/cmdline")) -> str:
    """The running kernel's line."""
    return path.read_text("utf-8", "replace")


def load_fw_cfg(runner: Runner) -> None:
    """Ask the kernel to show fw_cfg; a machine that is no QEMU guest has none, which is fine."""
    try:
        runner.run(["modprobe", "qemu_fw_cfg"], purpose="look for entries of the hypervisor")
    except ToolError:
        return


def fw_cfg(name: str, root: Path = FW_CFG) -> bytes | None:
    """The entry `opt/org.refloat/NAME`, None when there is none. ConfigError when it is there and cannot be read."""
    path = root / PREFIX / name / "raw"
    if not path.parent.exists():
        return None
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"the fw_cfg entry {PREFIX}/{name} cannot be read: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"the fw_cfg entry {PREFIX}/{name} is larger than {_MAX_BYTES} bytes")
    return data


def fw_cfg_text(name: str, root: Path = FW_CFG) -> str:
    """The same as text without blanks around it; empty when there is none."""
    data = fw_cfg(name, root)
    try:
        return "" if data is None else data.decode("utf-8").strip("\0\r\n\t ")
    except UnicodeDecodeError as error:
        raise ConfigError(f"the fw_cfg entry {PREFIX}/{name} is not UTF-8") from error
