"""Keys: a server's own (signing, digest), a run's data key, and sealing to age recipients (`docs/format.md`, Keys).

A private identity or a data key is never written anywhere by this module; what a server keeps are its signing and
digest keys, which open no image. May import `core` only.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pyrage
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from core.errors import ConfigError, FormatError, KeyMissingError, TrustError
from core.files import write_new

KEY_BYTES = 32
ID_BYTES = 16
NO_ID = bytes(ID_BYTES)
_SEALED_MAX = 64 << 10


def fingerprint(public_key: bytes) -> str:
    """`SHA256:…` of a 32-byte Ed25519 public key, as ssh-keygen prints fingerprints."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(public_key).digest()).decode().rstrip("=")


def verify_signature(public_key: bytes, signature: bytes, message: bytes) -> None:
    """Raises TrustError unless `signature` is this key's over `message`."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise TrustError("the signature is wrong") from error


def check_recipient(text: str) -> str:
    """The recipient itself, if age accepts it. Raises ConfigError."""
    try:
        pyrage.x25519.Recipient.from_str(text)
    except Exception as error:
        raise ConfigError(
            f"not an age recipient: {text[:80]!r}", hint="it begins with age1; `refloat kit new` prints one"
        ) from error
    return text


class _Sealed(msgspec.Struct, forbid_unknown_fields=True):
    key: str
    key_id: str
    kind: str
    server: str


def seal_key(key: bytes, *, kind: str, key_id: bytes, server_id: bytes, recipients: Sequence[str]) -> bytes:
    """The age file that carries a data or digest key to every recipient."""
    if not recipients:
        raise ConfigError(
            "no recipients are configured", hint="put the age1… line that `refloat kit new` printed into the config"
        )
    inner = _Sealed(key=base64.b64encode(key).decode(), key_id=key_id.hex(), kind=kind, server=server_id.hex())
    targets = [pyrage.x25519.Recipient.from_str(check_recipient(text)) for text in recipients]
    return bytes(pyrage.encrypt(msgspec.json.encode(inner), targets))


@dataclass(frozen=True)
class Identities:
    """age identities held in memory; they open sealed keys."""

    secrets: tuple[pyrage.x25519.Identity, ...] = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Identities:
        """Identities from lines `AGE-SECRET-KEY-1…`; blank lines and `#` comments are skipped. Raises
        KeyMissingError."""
        found = []
        for line in text.splitlines():
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            try:
                found.append(pyrage.x25519.Identity.from_str(line.strip()))
            except Exception as error:
                raise KeyMissingError("not an age identity", hint="each line begins with AGE-SECRET-KEY-1") from error
        if not found:
            raise KeyMissingError("no age identity given", hint="each line begins with AGE-SECRET-KEY-1")
        return cls(tuple(found))

    def open_key(self, sealed: bytes, *, kind: str, key_id: bytes, server_id: bytes) -> bytes:
        """The 32-byte key in a sealed one. KeyMissingError if no identity opens it, FormatError if it is another
        key."""
        if len(sealed) > _SEALED_MAX:
            raise FormatError("a sealed key is too large")
        try:
            plain = pyrage.decrypt(sealed, list(self.secrets))
        except pyrage.DecryptError as error:
            raise KeyMissingError(
                "this identity does not open the image's keys",
                hint="use the recovery kit that holds one of the image's recipients",
            ) from error
        try:
            inner = msgspec.json.decode(plain, type=_Sealed)
            key = base64.b64decode(inner.key, validate=True)
        except (msgspec.MsgspecError, ValueError) as error:
            raise FormatError("a sealed key has a wrong form") from error
        if (inner.kind, inner.key_id, inner.server, len(key)) != (kind, key_id.hex(), server_id.hex(), KEY_BYTES):
            raise FormatError("a sealed key is not the one it is said to be")
        return key


@dataclass(frozen=True)
class DataKey:
    """A run's key: drawn, sealed and used in memory. `sealed` is what a manifest carries."""

    key_id: bytes
    key: bytes = field(repr=False)
    sealed: bytes = field(repr=False)

    @classmethod
    def draw(cls, server_id: bytes, recipients: Sequence[str]) -> DataKey:
        """A new random key, sealed to the recipients."""
        key, key_id = os.urandom(KEY_BYTES), os.urandom(ID_BYTES)
        return cls(key_id, key, seal_key(key, kind="data", key_id=key_id, server_id=server_id, recipients=recipients))


class _KeyFile(msgspec.Struct, forbid_unknown_fields=True):
    refloat: str
    version: int
    name: str
    server_id: str
    signing_key: str
    digest_key: str


@dataclass(frozen=True)
class ServerKeys:
    """What a server keeps in its state folder (`keys.json`, mode 0600): who it is, and with what it signs and
    compares."""

    name: str
    server_id: bytes
    digest_key: bytes = field(repr=False)
    _signing: Ed25519PrivateKey = field(repr=False)

    @staticmethod
    def path(state: Path) -> Path:
        """Where the keys lie within a state folder."""
        return state / "keys.json"

    @classmethod
    def create(cls, state: Path, name: str) -> ServerKeys:
        """Draw and write new keys; refuses when there are some already (ConfigError)."""
        signing = Ed25519PrivateKey.generate()
        inner = _KeyFile(
            refloat="server-keys",
            version=1,
            name=name,
            server_id=os.urandom(ID_BYTES).hex(),
            signing_key=base64.b64encode(signing.private_bytes_raw()).decode(),
            digest_key=base64.b64encode(os.urandom(KEY_BYTES)).decode(),
        )
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            write_new(cls.path(state), msgspec.json.encode(inner), mode=0o600)
        except FileExistsError as error:
            raise ConfigError(
                f"{cls.path(state)} exists already",
                hint="a server keeps its keys for life; `refloat keys show` prints who it is",
            ) from error
        return cls.load(state)

    @classmethod
    def load(cls, state: Path) -> ServerKeys:
        """The keys of this state folder. ConfigError when missing or broken."""
        path = cls.path(state)
        try:
            inner = msgspec.json.decode(path.read_bytes(), type=_KeyFile)
            signing = Ed25519PrivateKey.from_private_bytes(base64.b64decode(inner.signing_key, validate=True))
            server_id, digest_key = bytes.fromhex(inner.server_id), base64.b64decode(inner.digest_key, validate=True)
        except FileNotFoundError as error:
            raise ConfigError(f"this server has no keys yet ({path})", hint="run `refloat keys new` once") from error
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            raise ConfigError(
                f"{path} cannot be read: {error}", hint="restore it from a copy; new keys start a new lineage"
            ) from error
        if len(server_id) != ID_BYTES or len(digest_key) != KEY_BYTES or inner.version != 1:
            raise ConfigError(f"{path} has a wrong form", hint="restore it from a copy; new keys start a new lineage")
        return cls(inner.name, server_id, digest_key, signing)

    @property
    def public_key(self) -> bytes:
        """The 32-byte Ed25519 public key."""
        return self._signing.public_key().public_bytes_raw()

    @property
    def fingerprint(self) -> str:
        """The public key's fingerprint, as kits pin it."""
        return fingerprint(self.public_key)

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature."""
        return self._signing.sign(message)
