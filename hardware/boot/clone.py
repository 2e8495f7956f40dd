"""Makes the restored server another one: name, machine id, SSH host keys, Refloat's own identity.

Keys are made here, not at first boot: the clone must never answer with the old server's. Imports
`hardware.boot.{inside,values}`.
"""

from __future__ import annotations

import re
import uuid

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from core.errors import TargetError
from hardware.boot.inside import Root
from hardware.boot.values import BootReport

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*")
_SHARED = ("/etc/iscsi/initiatorname.iscsi", "/etc/nvme/hostnqn", "/etc/nvme/hostid", "/etc/krb5.keytab")
_REFLOAT = ("/var/lib/refloat", "/etc/refloat/refloat.toml", "/etc/refloat/kit.receipt")
_Key = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def check_name(name: str) -> None:
    """Raises TargetError for what is no host name."""
    if not _NAME.fullmatch(name) or len(name) > 64:
        raise TargetError(f"{name!r} is no host name", hint="letters, digits, hyphens and dots")


def make_clone(root: Root, name: str, report: BootReport) -> None:
    """Give the restored server an identity of its own. Doing it twice gives it another."""
    check_name(name)
    old = (root.original("/etc/hostname") or "").strip()
    root.write("/etc/hostname", f"{name}\n")
    if old and old != name and (hosts := root.original("/etc/hosts")) is not None:
        root.write("/etc/hosts", rename_hosts(hosts, old, name))
    machine = uuid.uuid4().hex
    root.write("/etc/machine-id", f"{machine}\n", mode=0o444)
    if root.real("/var/lib/dbus/machine-id") not in (None, "/etc/machine-id"):
        root.write("/var/lib/dbus/machine-id", f"{machine}\n")
    report.steps.append(f"clone: is {name} now, was {old or 'unnamed'}; new machine id")
    _renew_host_keys(root, name, report)
    aside = [path for path in _REFLOAT if root.set_aside(path)]
    report.steps += [f"clone: {path} set aside, it is the old server's" for path in aside]
    report.warnings += [f"{path} is the same as the old server's" for path in _SHARED if root.exists(path)]


def rename_hosts(text: str, old: str, new: str) -> str:
    """hosts(5) with the old name, long and short, replaced wherever it stands as a word of its own."""
    pairs = {old: new, old.partition(".")[0]: new.partition(".")[0]}
    lines = []
    for line in text.split("\n"):
        body, mark, comment = line.partition("#")
        body = re.sub(r"\S+", lambda match: pairs.get(match[0], match[0]), body)
        lines.append(body + mark + comment)
    return "\n".join(lines)


def _renew_host_keys(root: Root, name: str, report: BootReport) -> None:
    found = [path for path in root.glob("/etc/ssh/ssh_host_*_key")]
    for path in found:
        kind = path.removeprefix("/etc/ssh/ssh_host_").removesuffix("_key")
        key = _new_key(kind)
        if key is None:
            root.set_aside(path)
            continue
        private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        # no copy is kept: the old server's keys have no business on its clone
        root.write(path, private, mode=0o600, keep=False)
        root.write(f"{path}.pub", public + f" root@{name}\n".encode(), keep=False)
    if found:
        report.steps.append("clone: new SSH host keys")


def _new_key(kind: str) -> _Key | None:
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind == "ecdsa":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(65537, 3072) if kind == "rsa" else None
