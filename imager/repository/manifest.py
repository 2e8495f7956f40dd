"""Manifests: the signed commit of an image, and `server.json` (`docs/format.md`). Parsing here is hostile-input
parsing."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from core.errors import FormatError, TrustError, VersionError
from core.layout import Layout
from imager.keys import ID_BYTES, fingerprint, verify_signature
from imager.repository.segments import ITEMS_MAX, SEGMENT_MAX
from imager.volumes import SERVER_NAME, TIME, Volume, all_natural, check_volumes, need

VERSION = 1
MANIFEST_MAX = 64 << 20
CARD_MAX = 4 << 10
#: Characters.
NOTE_MAX = 4096
_SEALED_MAX = 64 << 10
_HEX_ID = re.compile(rf"[0-9a-f]{{{2 * ID_BYTES}}}")
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")
_LAYERS_MAX = 256
_T = TypeVar("_T")


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class ServerRef(_Strict, frozen=True, kw_only=True):
    name: str
    id: str


class ParentRef(_Strict, frozen=True, kw_only=True):
    """The image before, and the digest of its whole manifest object at the same site."""

    image: str
    digest: str


class SegmentRef(_Strict, frozen=True, kw_only=True):
    """A map segment by name; `first` and `last` are [volume id, block], inclusive."""

    digest: str
    size_bytes: int
    items: int
    first: tuple[int, int]
    last: tuple[int, int]


class Totals(_Strict, frozen=True, kw_only=True):
    """Figures of the run; `frozen_ms`: how long filesystems stood still, in milliseconds."""

    read_bytes: int
    changed_bytes: int
    stored_bytes: int
    frozen_ms: int = 0


class Manifest(_Strict, frozen=True, kw_only=True):
    """The body of an image's manifest; `keys` maps hex key ids to sealed data keys, both ends base64 or hex."""

    server: ServerRef
    image: str
    taken_at: str
    finished_at: str
    agent: str
    parent: ParentRef | None
    note: str
    state: str
    digest_key: str
    keys: dict[str, str]
    layout: Layout
    volumes: tuple[Volume, ...]
    layers: tuple[tuple[SegmentRef, ...], ...]
    totals: Totals

    @property
    def server_id(self) -> bytes:
        return bytes.fromhex(self.server.id)

    def volume(self, name: str) -> Volume:
        """The volume of that name. Raises KeyError."""
        for volume in self.volumes:
            if volume.spec.name == name:
                return volume
        raise KeyError(name)

    @property
    def block_counts(self) -> dict[int, int]:
        """Volume id → number of blocks."""
        return {volume.id: volume.blocks for volume in self.volumes}


class ServerCard(_Strict, frozen=True, kw_only=True):
    """The body of `server.json`."""

    name: str
    id: str
    created_at: str


