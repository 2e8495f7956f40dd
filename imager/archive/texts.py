"""What an archive says in plain words and to its restore.sh: README.txt, layout/volumes, layout/nodes. Pure but for the
script, which is a file beside this one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from core.layout import Content, Layout, LvKind, VolumeSpec, partition_node
from imager.archive.sums import NAMESPACE, SIGNATURE, SUMS, public_line
from imager.keys import ServerKeys

_SCRIPT = Path(__file__).parent / "files" / "restore.sh"

_AT_SITE = """\
Refloat archive of server {server}, taken {image}: {what}.
Whoever reads this needs an age identity (AGE-SECRET-KEY-1..., from the recovery kit: refloat kit open --show-identity)
and these programs: sh, coreutils, tar, zstd, age, sfdisk; and ssh-keygen and openssl to check who wrote it.

1. Check who wrote it, in this folder{both}. The key must be the one pinned in the recovery kit; this line
   prints the fingerprint to compare, SHA256:...
     echo {key64} | base64 -d | tail -c 32 | openssl dgst -sha256 -binary | base64
     echo '{server} {key}' >signers
     ssh-keygen -Y verify -f signers -I {server} -n {namespace} -s {signature} <{sums}
     sha256sum --check {sums}

2. Take out the script and the layout ({newer}):
     mkdir work
     cat part-* | age -d -i IDENTITY | zstd -dc | tar -x -C work --occurrence restore.sh README.txt layout/volumes \\
       layout/nodes
     (that reads the beginning only, so zstd and age may say that a pipe broke)
   or everything that is written before the bytes of the disks:
     cat part-* | age -d -i IDENTITY | zstd -dc | tar -x -C work --exclude='data/*' --exclude='zero/*'

3. Read work/README.txt, and put the disks back. Every target is asked for again before it is overwritten:
     sh work/restore.sh IDENTITY {folders} NODE=/dev/DISK...
"""

_INSIDE = """\
Server {host}. Disks and what lies on them: layout/. Nodes to restore, with their sizes and sector sizes: layout/nodes.

Disks with partitions, whole:
{disks}

  restore.sh writes the partition table, the boot code and every partition; a target must be as large as the disk was,
  or larger. Blocks that no filesystem used are left as they are on the target: begin with a blank disk (blkdiscard, or
  dd if=/dev/zero) where what was on it must not stay.
{rest}"""

_SWAP = """
Swap is not archived; make it again so that fstab finds it:
{rows}
"""
_STACKED = """
What lies on md, LUKS or LVM restore.sh does not build. In this order, after the disks above:
{rows}
Then put back what lies on them, with the same restore.sh and archives:
  sh restore.sh IDENTITY {folders} {nodes}
"""


def first_members(
    layout: Layout, specs: Sequence[VolumeSpec], base_sums: str | None, dumps: Mapping[str, bytes]
) -> Iterator[tuple[str, bytes]]:
    """The members before the data: name and content."""
    yield "restore.sh", _SCRIPT.read_bytes()
    yield "README.txt", _inside(layout, specs, base_sums is not None).encode()
    yield (
        "layout/volumes",
        "".join(f"{each.name} {each.disk} {each.offset_bytes} {each.size_bytes}\n" for each in specs).encode(),
    )
    yield "layout/nodes", "".join(f"{name} {size} {sector}\n" for name, size, sector in _nodes(layout)).encode()
    if base_sums is not None:
        yield "layout/base", f"{base_sums}  -\n".encode()
    for name, data in sorted(dumps.items()):
        yield f"layout/{name}", data


def readme_at_site(keys: ServerKeys, image: str, base: str | None) -> bytes:
    """README.txt as it lies at the site, unencrypted: no secret, and enough to begin with."""
    key = public_line(keys.public_key)
    return _AT_SITE.format(
        server=keys.name, image=image, key=key, key64=key.split()[1], namespace=NAMESPACE,
        signature=SIGNATURE, sums=SUMS,
        what="a full, complete in itself" if base is None else f"what differs from the full {base}; both are needed",
        both="" if base is None else f" and in ../{base}",
        newer="of this archive" if base is None else "of this archive, not of the full",
        folders="." if base is None else f"../{base} .",
    ).encode()  # fmt: skip


def _nodes(layout: Layout) -> Iterator[tuple[str, int, int]]:
    """Every node that a volume may lie on: name, size and sector size in bytes."""
    for disk in layout.disks:
        yield disk.name, disk.size_bytes, disk.sector_bytes
        for part in disk.table.partitions if disk.table else ():
            yield partition_node(disk.name, part.number), part.size_bytes, disk.sector_bytes
    for node, _, size, _ in layout.stacked():
        yield node, size, 512


def _inside(layout: Layout, specs: Sequence[VolumeSpec], differential: bool) -> str:
    folders = "FULL DIFFERENTIAL" if differential else "FULL"
    disks = "\n".join(
        f"  sh restore.sh IDENTITY {folders} {disk.name}=/dev/DISK    # {disk.size_bytes} bytes, {disk.model} "
        f"{disk.serial}".rstrip()
        for disk in layout.disks
    )
    rest = _swap(layout)
    stacked = [each.disk for each in specs if each.disk not in {disk.name for disk in layout.disks}]
    if layout.arrays or layout.crypts or layout.groups:
        nodes = " ".join(f"{node}=/dev/..." for node in dict.fromkeys(stacked))
        rest += _STACKED.format(rows="\n".join(_builds(layout)), folders=folders, nodes=nodes)
    return _INSIDE.format(host=layout.hostname, disks=disks, rest=rest)


def _swap(layout: Layout) -> str:
    rows = [
        f"  mkswap -U {content.uuid}{f' -L {content.label}' if content.label else ''} {node}    # as it was"
        for node, content in _contents(layout)
        if content.type == "swap"
    ]
    return _SWAP.format(rows="\n".join(rows)) if rows else ""


def _contents(layout: Layout) -> Iterator[tuple[str, Content]]:
    for disk in layout.disks:
        for part in disk.table.partitions if disk.table else ():
            yield partition_node(disk.name, part.number), part.content
    for node, _, _, content in layout.stacked():
        yield node, content


def _builds(layout: Layout) -> Iterator[str]:
    """The commands that make md, LUKS and LVM again, a line each; nodes are to be replaced by devices."""
    for array in layout.arrays:
        members = [*array.members, *["missing"] * (array.slots - len(array.members))]
        chunk = f" --chunk={array.chunk_bytes >> 10}" if array.chunk_bytes else ""
        yield (
            f"  mdadm --create /dev/{array.name} --level={array.level} --raid-devices={array.slots} "
            f"--metadata={array.metadata} --uuid={array.uuid}{chunk} "
            f"--data-offset={array.data_offset_bytes >> 10} --assume-clean {' '.join(members)}"
        )
    for crypt in layout.crypts:
        yield f"  sh restore.sh ... {crypt.node}=/dev/...    # the LUKS header, onto what it lay on"
        yield f"  cryptsetup open {crypt.node} {crypt.name}"
    for group in layout.groups:
        for pv in group.pvs:
            yield f"  pvcreate --uuid {pv.uuid} --restorefile layout/{group.name}.vg {pv.node}"
        force = " --force" if any(each.kind in (LvKind.POOL, LvKind.THIN) for each in group.volumes) else ""
        yield f"  vgcfgrestore{force} --file layout/{group.name}.vg {group.name} && vgchange -ay {group.name}"
        if force:
            yield f"  # thin pools of {group.name}: their metadata is not archived; make pools and volumes anew"
            yield f"  # (lvcreate), with the sizes in layout/{group.name}.vg"
