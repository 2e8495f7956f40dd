"""The restored kernels: which there are, what modules each has, and which of them a device needs.

Kernels differ in what is built in and what a driver is called, so a device's own modalias is looked up in the restored
kernel's tables; what the rescue kernel uses is only a hint. Imports `core` and `hardware.boot.{inside,values}`.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from core.layout import Layout, LvKind
from hardware.boot.inside import Root
from hardware.boot.values import Kernel

_SUFFIX = re.compile(r"\.ko(\.(xz|zst|gz))?$")
_ESPS = ("/boot", "/boot/efi", "/efi")
_BRIDGE = re.compile(r"pci:.*bc06")
_MAP_PARTITION = re.compile(r"part\d+-mpath-")
_RAID = {"raid4": "raid456", "raid5": "raid456", "raid6": "raid456"}


def module_name(path: str) -> str:
    """`kernel/drivers/nvme/host/nvme-core.ko.xz` → `nvme_core`, as the kernel calls it."""
    return _SUFFIX.sub("", os.path.basename(path)).replace("-", "_")


def is_module(path: str) -> bool:
    """Whether this is a module's file name."""
    return _SUFFIX.search(path) is not None


def find_kernels(root: Root) -> list[Kernel]:
    """The kernels that have modules, newest version first; rescue kernels of Fedora's kind left out. systemd-boot's
    copies on the ESP (kernel-install(8): MACHINE-ID/VERSION/) count besides those in /boot."""
    found = []
    for image in [*root.glob("/boot/vmlinuz-*"), *(path for base in _ESPS for path in root.glob(f"{base}/*/*/linux"))]:
        folder, name = os.path.split(image)
        version = os.path.basename(folder) if name == "linux" else name.removeprefix("vmlinuz-")
        if not root.exists(f"/lib/modules/{version}/modules.dep"):
            continue
        names = (f"initrd.img-{version}", f"initramfs-{version}.img", f"initrd-{version}", "initrd")
        initrds = (f"{folder}/{each}" for each in names if name == "linux" or each != "initrd")
        found.append(Kernel(version, image, next((each for each in initrds if root.exists(each)), "")))
    return sorted(found, key=lambda kernel: _version_key(kernel.version), reverse=True)


def _version_key(version: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"\d+|[^\d.]+", version)]


@dataclass(frozen=True)
class Modules:
    """One kernel's modules. `files` maps a module's name to its path below lib/modules/VERSION, `needs` to those of
    the modules it depends on; `aliases` are the patterns of modules.alias with the module each names."""

    version: str
    files: dict[str, str] = field(default_factory=dict)
    needs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    builtin: frozenset[str] = frozenset()
    aliases: tuple[tuple[str, str], ...] = ()

    @classmethod
    def load(cls, root: Root, version: str) -> Modules:
        """Read the tables that depmod(8) left in the restored system."""
        base = f"/lib/modules/{version}"
        rows = [line.partition(":") for line in (root.text(f"{base}/modules.dep") or "").splitlines()]
        files = {module_name(path): path for path, _colon, _needs in rows if _plain(path)}
        needs = {module_name(path): tuple(filter(_plain, after.split())) for path, _colon, after in rows}
        builtin = frozenset(map(module_name, (root.text(f"{base}/modules.builtin") or "").split()))
        aliases = [line.split() for line in (root.text(f"{base}/modules.alias") or "").splitlines()]
        pairs = tuple((words[1], words[2].replace("-", "_")) for words in aliases if len(words) == 3)
        _add_soft(root.text(f"{base}/modules.softdep") or "", files, needs, pairs)
        return cls(version, files, needs, builtin, pairs)

    def matching(self, modalias: str) -> tuple[str, ...]:
        """The modules that say they drive a device of this modalias."""
        kind = modalias.partition(":")[0]
        return tuple(
            dict.fromkeys(
                name
                for pattern, name in self.aliases
                if pattern.startswith(kind) and fnmatch.fnmatchcase(modalias, pattern)
            )
        )

    def closure(self, names: Iterable[str]) -> list[str]:
        """The files of these modules and of all they depend on, sorted."""
        todo, seen = list(names), set[str]()
        while todo:
            name = todo.pop()
            if name not in seen and name in self.files:
                seen.add(name)
                todo += map(module_name, self.needs.get(name, ()))
        return sorted(self.files[name] for name in seen)

    def has(self, name: str) -> bool:
        """Whether the kernel has it, as a module or built in."""
        return name in self.files or name in self.builtin


def _add_soft(
    text: str, files: Mapping[str, str], needs: dict[str, tuple[str, ...]], aliases: tuple[tuple[str, str], ...]
) -> None:
    """`softdep NAME pre: OTHER …` names modules or aliases (`crct10dif`, which sd_mod's checksums ask for)."""
    by_alias: dict[str, list[str]] = {}
    for pattern, name in aliases:
        by_alias.setdefault(pattern.replace("-", "_"), []).append(name)
    for line in text.splitlines():
        words = [word.replace("-", "_") for word in line.split()]
        if words[:1] == ["softdep"] and words[1] in needs:
            soft = [each for word in words[2:] for each in ([word] if word in files else by_alias.get(word, []))]
            needs[words[1]] += tuple(files[each] for each in soft if each in files)


