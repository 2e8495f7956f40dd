"""Makes a filesystem like one that was there: same UUID and label, and no feature that the old one did not have.

The server's own kernel, maybe older than the rescue environment's, must be able to mount it. `recipe_of` reads the old
one, `rehearse` tries the recipe without a target, `make_filesystem` and `name_filesystem` follow it. Imports `core` and
`hardware.{actions,facts}`.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from core.errors import TargetError
from core.run import Runner
from core.sizes import TIB
from hardware.actions import RecreateFilesystem
from hardware.facts import facts_of, read_range

_HOUR = 3600.0
#: A rehearsal is in a sparse file, and files have an end.
_REHEARSED_BYTES = TIB


@dataclass(frozen=True)
class Recipe:
    """`make`: the command, to which the device is added; `names`: the options that give it its UUID, left out of a
    rehearsal; `dry`: options that make it write nothing; `tune`: a command for afterwards; `rename`: one that gives it
    its UUID when it is filled; `note`: what a person should know."""

    make: tuple[str, ...]
    names: tuple[str, ...] = ()
    dry: tuple[str, ...] = ()
    tune: tuple[str, ...] = ()
    rename: tuple[str, ...] = ()
    note: str = ""


def recipe_of(node: str, action: RecreateFilesystem, inodes: int, runner: Runner) -> Recipe:
    """How to make anew what is on `node`, with room for `inodes` files and folders. Raises TargetError for what cannot
    be made (several devices, an external log, a feature nobody can carry over), ToolError."""
    # a layout has labels as udev writes them, with blanks replaced
    argv = ["blkid", "--probe", "--output", "value", "--match-tag", "LABEL", node]
    label = runner.run(argv, purpose=f"read the label of {action.volume}", ok=(0, 2)).text.removesuffix("\n")
    return _RECIPES[action.type](node, msgspec.structs.replace(action, label=label), inodes, runner)


def rehearse(recipe: Recipe, action: RecreateFilesystem, folder: Path, runner: Runner) -> None:
    """Make it in a sparse file: what mkfs refuses is known before the first write. Raises TargetError."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix="refloat-rehearsal-") as file:
        file.truncate(min(action.size_bytes, _REHEARSED_BYTES))
        done = runner.run(
            [*recipe.make, *recipe.dry, file.name], purpose=f"rehearse {action.volume}", ok=range(256), timeout=_HOUR
        )
    if done.code:
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()
        raise TargetError(
            f"{action.volume}: {recipe.make[0]} cannot make it as it was: {said[-1] if said else done.code}",
            hint="nothing was written; use a larger disk, or restore it as it is",
        )


def make_filesystem(recipe: Recipe, node: str, runner: Runner) -> None:
    """Make it on a device; what was there is gone, also where only a signature told of it. Raises ToolError."""
    runner.run(["wipefs", "--all", "--force", node], purpose=f"clear {node}")
    runner.run([*recipe.make, *recipe.names, node], purpose=f"make a filesystem on {node}", timeout=_HOUR)
    if recipe.tune:
        runner.run([*recipe.tune, node], purpose=f"tune the filesystem on {node}")


# btrfstune refuses a UUID that any device shows, and the old disk may well be there (a restore into a file, on the
# server itself). It looks for devices in /dev; its own /dev, in a mount namespace of its own, has the one.
_ALONE = 'mount -t tmpfs -o mode=0700 refloat /dev && mknod /dev/target b "$1" "$2" && shift 2 && exec "$@" /dev/target'


def name_filesystem(recipe: Recipe, node: str, runner: Runner) -> None:
    """Give a filled filesystem its UUID, where it could not have it before. Raises ToolError."""
    if recipe.rename:
        numbers = [str(number) for number in facts_of(node).rdev or ()]
        alone = ["unshare", "--mount", "sh", "-c", _ALONE, "sh", *numbers]
        runner.run([*alone, *recipe.rename], purpose=f"name the filesystem on {node}", timeout=24 * _HOUR)


# -- ext2, ext3, ext4 ------------------------------------------------------------------------------------------------

#: Set by the kernel, or while something is under way; not for mke2fs.
_EXT_PASSING = {"needs_recovery", "orphan_present", "journal_dev", "recover"}
#: What inode tables take at most, in thousandths of the filesystem; 16 with mke2fs's defaults.
_EXT_TABLES = 25
_EXT_FOREIGN = {"encrypt", "verity", "casefold"}
_EXT_ERRORS = {"Continue": "continue", "Remount read-only": "remount-ro", "Panic": "panic"}


