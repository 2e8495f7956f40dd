"""SHA256SUMS and its signature in OpenSSH's form, so that `sha256sum` and `ssh-keygen -Y verify` can check an archive.

Pure. The signature's form is OpenSSH's PROTOCOL.sshsig; a reader here takes only the one encoding that `sign_sums`
makes. May import `imager.keys`, `core`.
"""

from __future__ import annotations

import base64
import hashlib
import re
import struct
from collections.abc import Callable, Mapping

from core.errors import FormatError, TrustError
from imager.keys import fingerprint, verify_signature

NAMESPACE = "refloat-archive"
SUMS = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.sig"
README = "README.txt"
DESCRIPTION = "image.json"
SUMS_MAX = 512 << 20
SIGNATURE_MAX = 4 << 10
_MAGIC = b"SSHSIG"
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._-]*)")


def part_name(number: int) -> str:
    """The name of a part within its archive's folder."""
    return f"part-{number:06d}"


def format_sums(sums: Mapping[str, str]) -> bytes:
    """The text of SHA256SUMS: name → hex digest, as `sha256sum` prints it, in this order."""
    return "".join(f"{digest}  {name}\n" for name, digest in sums.items()).encode()


def parse_sums(data: bytes) -> dict[str, str]:
    """Name → digest: README.txt, image.json, and parts numbered without a gap. FormatError for anything else."""
    try:
        lines = data.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise FormatError("SHA256SUMS is not text") from error
    found = [_LINE.fullmatch(line) for line in lines[:-1]]
    names = [each.group(2) if each else "" for each in found]
    wanted = [README, DESCRIPTION, *(part_name(number) for number in range(len(names) - 2))]
    if lines[-1] or len(names) < 3 or names != wanted:
        raise FormatError("SHA256SUMS does not list README.txt, image.json and parts without a gap")
    return {each.group(2): each.group(1) for each in found if each}


def public_line(public_key: bytes) -> str:
    """An Ed25519 public key as OpenSSH writes it."""
    return f"ssh-ed25519 {base64.b64encode(_blob(public_key)).decode()}"


def sign_sums(data: bytes, public_key: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    """The armoured signature over the bytes of SHA256SUMS."""
    body = base64.b64encode(_sshsig(public_key, sign(_signed(data)))).decode()
    lines = [body[at : at + 70] for at in range(0, len(body), 70)]
    return "\n".join([_BEGIN, *lines, _END, ""]).encode()


def check_sums(data: bytes, signature: bytes, pin: str | None) -> str:
    """The fingerprint that signed SHA256SUMS; it must be `pin` (None: any). Raises FormatError or TrustError."""
    try:
        lines = signature.decode("ascii").splitlines()
        blob = base64.b64decode("".join(lines[1:-1]), validate=True)
    except ValueError as error:
        raise FormatError("the signature of SHA256SUMS has a wrong form") from error
    start = len(_MAGIC) + 4 + 4 + 4 + len("ssh-ed25519") + 4
    key, made = blob[start : start + 32], blob[-64:]
    if lines[:1] + lines[-1:] != [_BEGIN, _END] or blob != _sshsig(key, made):
        raise FormatError("the signature of SHA256SUMS has a wrong form")
    signer = fingerprint(key)
    if pin is not None and signer != pin:
        raise TrustError(
            f"signed by {signer}, but {pin} is pinned",
            hint="another server wrote it, or somebody forged it; take the archive from another site",
        )
    verify_signature(key, made, _signed(data))
    return signer


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _blob(public_key: bytes) -> bytes:
    return _string(b"ssh-ed25519") + _string(public_key)


def _signed(data: bytes) -> bytes:
    digest = hashlib.sha512(data).digest()
    return _MAGIC + _string(NAMESPACE.encode()) + _string(b"") + _string(b"sha512") + _string(digest)


def _sshsig(public_key: bytes, signature: bytes) -> bytes:
    return (
        _MAGIC
        + struct.pack(">I", 1)
        + _string(_blob(public_key))
        + _string(NAMESPACE.encode())
        + _string(b"")
        + _string(b"sha512")
        + _string(_string(b"ssh-ed25519") + _string(signature))
    )