def _plain(path: str) -> bool:
    """modules.dep is the server's; a path in it must stay below its folder."""
    return not path.startswith("/") and ".." not in path.split("/") and is_module(path)


@dataclass(frozen=True)
class Driven:
    """A device on the way to a disk or card: what it is called, its modalias, and the module or built-in driver that
    the rescue kernel uses."""

    device: str
    modalias: str
    module: str
    driver: str

    def wanted(self, modules: Modules) -> tuple[tuple[str, ...], bool]:
        """The modules the restored kernel needs for it, and whether it has a driver at all."""
        name = self.module.replace("-", "_")
        if name and modules.has(name):
            return (name,), True
        if self.driver.replace("-", "_") in modules.builtin or (not name and _BRIDGE.match(self.modalias)):
            return (), True
        matches = modules.matching(self.modalias) if self.modalias else ()
        # what is built in has no alias line in older kernels; a driver that is built in here may be so there
        return matches, bool(matches) or not name


def chain_of(name: str, sys: Path = Path("/sys")) -> list[Driven]:
    """What drives the block device of that kernel name: all devices above it, and below what it is stacked on."""
    seen: dict[str, Driven] = {}
    for base in _bases(name, sys):
        for folder in _above(base):
            if (driven := _driven(folder)) is not None:
                seen.setdefault(str(folder), driven)
    return list(seen.values())


def card_chain(interface: str, sys: Path = Path("/sys")) -> list[Driven]:
    """What drives a network card: its own device only, since a bus without driver shows no card at all."""
    link = sys / "class/net" / interface / "device"
    driven = _driven(link.resolve()) if link.exists() else None
    return [driven] if driven else []


def stack_of(name: str, layout: Layout, sys: Path = Path("/sys")) -> tuple[tuple[str, str], ...]:
    """(module, program or nothing) that device-mapper and md need in an initrd for this block device, by what the
    kernel says it is made of."""
    folder = sys / "class/block" / name
    found: list[tuple[str, str]] = []
    if (uuid := _read(folder / "dm/uuid")).startswith("CRYPT-"):
        found += [("dm_mod", ""), ("dm_crypt", "cryptsetup")]
    elif uuid.startswith("mpath-"):
        # without a path selector the map cannot be made; service-time is what multipathd asks for unless told otherwise
        found += [("dm_multipath", "multipath"), ("dm_service_time", "")]
    elif _MAP_PARTITION.match(uuid):
        found.append(("dm_mod", "kpartx"))
    elif uuid:
        found.append(("dm_mod", "lvm"))
        kinds = {volume.node: volume.kind for group in layout.groups for volume in group.volumes}
        found += [("dm_thin_pool", "")] if kinds.get(_read(folder / "dm/name")) is LvKind.THIN else []
    if level := _read(folder / "md/level"):
        found += [("md_mod", "mdadm"), (_RAID.get(level, level), "")]
    for below in sorted((folder / "slaves").glob("*")):
        found += stack_of(below.name, layout, sys)
    return tuple(dict.fromkeys(found))


def _bases(name: str, sys: Path) -> Iterator[Path]:
    folder = (sys / "class/block" / name).resolve()
    below = sorted((folder / "slaves").glob("*"))
    for each in below:
        yield from _bases(each.name, sys)
    if below or not folder.exists():
        return
    whole = folder.parent if (folder / "partition").exists() else folder
    yield whole
    if "nvme-subsys" in str(whole):  # native multipath: the disk belongs to the subsystem, the controllers beside it
        yield from (each.resolve() for each in whole.parent.glob("nvme*") if re.fullmatch(r"nvme\d+", each.name))


def _above(folder: Path) -> Iterator[Path]:
    while folder.name not in ("devices", "") and folder != folder.parent:
        if (folder / "device").is_symlink():
            yield (folder / "device").resolve()
        yield folder
        folder = folder.parent


def _driven(folder: Path) -> Driven | None:
    if not (folder / "driver").exists():
        return None
    module = folder / "driver/module"
    return Driven(
        folder.name,
        _read(folder / "modalias"),
        module.resolve().name if module.exists() else "",
        (folder / "driver").resolve().name,
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except FileNotFoundError:
        return ""


def crypts_below(name: str, sys: Path = Path("/sys")) -> tuple[str, ...]:
    """UUIDs of the LUKS containers that this block device stands on, outermost last."""
    folder = sys / "class/block" / name
    found = tuple(each for below in sorted((folder / "slaves").glob("*")) for each in crypts_below(below.name, sys))
    # CRYPT-LUKS2-0123…-NAME
    match = re.match(r"CRYPT-LUKS\d-([0-9a-f]{32})-", _read(folder / "dm/uuid"))
    return (*found, match[1]) if match else found