def _ext(node: str, action: RecreateFilesystem, inodes: int, runner: Runner) -> Recipe:
    text = runner.run(["dumpe2fs", "-h", node], purpose=f"read the superblock of {action.volume}").text
    facts = dict(re.findall(r"^([A-Z][\w -]*?):[ \t]+(\S.*?)[ \t]*$", text, re.MULTILINE))
    features = [each for each in facts["Filesystem features"].split() if each not in _EXT_PASSING]
    if foreign := _EXT_FOREIGN.intersection(features):
        _refuse(action, f"its {', '.join(sorted(foreign))} files cannot be copied by reading them")
    if "has_journal" in features and "Journal inode" not in facts:
        _refuse(action, "its journal is on another device")
    blocks, old = int(facts["Block count"]), int(facts["Inode count"])
    share = action.size_bytes / max(int(facts["Block size"]) * blocks, 1)
    # tables as dense as before, as far as is reckoned with (recreate.own_bytes), or as the files need
    dense = min(math.ceil(old * share), action.size_bytes * _EXT_TABLES // 1000 // int(facts["Inode size"]))
    count = max(dense, inodes * 5 // 4 + 64)
    reserved = round(100 * int(facts["Reserved block count"]) / max(blocks, 1), 2)
    make = ["mke2fs", "-q", "-F", "-t", action.type, "-O", ",".join(["none", *features])]
    make += ["-b", str(max(int(facts["Block size"]), action.sector_bytes)), "-I", facts["Inode size"], "-N", str(count)]
    make += ["-m", str(min(reserved, 50)), "-e", _EXT_ERRORS.get(facts["Errors behavior"], "continue")]
    make += ["-C", facts["Cluster size"]] if "bigalloc" in features else []
    make += ["-E", "nodiscard", *(["-L", action.label] if action.label else [])]
    mount = facts.get("Default mount options", "(none)")
    tune = ("tune2fs", "-o", ",".join(mount.split())) if mount != "(none)" else ()
    names = ("-U", action.uuid) if action.uuid else ()
    return Recipe(tuple(make), names, ("-n",), tune, note=_quota(action) if "quota" in features else "")


# -- xfs -------------------------------------------------------------------------------------------------------------

#: Options of mkfs.xfs, and what they carry over of a section that xfs_db prints.
_XFS_CARRIED = (
    ("-m", "meta-data", ("crc", "finobt", "rmapbt", "reflink", "bigtime", "inobtcount")),
    ("-i", "meta-data", ("sparse", "projid32bit", "nrext64", "exchange")),
    ("-n", "naming", ("parent",)),
)


def xfs_sections(text: str) -> dict[str, dict[str, str]]:
    """What `xfs_db -c info` prints, by section; a line without a name goes on with the one before. The words between
    the `=` of a section and its first pair are its `kind` (`version 2`, `internal log`, `none`)."""
    found: dict[str, dict[str, str]] = {}
    name = ""
    for line in text.splitlines():
        head, equals, rest = line.partition("=")
        if not equals:
            continue
        name = head.strip() or name
        section = found.setdefault(name, {})
        pairs = re.findall(r"([\w-]+)=\s*([^\s,]+)", rest)
        section.setdefault("kind", re.split(r"\s[\w-]+=", f" {rest}")[0].strip())
        for key, value in pairs:
            section.setdefault(key, value)
    return found


def _xfs(node: str, action: RecreateFilesystem, _inodes: int, runner: Runner) -> Recipe:
    commands = ["-c", "info", "-c", "sb 0", "-c", "p uquotino gquotino"]
    text = runner.run(["xfs_db", "-r", *commands, node], purpose=f"read the superblock of {action.volume}").text
    facts = xfs_sections(text)
    quota = re.search(r"^[ug]quotino = [1-9]\d*$", text, re.MULTILINE)
    if "internal" not in facts["log"]["kind"] or facts["realtime"]["kind"] != "none":
        _refuse(action, "its log or its realtime part is on another device")
    if facts["meta-data"].get("metadir", "0") != "0":
        _refuse(action, "it keeps its metadata in a folder (metadir), which is not carried over")
    meta, naming = facts["meta-data"], facts["naming"]
    sector = max(int(meta["sectsz"]), action.sector_bytes)
    block = max(int(facts["data"]["bsize"]), sector)
    make = ["mkfs.xfs", "-q", "-f", "-K", "-b", f"size={block}", "-s", f"size={sector}"]
    make += ["-i", f"size={meta['isize']},maxpct={facts['data']['imaxpct']}"]
    make += ["-n", f"size={max(int(naming['bsize']), block)}"]
    make += ["-n", "version=ci"] if naming["ascii-ci"] == "1" else []
    if meta["crc"] == "0":  # with checksums it always has types in its folders
        make += ["-n", f"ftype={naming['ftype']}"]
    for option, section, keys in _XFS_CARRIED:
        # a key that this xfsprogs does not print, its mkfs does not know
        pairs = [f"{key}={facts[section][key]}" for key in keys if key in facts[section]]
        make += [option, ",".join(pairs)] if pairs else []
    make += ["-L", action.label] if action.label else []
    names = ("-m", f"uuid={action.uuid}") if action.uuid else ()
    return Recipe(tuple(make), names, ("-N",), note=_quota(action) if quota else "")


# -- btrfs -----------------------------------------------------------------------------------------------------------

_BTRFS_OPTIONAL = {"EXTENDED_IREF": "extref", "SKINNY_METADATA": "skinny-metadata", "NO_HOLES": "no-holes"}
_BTRFS_FOREIGN = {"ZONED", "EXTENT_TREE_V2", "RAID_STRIPE_TREE", "REMAP_TREE"}


def _btrfs(node: str, action: RecreateFilesystem, _inodes: int, runner: Runner) -> Recipe:
    argv = ["btrfs", "inspect-internal", "dump-super", node]
    text = runner.run(argv, purpose=f"read the superblock of {action.volume}").text
    facts = dict(re.findall(r"^(\w+)\t+(\S+)", text, re.MULTILINE))
    # flags are listed below their number, in brackets
    flags = set(re.findall(r"\b[A-Z][A-Z0-9_]{3,}\b", text))
    if facts["num_devices"] != "1":
        _refuse(action, f"it lies on {facts['num_devices']} devices")
    if foreign := _BTRFS_FOREIGN & flags:
        _refuse(action, f"its features {', '.join(sorted(foreign))} are not carried over")
    features = [name if flag in flags else f"^{name}" for flag, name in _BTRFS_OPTIONAL.items()]
    features += ["mixed-bg"] if "MIXED_GROUPS" in flags else []
    features += ["block-group-tree"] if "BLOCK_GROUP_TREE" in flags else []
    tree = "free-space-tree" if "FREE_SPACE_TREE" in flags else "^free-space-tree"
    make = ["mkfs.btrfs", "-q", "-f", "-K", "-s", facts["sectorsize"], "-n", facts["nodesize"]]
    make += ["-O", ",".join(features), "-R", tree, *(["-L", action.label] if action.label else [])]
    # it is named when it is done: two filesystems of one UUID cannot be mounted at a time
    return Recipe(tuple(make), rename=("btrfstune", "-f", "-U", action.uuid))


# -- vfat ------------------------------------------------------------------------------------------------------------

#: FAT32 has at least 65,525 clusters, FAT16 at least 4,085 (FAT specification 1.03, 3.5), and firmware goes by their
#: number; the tables take some of them.
_FAT32_CLUSTERS, _FAT16_CLUSTERS = 66_000, 4_200


def _vfat(node: str, action: RecreateFilesystem, _inodes: int, _runner: Runner) -> Recipe:
    boot = read_range(node, 0, 512)
    sector = max(int.from_bytes(boot[11:13], "little"), action.sector_bytes)
    cluster = max(4096, sector)
    clusters, was_fat32 = action.size_bytes // cluster, boot[22:24] == b"\0\0"
    make = ["mkfs.vfat", "-S", str(sector)]
    if was_fat32 and clusters >= _FAT32_CLUSTERS:
        make += ["-F", "32", *(["-s", str(cluster // sector)] if action.size_bytes < 8 << 30 else [])]
    elif _FAT16_CLUSTERS <= clusters < _FAT32_CLUSTERS // 2:
        make += ["-F", "16", "-s", str(cluster // sector)]
    # else mkfs.vfat takes the width and the clusters that go with the size
    make += ["-n", action.label] if action.label else []
    note = f"{action.volume} was FAT32, and is too small for that on this disk: it becomes a smaller kind of FAT"
    names = ("-i", action.uuid.replace("-", "")) if action.uuid else ()
    return Recipe(tuple(make), names, note=note if was_fat32 and clusters < _FAT32_CLUSTERS else "")


def _quota(action: RecreateFilesystem) -> str:
    return f"{action.volume}: limits of quotas are not carried over, set them again"


def _refuse(action: RecreateFilesystem, why: str) -> None:
    raise TargetError(
        f"{action.volume} cannot be made anew: {why}", hint="nothing was written; use a disk it fits on as it is"
    )


_RECIPES: dict[str, Callable[[str, RecreateFilesystem, int, Runner], Recipe]] = {
    "ext2": _ext, "ext3": _ext, "ext4": _ext, "xfs": _xfs, "btrfs": _btrfs, "vfat": _vfat,
}  # fmt: skip
