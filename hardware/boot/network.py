"""The restored server's network files, made to mean the new cards.

Names stay: a `.link` file gives each new card its predecessor's. Where a file *recognises* a card by its address, the
address is exchanged; where it *sets* an address (a bond's, one that a switch or a licence expects), that is kept, and
said, unless the server is to be a clone. `rewrite` is pure. Imports `core`, `hardware.boot.{inside,values}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from core.layout import Interface
from hardware.boot.inside import Root
from hardware.boot.values import BootReport

_FILES = (
    "/etc/network/interfaces", "/etc/network/interfaces.d/*", "/etc/systemd/network/*.network",
    "/etc/systemd/network/*.link", "/etc/systemd/network/*.netdev", "/etc/systemd/network/*.d/*.conf",
    "/etc/netplan/*.yaml", "/etc/NetworkManager/system-connections/*", "/etc/NetworkManager/conf.d/*.conf",
    "/etc/sysconfig/network-scripts/ifcfg-*", "/etc/sysconfig/network/ifcfg-*", "/etc/udev/rules.d/*.rules",
    "/etc/cloud/cloud.cfg.d/*.cfg", "/etc/iftab", "/etc/network/iftab",
)  # fmt: skip
#: What sets an address: ifupdown, networkd in these sections, netplan outside `match:`, NetworkManager, ifcfg.
_SETS = re.compile(
    r"^\s*(hwaddress\b|cloned-mac-address\s*=|macaddr(ess)?\s*=|macaddress\s*:|lladdr\s*=)", re.IGNORECASE
)
_MANAGERS = {
    "ifupdown": "/etc/network/interfaces", "systemd-networkd": "/etc/systemd/network", "netplan": "/etc/netplan",
    "NetworkManager": "/etc/NetworkManager", "ifcfg": "/etc/sysconfig/network-scripts",
}  # fmt: skip


def rewrite(text: str, mapping: Mapping[str, str], *, also_set: bool = False) -> tuple[str, list[str]]:
    """The text with old addresses exchanged at once (two cards may have swapped), and the lines that set one and were
    left, unless `also_set`."""
    changes = {old: new for old, new in mapping.items() if old != new}
    if not changes:
        return text, []
    forms = {form: (new, style) for old, new in changes.items() for form, style in _forms(old)}
    pattern = re.compile("|".join(map(re.escape, sorted(forms))), re.IGNORECASE)
    lines, kept = text.split("\n"), list[str]()
    for at, recognises in enumerate(_recognising(lines)):
        if _SETS.match(lines[at]) and not recognises and not also_set:
            kept += [lines[at].strip()] if pattern.search(lines[at]) else []
        else:
            lines[at] = pattern.sub(lambda match: _styled(match[0], *forms[match[0].lower()]), lines[at])
    return "\n".join(lines), kept


def _recognising(lines: Sequence[str]) -> list[bool]:
    """For each line, whether it stands in a `[Match]` section or below a `match:` key."""
    found, section, below = [], False, -1
    for line in lines:
        depth = len(line) - len(line.lstrip())
        if line.lstrip().startswith("["):
            section = line.strip().lower() == "[match]"
        if line.strip() and depth <= below:
            below = -1
        if re.match(r"\s*match\s*:", line):
            below = depth
        found.append(section or below >= 0)
    return found


def _forms(mac: str) -> list[tuple[str, str]]:
    return [(mac, ":"), (mac.replace(":", "-"), "-")]


def _styled(found: str, new: str, separator: str) -> str:
    text = new.replace(":", separator)
    return text.upper() if found.upper() == found and found.lower() != found else text


def correct_network(
    root: Root, mapping: Mapping[str, str], before: Sequence[Interface], report: BootReport, *, clone: bool
) -> dict[str, bytes]:
    """Exchange addresses in every network file, and give the new cards their old names. Returns the `.link` files by
    name, for the initrd: a card may be named there already."""
    for path in [path for pattern in _FILES for path in root.glob(pattern)]:
        if "/10-refloat-" in path:
            continue
        # from the original: exchanging two addresses a second time would undo it
        new, kept = rewrite(root.original(path) or "", mapping, also_set=clone)
        if root.edit(path, root.text(path) or "", new):
            report.steps.append(f"network: {path} knows the new cards")
        report.warnings += [f"{path} goes on setting an old card's address: {line}" for line in kept]
    links = {f"10-refloat-{card.name}.link": link for card in before if (link := _link(root, card, mapping))}
    for name, data in links.items():
        if root.write(f"/etc/systemd/network/{name}", data):
            report.steps.append(f"network: {name.removeprefix('10-refloat-').removesuffix('.link')} keeps its name")
    return links


def _link(root: Root, card: Interface, mapping: Mapping[str, str]) -> bytes | None:
    new = mapping.get(card.mac.lower())
    if not new or not re.fullmatch(r"[A-Za-z0-9_.-]{1,15}", card.name):
        return None
    # before 243 there is only MACAddress=, which VLANs and bonds share with their cards; those have no path
    match = f"PermanentMACAddress={new}" if systemd_version(root) >= 243 else f"MACAddress={new}\nPath=*"
    return f"# by Refloat, when the server was restored\n[Match]\n{match}\n\n[Link]\nName={card.name}\n".encode()


def systemd_version(root: Root) -> int:
    """The restored server's systemd, by its library's name; 0 when there is none."""
    folders = ("/lib/systemd", "/usr/lib/systemd", "/usr/lib64/systemd", "/usr/lib/x86_64-linux-gnu/systemd")
    names = (name for folder in folders for name in root.names(folder))
    found = (re.match(r"libsystemd-shared-(\d+)", name) for name in names)
    return max((int(match[1]) for match in found if match), default=0)


def managers(root: Root) -> list[str]:
    """What configures this server's network, as far as there are files for it."""
    return [name for name, path in _MANAGERS.items() if root.exists(path)]
