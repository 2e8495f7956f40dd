"""Making filesystems anew: when one has to be, how much room that takes, and by which commands it is made as it was."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from core.errors import TargetError
from core.layout import Content
from core.run import Result, Runner
from core.sizes import GIB, MIB
from hardware.actions import RecreateFilesystem
from hardware.mkfs import recipe_of, xfs_sections
from hardware.recreate import least_recreated, own_bytes, sector_fault


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (Content(type="ext4", block_bytes=4096), ""),
        (Content(type="ext4", block_bytes=1024), "its blocks are of 1024 bytes"),
        (Content(type="ext4"), "its block size is not known"),
        (Content(type="btrfs", block_bytes=4096), ""),
        (Content(type="btrfs", block_bytes=65536), ""),
        (Content(type="xfs", block_bytes=4096, sector_bytes=512), "it was made for sectors of 512 bytes"),
        (Content(type="xfs", block_bytes=4096, sector_bytes=4096), ""),
        (Content(type="vfat", sector_bytes=512), "it was made for sectors of 512 bytes"),
        (Content(type="vfat", sector_bytes=4096), ""),
        (Content(type="vfat"), "the sectors it was made for are not known"),
        (Content(type="crypto_LUKS"), "nobody can tell whether crypto_LUKS depends on the sector size"),
        (Content(), "nobody can tell whether what is in it depends on the sector size"),
    ],
    ids=lambda value: f"{value.type}-{value.block_bytes}-{value.sector_bytes}" if isinstance(value, Content) else "",
)
def test_what_larger_sectors_need(content: Content, fault: str) -> None:
    assert sector_fault(content, 4096) == fault


@pytest.mark.parametrize("kind", ["ext2", "ext4", "xfs", "btrfs", "vfat"])
@pytest.mark.parametrize("used", [0, 100 * MIB, 40 * GIB])
def test_the_least_size_holds_what_is_used_and_the_filesystem_itself(kind: str, used: int) -> None:
    least = least_recreated(Content(type=kind, used_bytes=used))
    assert least is not None and least % MIB == 0
    assert least >= used + own_bytes(kind, least)
    assert kind != "xfs" or least >= 300 * MIB


def test_nobody_guesses_what_is_used() -> None:
    assert least_recreated(Content(type="xfs")) is None
    assert least_recreated(Content(type="crypto_LUKS", used_bytes=1)) is None


# by which commands


class Told:
    """A runner whose tools print what was recorded; only those may be asked."""

    def __init__(self, **texts: str) -> None:
        self._texts = texts

    def run(self, argv: list[str], **_more: object) -> Result:
        return Result(tuple(argv), 0, self._texts[argv[0]].encode(), b"")


def _recipe(kind: str, sector: int = 512, **texts: str) -> str:
    action = RecreateFilesystem(
        volume="v", disk="d", path="/dev/x", type=kind, uuid="u-u", label="as_udev_says", offset_bytes=0,
        size_bytes=GIB, from_bytes=2 * GIB, used_bytes=1, sector_bytes=sector,
    )  # fmt: skip
    runner = cast(Runner, Told(**{"blkid": "a label\n", **texts}))
    made = recipe_of("/dev/loop9", action, 1000, runner)
    assert "as_udev_says" not in made.make
    return " ".join((*made.make, *made.names, "|", *made.tune, "|", *made.rename))


XFS = """\
meta-data=/dev/loop9             isize=512    agcount=4, agsize=25600 blks
         =                       sectsz=512   attr=2, projid32bit=1
         =                       crc=1        finobt=1, sparse=1, rmapbt=0
         =                       reflink=0    bigtime=0 inobtcount=0 nrext64=0
data     =                       bsize=4096   blocks=102400, imaxpct=25
         =                       sunit=0      swidth=0 blks
naming   =version 2              bsize=4096   ascii-ci=0, ftype=1
log      =internal log           bsize=4096   blocks=16384, version=2
         =                       sectsz=512   sunit=0 blks, lazy-count=1
