"""What the machine's own screen shows: where the console is, how to know it, how to get in. Pure."""

from __future__ import annotations

import io
from collections.abc import Sequence

import segno

from bootenv.addresses import Port
from bootenv.live.state import StationState
from core import __version__

_WIDTH = 78


def banner(state: StationState | None, ports: Sequence[Port], urls: Sequence[str], *, blocks: bool) -> str:
    """The whole text. `blocks`: the terminal can draw half blocks, so the QR code of the first URL is small."""
    lines = [f"Refloat {__version__}  rescue environment".center(_WIDTH).rstrip(), ""]
    if state is None or not state.fingerprint:
        return "\n".join([*lines, "  The console is starting ..."]) + "\n"
    if urls:
        lines += [f"  {'Open in a browser' if not number else '':18} {url}" for number, url in enumerate(urls)]
    else:
        lines += ["  No network address yet: plug in a cable, or set up the network below."]
        lines += [f"    {port.name}: {'link' if port.up else 'no link'}" for port in ports]
    half = len(state.fingerprint) // 2 + 1
    lines += [f"  {'Fingerprint':18} {state.fingerprint[:half]}", f"  {'(SHA-256)':18} {state.fingerprint[half:]}"]
    lines += [f"  {'PIN, for one visit':18} {state.pin[:4]} {state.pin[4:]}", ""]
    if urls:
        lines += [qr_code(urls[0], blocks=blocks)]
    lines += [f"  * {line}" for line in state.lines]
    return "\n".join(lines) + "\n"


def qr_code(text: str, *, blocks: bool) -> str:
    """The code as lines of text: half blocks (two rows a line), or spaces and ANSI colours for plain serial lines."""
    out = io.StringIO()
    segno.make(text, error="l", micro=False).terminal(out, border=2, compact=blocks)
    return out.getvalue()
