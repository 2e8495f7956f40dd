"""Frames: up to 16 blocks, one zstd frame, sealed with AES-256-GCM (`docs/format.md`, Frame).

Called in the hot loop of every worker thread; the C parts release the GIL.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from core.errors import CorruptError
from imager.spans import BLOCK_BYTES, SPAN_BLOCKS

FRAME_BLOCKS = SPAN_BLOCKS
FRAME_BYTES = FRAME_BLOCKS * BLOCK_BYTES
_NUMBER = struct.Struct("<Q")
_PURPOSE = b"refloat frame 1\0"
_FAST_LEVELS = frozenset({1, 2, 3, 4})
#: The longest sealed frame: zstd's worst case for 1 MiB, and the tag.
SEALED_MAX = FRAME_BYTES + (FRAME_BYTES >> 8) + 1024


@dataclass(frozen=True, slots=True)
class PackRef:
    """A pack by name (its 32-byte digest) and size."""

    digest: bytes
    size_bytes: int

    @property
    def hex(self) -> str:
        return self.digest.hex()


@dataclass(slots=True, eq=False)
class Frame:
    """A sealed frame and where it lies. `digest` is `digest_bytes` of its sealed bytes; `pack` is None until the pack
    is complete and has its name."""

    key_id: bytes
    number: int
    blocks: int
    length: int
    digest: bytes
    offset: int = 0
    pack: PackRef | None = None


def digest_bytes(data: bytes | memoryview) -> bytes:
    """The digest of an object or of a sealed frame, for proofs without keys: plain BLAKE3."""
    return blake3(data).digest()


def compressor(level: int) -> zstandard.ZstdCompressor:
    """A zstd context for frames. At the fast levels its tables are sized for a 1 MiB frame and a core's own cache:

    at level 3 that took a quarter to a third less time than zstd's defaults, for 1.3 % more bytes (`docs/design.md`).
    """
    if level not in _FAST_LEVELS:
        return zstandard.ZstdCompressor(level=level, write_checksum=False, write_content_size=True)
    tuned = {"hash_log": 15, "chain_log": 15, "min_match": 6} if level == 3 else {"hash_log": 15}
    chosen = zstandard.ZstdCompressionParameters.from_level(level, source_size=FRAME_BYTES, **tuned)
    return zstandard.ZstdCompressor(compression_params=chosen)


class Sealer:
    """Seals frames of one run; one instance a thread (the zstd context is not shared)."""

    def __init__(self, key: bytes, key_id: bytes, server_id: bytes, level: int) -> None:
        self._aes = AESGCM(key)
        self._prefix = _PURPOSE + server_id + key_id
        self._zstd = compressor(level)

    def seal(self, number: int, plain: memoryview) -> bytes:
        """The sealed bytes of frame `number`. A number must never be used twice under one key."""
        packed = self._zstd.compress(plain)
        return self._aes.encrypt(_nonce(number), packed, self._prefix + _NUMBER.pack(number))


class Opener:
    """Opens frames of one server; one instance a thread."""

    def __init__(self, server_id: bytes, keys: dict[bytes, bytes]) -> None:
        self._server_id = server_id
        self._aes = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self._zstd = zstandard.ZstdDecompressor(max_window_size=FRAME_BYTES * 8)

    def open(self, frame: Frame, sealed: bytes | memoryview, into: memoryview) -> memoryview:
        """Decrypt and decompress into `into` (at least FRAME_BYTES long); returns the part that was filled.

        CorruptError when the tag does not fit, or what is inside is not `frame.blocks` blocks. No more than that is
        ever written, whatever the frame claims.
        """
        aes = self._aes.get(frame.key_id)
        if aes is None:
            raise CorruptError(f"frame {frame.number} names a key that the manifest does not carry")
        aad = _PURPOSE + self._server_id + frame.key_id + _NUMBER.pack(frame.number)
        try:
            packed = aes.decrypt(_nonce(frame.number), sealed, aad)
        except InvalidTag as error:
            raise CorruptError(f"frame {frame.number} does not decrypt: its bytes are not what was sealed") from error
        want = frame.blocks * BLOCK_BYTES
        plain = into[:want]
        try:
            if zstandard.frame_content_size(packed) != want:
                raise CorruptError(f"frame {frame.number} states another size than its map")
            with self._zstd.stream_reader(packed) as reader:
                done = 0
                while done < want:
                    count = reader.readinto(plain[done:])
                    if not count:
                        break
                    done += count
        except zstandard.ZstdError as error:
            raise CorruptError(f"frame {frame.number} does not decompress") from error
        if done != want:
            raise CorruptError(f"frame {frame.number} is shorter than its map says")
        return plain


def _nonce(number: int) -> bytes:
    return _NUMBER.pack(number) + b"\0\0\0\0"
