"""Certificates with any field as a test needs it, and the TLSA data that goes with them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PSS
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID, ObjectIdentifier

from stsguard.core.dane import TlsaRecord

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True)
class Made:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: PrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def spki(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def make(
    common_name: str | Sequence[str] = (),
    *,
    issuer: Made | None = None,
    key: PrivateKey | None = None,
    names: Sequence[str] = (),
    ca: bool = False,
    path_length: int | None = None,
    days: tuple[float, float] = (-1, 30),
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    basic_constraints: bool = True,
    pss: bool = False,
) -> Made:
    """A certificate signed by `issuer`, or by itself; `days` are its dates counted from `NOW`."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    common_names = [common_name] if isinstance(common_name, str) else common_name
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text) for text in common_names])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + timedelta(days=days[0]))
        .not_valid_after(NOW + timedelta(days=days[1]))
    )
    if basic_constraints:
        builder = builder.add_extension(x509.BasicConstraints(ca, path_length), critical=True)
    if names:
        san = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        builder = builder.add_extension(san, critical=False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    signing_key = issuer.key if issuer else key
    algorithm = None if isinstance(signing_key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    if pss:
        from cryptography.hazmat.primitives.asymmetric.padding import MGF1

        return Made(builder.sign(signing_key, algorithm, rsa_padding=PSS(MGF1(hashes.SHA256()), 32)), key)
    return Made(builder.sign(signing_key, algorithm), key)


def raw_extension(oid: str, value: bytes) -> tuple[x509.ExtensionType, bool]:
    """An extension with any octets in it."""
    return x509.UnrecognizedExtension(ObjectIdentifier(oid), value), False


def raw_dns_names(*names: bytes) -> tuple[x509.ExtensionType, bool]:
    """A subjectAltName of these dNSNames, octet for octet, each and all under 128 of them."""
    content = b"".join(bytes((0x82, len(name))) + name for name in names)
    return raw_extension("2.5.29.17", bytes((0x30, len(content))) + content)


def tlsa(usage: int, selector: int, matching_type: int, made: Made) -> TlsaRecord:
    """The TLSA record of a certificate."""
    content = made.spki if selector else made.der
    data = {0: content, 1: hashlib.sha256(content).digest(), 2: hashlib.sha512(content).digest()}[matching_type]
    return TlsaRecord(usage, selector, matching_type, data)
