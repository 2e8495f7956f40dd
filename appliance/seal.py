"""A text sealed with a passphrase: an age file (scrypt recipient) in lines that can be pasted, printed and scanned.

The age format is <https://age-encryption.org/v1>; stock `age -d` opens what `armor` wraps. pyrage does neither
here: it takes the scrypt work from the speed of the machine that seals (1 GiB of memory on a fast one, which the
replacement at hand may not have), and on a slow or busy machine refuses to open what a fast one sealed. So sealing is
done here with age's own default, 2^18 (256 MiB), and opening takes the time it takes.
Pure functions; may import `core` only.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import re
import unicodedata

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from core.errors import FormatError, KeyMissingError, VersionError

WORK = 18
#: 2^20: 1 GiB and some seconds. A larger figure in a file would be an attack on the reader's memory.
WORK_MAX = 20
TEXT_MAX = 1 << 20
_CHUNK = 64 << 10
_LINE = 64
_BEGIN = re.compile(r"-----BEGIN REFLOAT KIT ([0-9]{1,9})-----")
_END = re.compile(r"-----END REFLOAT KIT ([0-9a-f]{8})-----")
_BODY = re.compile(rf"[A-Za-z0-9+/]{{1,{_LINE}}}={{0,2}}")
_HEADER = re.compile(
    rb"age-encryption\.org/v1\n-> scrypt ([A-Za-z0-9+/]{22}) ([1-9][0-9]?)\n"
    rb"([A-Za-z0-9+/]{43})\n--- ([A-Za-z0-9+/]{43})\n"
)


def normal(passphrase: str) -> str:
    """The passphrase in Unicode's NFC: keyboards and systems differ in how they compose `ä`, people do not see it."""
    return unicodedata.normalize("NFC", passphrase)


def seal(plain: bytes, passphrase: str, *, work: int = WORK) -> bytes:
    """An age file that `passphrase` (in NFC) opens; 2^`work` scrypt rounds (1 KiB of memory each)."""
    file_key, salt = os.urandom(16), os.urandom(16)
    wrap = _wrapping_key(normal(passphrase), salt, work)
    body = ChaCha20Poly1305(wrap).encrypt(bytes(12), file_key, None)
    header = f"age-encryption.org/v1\n-> scrypt {_base64(salt)} {work}\n{_base64(body)}\n---".encode()
    mac = hmac.digest(_derive(file_key, b"", b"header"), header, "sha256")
    nonce = os.urandom(16)
    cipher = ChaCha20Poly1305(_derive(file_key, nonce, b"payload"))
    chunks = [plain[start : start + _CHUNK] for start in range(0, len(plain), _CHUNK)] or [b""]
    sealed = [
        cipher.encrypt(number.to_bytes(11) + bytes([number == len(chunks) - 1]), chunk, None)
        for number, chunk in enumerate(chunks)
    ]
    return header + b" " + _base64(mac).encode() + b"\n" + nonce + b"".join(sealed)


def unseal(sealed: bytes, passphrase: str) -> bytes:
    """The plaintext. FormatError when it is no such file or asks for too much work; KeyMissingError: passphrase."""
    header = _HEADER.match(sealed)
    if header is None:
        raise FormatError("not an age file sealed with a passphrase")
    if int(header[2]) > WORK_MAX:
        raise FormatError(
            f"opening it would need 2^{int(header[2])} KiB of memory", hint="this is no kit of ours: take another copy"
        )
    # NFD and as given: other programs that seal age files do not normalise.
    ways = (normal(passphrase), unicodedata.normalize("NFD", passphrase), passphrase)
    for way in dict.fromkeys(ways):
        with contextlib.suppress(InvalidTag):
            return _open(sealed, header, way)
    raise KeyMissingError(
        "the passphrase does not open it", hint="mind the keyboard layout, Caps Lock and spaces at the end"
    )


def _open(sealed: bytes, header: re.Match[bytes], passphrase: str) -> bytes:
    """The plaintext; InvalidTag when the passphrase is another one or a byte was changed."""
    salt, work, body, mac = _unbase64(header[1]), int(header[2]), _unbase64(header[3]), _unbase64(header[4])
    file_key = ChaCha20Poly1305(_wrapping_key(passphrase, salt, work)).decrypt(bytes(12), body, None)
    covered = sealed[: header.start(4) - 1]
    if not hmac.compare_digest(mac, hmac.digest(_derive(file_key, b"", b"header"), covered, "sha256")):
        raise InvalidTag
    nonce, payload = sealed[header.end() : header.end() + 16], sealed[header.end() + 16 :]
    cipher, step = ChaCha20Poly1305(_derive(file_key, nonce, b"payload")), _CHUNK + 16
    starts = range(0, max(len(payload), 1), step)
    chunks = [
        cipher.decrypt(number.to_bytes(11) + bytes([start + step >= len(payload)]), payload[start : start + step], None)
        for number, start in enumerate(starts)
    ]
    if len(chunks) > 1 and not chunks[-1]:
        raise InvalidTag  # the last chunk is empty only when it is the first
    return b"".join(chunks)


def _wrapping_key(passphrase: str, salt: bytes, work: int) -> bytes:
    return hashlib.scrypt(
        passphrase.encode(),
        salt=b"age-encryption.org/v1/scrypt" + salt,
        n=1 << work,
        r=8,
        p=1,
        dklen=32,
        maxmem=(2 << 10) << work,
    )


def armor(sealed: bytes) -> str:
    """The sealed bytes as lines between two markers; the last one carries the start of their SHA-256."""
    text = base64.b64encode(sealed).decode()
    lines = [text[start : start + _LINE] for start in range(0, len(text), _LINE)]
    return "\n".join(["-----BEGIN REFLOAT KIT 1-----", *lines, f"-----END REFLOAT KIT {_check(sealed)}-----"]) + "\n"


def dearmor(text: str) -> bytes:
    """The sealed bytes; blank lines and space around lines, as pasting makes them, are allowed.

    Raises FormatError, and VersionError for a later version.
    """
    if len(text) > TEXT_MAX:
        raise FormatError(f"larger than {TEXT_MAX} characters: not a recovery kit")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    begin = _BEGIN.fullmatch(lines[0]) if lines else None
    if begin is None:
        raise FormatError("not a recovery kit", hint="it begins with -----BEGIN REFLOAT KIT 1-----")
    if begin[1] != "1":
        raise VersionError(f"a recovery kit of version {begin[1]}", hint="use the Refloat that made it, or a later one")
    end = _END.fullmatch(lines[-1])
    if end is None:
        raise FormatError("the recovery kit is cut off", hint="its last line begins with -----END REFLOAT KIT")
    for number, line in enumerate(lines[1:-1], 2):
        if _BODY.fullmatch(line) is None:
            raise FormatError(
                f"line {number} of the recovery kit is damaged", hint="compare it with another copy or the printed page"
            )
    try:
        sealed = base64.b64decode("".join(lines[1:-1]), validate=True)
    except ValueError as error:
        raise FormatError(
            "the recovery kit is damaged: its lines do not join", hint="a line may be cut short"
        ) from error
    if _check(sealed) != end[1]:
        raise FormatError("the recovery kit is damaged", hint="a line is missing, doubled, mistyped or out of order")
    return sealed


def _check(sealed: bytes) -> str:
    return hashlib.sha256(sealed).hexdigest()[:8]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _unbase64(text: bytes) -> bytes:
    return base64.b64decode(text + b"=" * (-len(text) % 4))


def _derive(key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt or None, info).derive(key)
