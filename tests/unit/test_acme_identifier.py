"""The answer to tls-alpn-01: id-pe-acmeIdentifier (RFC 8737 §3, §6.1)."""

import hashlib
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from stsguard.core.acme_identifier import ACME_IDENTIFIER, acme_identifier, carries_identifier

NOW = datetime(2026, 3, 1, tzinfo=UTC)
OTHER = x509.UnrecognizedExtension(ACME_IDENTIFIER, b"\x04\x01x")


def certificate(*extensions: tuple[x509.ExtensionType, bool]) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + timedelta(days=1))
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def test_rfc8737_3_the_extension_is_an_octet_string_with_the_digest() -> None:
    found = acme_identifier("token.thumbprint")
    assert found.oid.dotted_string == "1.3.6.1.5.5.7.1.31"
    assert found.value == b"\x04\x20" + hashlib.sha256(b"token.thumbprint").digest()


def test_rfc8737_3_only_a_critical_one_with_the_right_digest_counts() -> None:
    assert carries_identifier(certificate((acme_identifier("a"), True)), "a")
    assert not carries_identifier(certificate((acme_identifier("a"), True)), "b")
    assert not carries_identifier(certificate((acme_identifier("a"), False)), "a")
    assert not carries_identifier(certificate((OTHER, True)), "a")
    assert not carries_identifier(certificate(), "a")
    assert not carries_identifier(b"no certificate", "a")
