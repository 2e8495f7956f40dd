"""Sizes in bytes: parsing what people write, printing what they can read. Binary units only."""

from __future__ import annotations

import re

from core.errors import ConfigError

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
_UNITS = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": TIB, "p": 1 << 50}
_PATTERN = re.compile(r"\s*(\d{1,18}(?:\.\d{1,6})?)\s*([kmgtp]?)(?:i?b)?\s*", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes from `4096`, `64M`, `1.5 GiB`. Raises ConfigError for anything else."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ConfigError(f"not a size: {text!r}", hint="write it as 4096, 64M or 1.5GiB (units are binary)")
    return (
        int(float(match[1]) * _UNITS[match[2].lower()]) if "." in match[1] else int(match[1]) * _UNITS[match[2].lower()]
    )


def format_size(size_bytes: int | float) -> str:
    """`1536` → `1.5 KiB`; whole bytes below 1 KiB."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def align_up(value: int, unit: int) -> int:
    """The smallest multiple of `unit` that is at least `value`."""
    return -(-value // unit) * unit


def align_down(value: int, unit: int) -> int:
    """The largest multiple of `unit` that is at most `value`."""
    return value // unit * unit