class _Envelope(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    refloat: str
    version: int
    body: str
    key: str
    signature: str


# Made here, by one thread: sites are fed and asked by a thread each, and when two decode into a type that msgspec has
# not seen yet at the same time, the interpreter crashes (seen with msgspec 0.22 and Python 3.13).
_DECODE_ENVELOPE = msgspec.json.Decoder(_Envelope)
_DECODE_MANIFEST = msgspec.json.Decoder(Manifest)
_DECODE_CARD = msgspec.json.Decoder(ServerCard)


def seal_envelope(kind: str, body: msgspec.Struct, public_key: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    """The signed object of a body; `kind` is `image` or `server`."""
    text = msgspec.json.encode(body).decode()
    signature = sign(_signed(kind, text))
    return msgspec.json.encode(
        _Envelope(refloat=kind, version=VERSION, body=text, key=_b64(public_key), signature=_b64(signature))
    )


def open_envelope(kind: str, data: bytes, pin: str | None) -> tuple[str, str]:
    """The body text and the signer's fingerprint, after every check of the envelope.

    `pin` is the fingerprint that must have signed; None accepts any signer (the caller then says so). Raises
    FormatError, VersionError or TrustError.
    """
    if len(data) > MANIFEST_MAX:
        raise FormatError("a manifest is too large")
    try:
        envelope = _DECODE_ENVELOPE.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        _refuse_version(data)
        raise FormatError("not a manifest: its JSON has a wrong form") from error
    if envelope.version != VERSION:
        raise VersionError(
            f"manifest version {envelope.version} is not known", hint="a newer Refloat wrote it; update this one"
        )
    if envelope.refloat != kind or msgspec.json.encode(envelope) != data:
        raise FormatError("a manifest is not in its canonical form")
    try:
        key = base64.b64decode(envelope.key, validate=True)
        signature = base64.b64decode(envelope.signature, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError("a manifest's key or signature is not base64") from error
    if (_b64(key), _b64(signature)) != (envelope.key, envelope.signature):
        raise FormatError("a manifest is not in its canonical form")
    signer = fingerprint(key)
    if pin is not None and signer != pin:
        raise TrustError(
            f"signed by {signer}, but {pin} is pinned",
            hint="another server wrote it, or somebody forged it; take the image from the other site",
        )
    verify_signature(key, signature, _signed(kind, envelope.body))
    return envelope.body, signer


def decode_manifest(data: bytes, *, image: str, pin: str | None) -> tuple[Manifest, str]:
    """The manifest in an object named `image`, and its signer's fingerprint. Raises as `open_envelope`."""
    text, signer = open_envelope("image", data, pin)
    manifest = _decode_body(text, _DECODE_MANIFEST)
    if manifest.image != image:
        raise TrustError(
            f"the manifest says it is image {manifest.image}, not {image}", hint="the site answered with another image"
        )
    _check(manifest)
    return manifest, signer


def decode_server_card(data: bytes, pin: str | None) -> tuple[ServerCard, str]:
    """`server.json` and its signer's fingerprint. Raises as `open_envelope`."""
    text, signer = open_envelope("server", data, pin)
    card = _decode_body(text, _DECODE_CARD)
    if SERVER_NAME.fullmatch(card.name) is None or _HEX_ID.fullmatch(card.id) is None or len(card.created_at) > 40:
        raise FormatError("a server's card has an impossible name, id or time")
    return card, signer


def _decode_body(text: str, decoder: msgspec.json.Decoder[_T]) -> _T:
    try:
        return decoder.decode(text)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise FormatError(f"a manifest's body has a wrong form: {error}") from error


def _refuse_version(data: bytes) -> None:
    """A version that is not ours may have other fields: say so rather than call it broken."""
    try:
        loose: Any = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    if isinstance(loose, dict) and isinstance(loose.get("version"), int) and loose["version"] != VERSION:
        raise VersionError(
            f"manifest version {loose['version']} is not known", hint="a newer Refloat wrote it; update this one"
        )


def _check(manifest: Manifest) -> None:
    need(SERVER_NAME.fullmatch(manifest.server.name) is not None, "server name")
    need(_HEX_ID.fullmatch(manifest.server.id) is not None, "server id")
    need(TIME.fullmatch(manifest.image) is not None, "image time")
    need(manifest.state in ("complete", "damaged"), "state")
    need(len(manifest.note) <= NOTE_MAX, "note")
    if manifest.parent is not None:
        need(TIME.fullmatch(manifest.parent.image) is not None and manifest.parent.image < manifest.image, "parent")
        need(_HEX_DIGEST.fullmatch(manifest.parent.digest) is not None, "parent")
    need(
        len(manifest.digest_key) <= _SEALED_MAX and all(len(each) <= _SEALED_MAX for each in manifest.keys.values()),
        "keys",
    )
    need(all(_HEX_ID.fullmatch(each) for each in manifest.keys), "key ids")
    need(all_natural(manifest.layout) and all_natural(manifest.totals), "numbers")
    check_volumes(manifest.layout, manifest.volumes)
    need(len(manifest.layers) <= _LAYERS_MAX, "number of layers")
    for layer in manifest.layers:
        _check_layer(layer)


def _check_layer(layer: tuple[SegmentRef, ...]) -> None:
    last = (-1, -1)
    for ref in layer:
        need(_HEX_DIGEST.fullmatch(ref.digest) is not None, "segment digest")
        need(0 < ref.size_bytes <= SEGMENT_MAX and 0 < ref.items <= ITEMS_MAX, "segment size")
        need(last < ref.first <= ref.last, "segment order")
        last = ref.last


def _signed(kind: str, body: str) -> bytes:
    return f"refloat {kind} {VERSION}\n".encode() + body.encode()


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
