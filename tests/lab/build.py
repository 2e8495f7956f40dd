"""A server's system and disks, built once and cached: mmdebstrap on the host, then one run in a guest.

The initramfs is made on the host, in the chroot: under emulation it takes many minutes. Partitions, LVM and the boot
loader are made by the server's own tools in a guest that starts from a throw-away helper disk.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.lab.cache import Artifact, Cache, digest_of_files
from tests.lab.machine import Drive, Machine
from tests.lab.network import network
from tests.lab.running import accelerator, started
from tests.lab.servers.base import Server
from tests.lab.tools import tool

_COMMON = Path(__file__).with_name("servers") / "common"
#: Documents and drivers that no server here has: emulated disks are slow.
_DOCUMENTS = ("doc", "man", "locale", "info", "help")
_DRIVERS = ("sound", "net/wireless", "net/bluetooth", *(f"drivers/{each}" for each in (
    "gpu", "media", "net/wireless", "infiniband", "staging", "iio", "isdn", "usb/gadget", "bluetooth")))  # fmt: skip
_EXCLUDED = (
    *(f"/usr/share/{each}/*" for each in _DOCUMENTS),
    *(f"{top}lib/modules/*/kernel/{each}/*" for each in _DRIVERS for top in ("/", "/usr/")),
)


def key(cache: Cache) -> Path:
    """The lab's own SSH key, made here and never anywhere else; the public half beside it."""

    def build(folder: Path) -> None:
        tool("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", folder / "key")

    return cache.get("key", ["ed25519"], build).path / "key"


def rootfs(cache: Cache, server: Server) -> Artifact:
    """The server's whole system as `rootfs.tar`, its host key as `known_hosts`."""
    public = key(cache).with_suffix(".pub")
    inputs = [server.suite, *server.all_packages, *_EXCLUDED, public.read_text(), server.address]
    inputs.append(digest_of_files(_COMMON, server.folder / "root", server.folder / "customize"))
    return cache.get(f"{server.name}-rootfs", inputs, lambda folder: _bootstrap(server, public, folder))


def _bootstrap(server: Server, public: Path, folder: Path) -> None:
    hooks = [f"sync-in {_COMMON}/root /", f"sync-in {server.folder}/root /"]
    hooks += ['mkdir -p "$1/root/.ssh"', f'install -m 600 {public} "$1/root/.ssh/authorized_keys"']
    for script in (_COMMON / "customize", server.folder / "customize", _COMMON / "finish"):
        hooks += [f'install -m 755 {script} "$1/lab-hook"', 'chroot "$1" /lab-hook', 'rm "$1/lab-hook"']
    hooks += [f'cp "$1/etc/ssh/ssh_host_ed25519_key.pub" {folder}/']
    argv = ["mmdebstrap", "--mode=root", "--variant=apt", f"--include={','.join(server.all_packages)}"]
    argv += ['--aptopt=Acquire::Languages "none"', '--aptopt=APT::Install-Recommends "false"']
    argv += [f"--dpkgopt=path-exclude={each}" for each in _EXCLUDED]
    argv += [f"--customize-hook={each}" for each in hooks]
    tool(*argv, server.suite, folder / "rootfs.tar", timeout=1800)
    host_key = (folder / "ssh_host_ed25519_key.pub").read_text().split()
    (folder / "known_hosts").write_text(f"{server.address} {host_key[0]} {host_key[1]}\n")


def disks(cache: Cache, server: Server) -> Artifact:
    """The server's disks as SERIAL.qcow2, with `known_hosts` and UEFI variables; nothing ever writes to them again."""
    system = rootfs(cache, server)
    inputs = [digest_of_files(server.folder / "install", _COMMON / "init", _COMMON / "unpack")]
    inputs += [f"{each.serial} {each.size_mib}" for each in server.disks]

    def build(folder: Path) -> None:
        shutil.copy(system.path / "known_hosts", folder)
        _install(server, system.path / "rootfs.tar", folder)

    return cache.get(f"{server.name}-disks", inputs, build, needs=[system])


def _install(server: Server, tar: Path, folder: Path) -> None:
    """Start the server's own system from a helper disk and let it put itself onto the server's disks."""
    work = folder / "work"
    tree = work / "tree"
    tree.mkdir(parents=True)
    tool("tar", "-xf", tar, "-C", tree, "--exclude=./dev/*")
    (tree / "lab").mkdir()
    for script in (_COMMON / "init", _COMMON / "unpack", server.folder / "install"):
        shutil.copy(script, tree / "lab" / script.name)
    kernel = max((tree / "boot").glob("vmlinuz-*"))
    initrd = max((tree / "boot").glob("initrd.img-*"))
    helper = work / "helper.img"
    with helper.open("wb") as file:
        file.truncate(4 << 30)
    tool("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", tree, helper)
    for each in server.disks:
        tool("qemu-img", "create", "-q", "-f", "qcow2", folder / f"{each.serial}.qcow2", f"{each.size_mib}M")
    machine = Machine(
        name=f"{server.name}-install",
        firmware=server.firmware,
        drives=(
            Drive(helper, "helper", format="raw"),
            Drive(tar, "rootfs", format="raw"),
            *(Drive(folder / f"{each.serial}.qcow2", each.serial) for each in server.disks),
        ),
        memory_mib=1536,
        kernel=kernel,
        initrd=initrd,
        append="root=/dev/vda rw console=ttyS0 init=/lab/init quiet",
    )
    with network(work) as net, started(machine, work, net, accelerator(kernel)) as running:
        running.expect("LAB-INSTALL-DONE", 900, unless="LAB-INSTALL-FAILED|Kernel panic")
        running.wait_off()
    shutil.copy(work / "serial.log", folder / "install.log")
    shutil.copy(work / "vars.fd", folder / "vars.fd")
    shutil.rmtree(work)