realtime =none                   extsz=4096   blocks=0, rtextents=0
"""


def test_xfs_gets_no_feature_that_it_did_not_have() -> None:
    assert xfs_sections(XFS)["log"]["kind"] == "internal log"
    made = _recipe("xfs", xfs_db=XFS)
    assert "-m crc=1,finobt=1,rmapbt=0,reflink=0,bigtime=0,inobtcount=0" in made and "nrext64=0" in made
    assert "-L a label" in made and "-m uuid=u-u" in made and "-s size=512" in made and "-b size=4096" in made
    assert "-s size=4096" in _recipe("xfs", 4096, xfs_db=XFS)
    with pytest.raises(TargetError, match="another device"):
        _recipe("xfs", xfs_db=XFS.replace("internal log ", "external log "))


def test_a_newer_xfs_prints_more_and_that_is_carried_over_too() -> None:
    newer = XFS.replace("nrext64=0", "nrext64=1\n         =                       exchange=1   metadir=0")
    assert "nrext64=1,exchange=1" in _recipe("xfs", xfs_db=newer.replace("ftype=1", "ftype=1, parent=1"))
    assert "-n parent=1" in _recipe("xfs", xfs_db=newer.replace("ftype=1", "ftype=1, parent=1"))
    with pytest.raises(TargetError, match="metadir"):
        _recipe("xfs", xfs_db=newer.replace("metadir=0", "metadir=1"))


EXT = """\
Filesystem UUID:          e2c2c884-b648-4620-bd69-b20e1cffc8ed
Filesystem features:      has_journal ext_attr dir_index orphan_file filetype needs_recovery extent 64bit
Default mount options:    user_xattr acl
Errors behavior:          Remount read-only
Inode count:              131072
Block count:              524288
Reserved block count:     26214
Block size:               4096
Inode size:\t          128
Journal inode:            8
"""


def test_ext_gets_the_same_features_inodes_and_habits() -> None:
    made = _recipe("ext4", dumpe2fs=EXT)
    assert "-O none,has_journal,ext_attr,dir_index,orphan_file,filetype,extent,64bit -b 4096 -I 128 -N 65536" in made
    assert "-m 5.0 -e remount-ro" in made and "-L a label" in made and "-U u-u" in made
    assert "| tune2fs -o user_xattr,acl |" in made
    small = EXT.replace("Block size:               4096", "Block size:               1024")
    assert "-b 4096" in _recipe("ext4", 4096, dumpe2fs=small)
    with pytest.raises(TargetError, match="encrypt"):
        _recipe("ext4", dumpe2fs=EXT.replace("64bit", "64bit encrypt"))
    with pytest.raises(TargetError, match="another device"):
        _recipe("ext4", dumpe2fs=EXT.replace("Journal inode", "Journal device"))


BTRFS = """\
superblock: bytenr=65536, device=/dev/loop9
csum_type\t\t0 (crc32c)
fsid\t\t\t2e8abaf9-b202-44e5-915a-d0fc37a72e0f
sectorsize\t\t4096
nodesize\t\t16384
num_devices\t\t1
compat_ro_flags\t\t0x3
\t\t\t( FREE_SPACE_TREE |
\t\t\t  FREE_SPACE_TREE_VALID )
incompat_flags\t\t0x341
\t\t\t( MIXED_BACKREF |
\t\t\t  EXTENDED_IREF |
\t\t\t  SKINNY_METADATA )
"""


def test_btrfs_is_named_when_it_is_filled() -> None:
    made = _recipe("btrfs", btrfs=BTRFS)
    assert "-s 4096 -n 16384 -O extref,skinny-metadata,^no-holes -R free-space-tree -L a label |" in made
    assert made.endswith("| btrfstune -f -U u-u")
    with pytest.raises(TargetError, match="2 devices"):
        _recipe("btrfs", btrfs=BTRFS.replace("num_devices\t\t1", "num_devices\t\t2"))


@pytest.mark.parametrize(
    ("size", "words"), [(64 * MIB, "-F 16 -s 1"), (300 * MIB, "-F 32 -s 1"), (8 * MIB, "-S 4096 -n")], ids=str
)
def test_fat_is_as_wide_as_its_clusters_say(tmp_path: Path, size: int, words: str) -> None:
    boot = bytearray(512)
    boot[11:13] = (512).to_bytes(2, "little")  # FAT32: no size of a FAT16's table at 22
    old = tmp_path / "old"
    old.write_bytes(boot)
    action = RecreateFilesystem(
        volume="v", disk="d", path="/dev/x", type="vfat", uuid="C0FF-EE01", label="ESP", offset_bytes=0,
        size_bytes=size, from_bytes=size, used_bytes=None, sector_bytes=4096,
    )  # fmt: skip
    made = recipe_of(str(old), action, 10, cast(Runner, Told(blkid="ESP\n")))
    assert words in " ".join(made.make) and made.names == ("-i", "C0FFEE01")
    assert bool(made.note) == (size < 300 * MIB)
