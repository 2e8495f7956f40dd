"""TLS keys and certificates that nobody else signed: of the rescue console (made at every boot) and of a vault (kept).

What makes one trustworthy is its fingerprint, told on another way. Imports nothing of the other rooms.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# The machine's clock may be years off, and its certificate must hold all the same.
_FROM = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_UNTIL = datetime.datetime(2049, 12, 31, tzinfo=datetime.UTC)


@dataclass(frozen=True)
class Certificate:
    """Key and certificate in PEM; `fingerprint` is the certificate's SHA-256 as browsers show it."""

    pem: bytes = field(repr=False)
    fingerprint: str


def make_certificate(name: str) -> Certificate:
    """A new P-256 key and its certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    digest = certificate.fingerprint(hashes.SHA256())
    return Certificate(
        private + certificate.public_bytes(serialization.Encoding.PEM), ":".join(f"{byte:02X}" for byte in digest)
    )
