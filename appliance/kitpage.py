"""The recovery kit on paper: one page of HTML: what it is, the first steps, the sealed text as QR codes and lines.

It stands by itself (no script, no fonts, nothing fetched), for printing as A4. Pure; may import `appliance.kit`,
`appliance.receipt`.
"""

from __future__ import annotations

import io
from html import escape

import segno

from appliance.receipt import Receipt

#: Lines in a QR code: 13 × 65 bytes and a marker fit version 25 at level M, still readable at 6 cm from paper.
_LINES = 13
#: More than two pages of codes nobody scans; such a kit is kept as files.
CODES_MAX = 12

_STYLE = """
@page { size: A4; margin: 14mm }
body { font: 10pt/1.35 sans-serif; color: #000; background: #fff; max-width: 182mm; margin: 0 auto }
h1 { font-size: 17pt; margin: 0 0 1mm } h2 { font-size: 11pt; margin: 4mm 0 1mm }
p, ol { margin: 1mm 0 } code, pre { font-family: monospace } ol code { font-weight: bold }
.codes { display: flex; flex-wrap: wrap; gap: 4mm } figure { margin: 0; break-inside: avoid }
svg { width: 56mm; height: 56mm }
figcaption { font-size: 8pt; text-align: center }
.lines { columns: 2; font-size: 6pt; line-height: 1.4 } .lines pre { margin: 0 0 2mm; break-inside: avoid }
table { border-collapse: collapse; font-size: 8pt }
td { padding: 0 4mm 0 0; vertical-align: top; overflow-wrap: anywhere }
"""

_STEPS = """
<ol>
<li>Start the replacement machine with Refloat on it, and a network to a site.</li>
<li>Bring the kit: the file, or scan the codes below in order into one file <code>fleet.kit</code>.</li>
<li><code>refloat kit open fleet.kit</code> asks for the passphrase and shows what the kit opens.</li>
<li><code>refloat images --kit fleet.kit</code> lists the images.</li>
<li><code>refloat restore</code> (<code>--help</code> shows how) with <code>--plan</code> prints what it would do.</li>
<li>The same without <code>--plan</code>: it asks for each target disk's serial, writes, and verifies every block.</li>
</ol>
"""


def printable(text: str, receipt: Receipt) -> str:
    """The page for the kit file `text` and its receipt. Nothing of it is secret without the passphrase."""
    groups = _groups(text)
    shown = _codes(groups) + _lines(groups) if len(groups) <= CODES_MAX else _too_large(len(text))
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<meta name="robots" content="noindex">\n'
        f"<title>Recovery kit of {escape(receipt.updated_at)}</title>\n<style>{_STYLE}</style>\n<body>\n"
        f"<h1>Refloat recovery kit</h1>\n<p>Of <b>{escape(receipt.updated_at)}</b>. With its passphrase, which is "
        "<b>not</b> on this page, it opens every image of the servers below. Keep both, apart; whoever has both has "
        "everything.</p>\n<h2>When a server is dead</h2>"
        f"{_STEPS}{shown}{_facts(receipt)}</body>\n</html>\n"
    )


def _groups(text: str) -> list[list[str]]:
    lines = text.splitlines()
    return [lines[start : start + _LINES] for start in range(0, len(lines), _LINES)]


def code_texts(text: str) -> list[str]:
    """What each QR code holds: whole lines, so that the scans put one after the other are the kit again."""
    return ["\n".join(group) + "\n" for group in _groups(text)]


def _codes(groups: list[list[str]]) -> str:
    found = []
    for number, group in enumerate(groups, 1):
        drawn = io.BytesIO()
        code = segno.make("\n".join(group) + "\n", error="m", micro=False, boost_error=False, mode="byte")
        code.save(drawn, kind="svg", xmldecl=False, svgns=True, omitsize=True, border=4, nl=False)
        found.append(f"<figure>{drawn.getvalue().decode()}<figcaption>{number} of {len(groups)}</figcaption></figure>")
    return f'<h2>The sealed kit</h2>\n<div class="codes">{"".join(found)}</div>\n'


def _lines(groups: list[list[str]]) -> str:
    blocks = "".join(f"<pre>{escape(chr(10).join(group))}</pre>" for group in groups)
    return f'<h2>The same, to be typed</h2>\n<div class="lines">{blocks}</div>\n'


def _too_large(length: int) -> str:
    return (
        f"<h2>The sealed kit</h2>\n<p>It has {length} characters, too many for paper: "
        "<b>keep the kit file itself</b> in two places; this page only says what is in it.</p>\n"
    )


def _facts(receipt: Receipt) -> str:
    rows = [("recipient", each, "") for each in receipt.recipients]
    rows += [(f"site {site.name} ({site.country})", site.url, ", ".join(site.addresses)) for site in receipt.sites]
    rows += [(f"server {server.name}", server.fingerprint, server.id) for server in receipt.servers]
    cells = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    digest = f"<p>SHA-256 of the file: <code>{receipt.kit_digest}</code></p>\n"
    return f"<h2>What is in it</h2>\n<table>\n{cells}</table>\n{digest}"
