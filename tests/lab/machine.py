"""What a QEMU machine is made of, as a value, and the command line that makes it. Starts nothing; `running` does."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

OVMF = Path("/usr/share/OVMF")


class Firmware(StrEnum):
    BIOS = "bios"
    UEFI = "uefi"


class Bus(StrEnum):
    """How a disk is attached, by the name of its QEMU device."""

    VIRTIO = "virtio-blk-pci"
    NVME = "nvme"
    SATA = "ide-hd"
    SCSI = "scsi-hd"


@dataclass(frozen=True)
class Drive:
    """A disk: its image file (qcow2 unless `format` says other), the serial the guest sees, and its sector size.

    A SCSI disk has as many `paths` as is said, each on a controller of its own, and then needs a `wwn` (`0x…`)."""

    path: Path
    serial: str
    bus: Bus = Bus.VIRTIO
    sector_bytes: int = 512
    format: str = "qcow2"
    readonly: bool = False
    wwn: str = ""
    paths: int = 1


@dataclass(frozen=True)
class Nic:
    """A network card on the lab's bridge. `model` is a QEMU device; `link` whether its cable is plugged in."""

    mac: str
    model: str = "virtio-net-pci"
    link: bool = True


@dataclass(frozen=True)
class Machine:
    """A machine. `boot` is the order of `disk`, `network`, `cdrom`; `kernel`, `initrd`, `append` start a kernel
    directly.

    `fw_cfg` are firmware configuration files (`opt/…`) by name; `uuid` is what DMI says; `nvram` are the UEFI variables
    it starts with (None: as from the factory). No TPM, sound or USB: what a lab does not need costs time.
    """

    name: str
    firmware: Firmware = Firmware.BIOS
    drives: tuple[Drive, ...] = ()
    nics: tuple[Nic, ...] = ()
    memory_mib: int = 1024
    chassis: str = "q35"
    boot: tuple[str, ...] = ("disk",)
    uuid: str = ""
    nvram: Path | None = None
    cdrom: Path | None = None
    kernel: Path | None = None
    initrd: Path | None = None
    append: str = ""
    fw_cfg: tuple[tuple[str, Path], ...] = ()

    def having(self, **changes: object) -> Machine:
        """The same machine but for these fields."""
        return replace(self, **changes)  # type: ignore[arg-type]


def command_line(machine: Machine, folder: Path, socket: Path, taps: tuple[str, ...], accelerator: str) -> list[str]:
    """QEMU's argv. `serial.log` and UEFI variables (`vars.fd`) lie in `folder`; QMP listens on `socket`."""
    argv = ["qemu-system-x86_64", "-name", machine.name, "-M", machine.chassis, *_processor(accelerator)]
    argv += [
        "-m",
        str(machine.memory_mib),
        "-smp",
        "2",
        "-display",
        "none",
        "-vga",
        "std",
        "-nodefaults",
        "-no-user-config",
    ]
    argv += ["-serial", f"file:{folder}/serial.log", "-qmp", f"unix:{socket},server=on,wait=off"]
    argv += ["-device", "virtio-rng-pci", "-rtc", "base=utc"]
    if machine.uuid:
        argv += ["-uuid", machine.uuid]
    if machine.firmware is Firmware.UEFI:
        argv += ["-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={OVMF}/OVMF_CODE_4M.fd"]
        argv += ["-drive", f"if=pflash,format=raw,unit=1,file={folder}/vars.fd"]
    for path in range(max((drive.paths for drive in machine.drives if drive.bus is Bus.SCSI), default=0)):
        argv += ["-device", f"virtio-scsi-pci,id=scsi{path}"]
    if machine.chassis == "pc" and any(drive.bus is Bus.SATA for drive in machine.drives):
        argv += ["-device", "ich9-ahci,id=ahci0"]
    order = {kind: number * 10 for number, kind in enumerate(machine.boot, 1)}
    for number, drive in enumerate(machine.drives):
        argv += _drive(machine, number, drive, order)
    for number, (nic, tap) in enumerate(zip(machine.nics, taps, strict=True)):
        # A boot ROM is fetched only where the network is booted from: without, the firmware does not wait for DHCP.
        boot = f",bootindex={order['network'] + number}" if "network" in order else ",romfile="
        argv += ["-netdev", f"tap,id=net{number},ifname={tap},script=no,downscript=no"]
        argv += ["-device", f"{nic.model},id=nic{number},netdev=net{number},mac={nic.mac}{boot}"]
    if machine.cdrom:
        boot = f",bootindex={order['cdrom']}" if "cdrom" in order else ""
        argv += ["-drive", f"if=none,id=cdrom,media=cdrom,readonly=on,file={machine.cdrom}"]
        argv += ["-device", f"ide-cd,drive=cdrom{boot}"]
    for option, value in (("-kernel", machine.kernel), ("-initrd", machine.initrd), ("-append", machine.append)):
        argv += [option, str(value)] if value else []
    for name, file in machine.fw_cfg:
        argv += ["-fw_cfg", f"name={name},file={file}"]
    return argv


def _processor(accelerator: str) -> list[str]:
    """TCG with a thread for each processor; Nehalem is the oldest model that Debian's tools are quick on."""
    if accelerator == "kvm":
        return ["-accel", "kvm", "-cpu", "host"]
    return ["-accel", "tcg,thread=multi", "-cpu", "Nehalem"]


def _drive(machine: Machine, number: int, drive: Drive, order: dict[str, int]) -> list[str]:
    # unsafe: a lab's power-off is a killed QEMU, which leaves the host's page cache as it is
    node = f"if=none,id=disk{number},file={drive.path},format={drive.format},cache=unsafe,discard=unmap"
    node += ",readonly=on" if drive.readonly else ""
    device = f"{drive.bus},id=dev{number},drive=disk{number},serial={drive.serial}"
    device += f",wwn={drive.wwn}" if drive.wwn else ""
    if drive.bus is Bus.SATA:
        device += f",bus={'ahci0' if machine.chassis == 'pc' else 'ide'}.{number}"
    if drive.bus is Bus.SCSI:
        device += ",bus=scsi0.0"
    if drive.sector_bytes != 512:
        device += f",logical_block_size={drive.sector_bytes},physical_block_size={drive.sector_bytes}"
    if "disk" in order:
        device += f",bootindex={order['disk'] + number}"
    if drive.paths == 1:
        return ["-drive", node, "-device", device]
    # one node below several devices: what one path has written the other reads
    argv = ["-drive", f"{node},node-name=node{number}"]
    device = device.replace(f"drive=disk{number}", f"drive=node{number},share-rw=on")
    for path in range(drive.paths):
        each = device.replace(f"id=dev{number}", f"id=dev{number}-{path}").replace("bus=scsi0.0", f"bus=scsi{path}.0")
        argv += ["-device", each if not path else re.sub(r",bootindex=\d+", "", each)]
    return argv
