"""The TLS side of a challenge: a self-signed certificate that proves who answers (RFC 8737 §3).

For "tls-alpn-01" the CA asks by the protocol `acme-tls/1`; for "reach-tls" we ask ourselves, by a protocol of our own.
The context is for such a client alone: it negotiates nothing else, and no other certificate may answer it.
"""

import ssl
import tempfile
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from stsguard.core.acme_identifier import acme_identifier
from stsguard.core.hosted import REACH_PROTOCOL, TLS_ALPN_PROTOCOL, AcmeChallenge

_PROTOCOLS = {"tls-alpn-01": TLS_ALPN_PROTOCOL, "reach-tls": REACH_PROTOCOL}
_BEGUN_BEFORE = timedelta(days=1)  # the CA looks at neither date, but a clock may be wrong


def challenge_context(challenge: AcmeChallenge) -> ssl.SSLContext:
    """The context that answers `challenge`, of the kind "tls-alpn-01" or "reach-tls"."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8737 §3
    context.set_alpn_protocols([_PROTOCOLS[challenge.kind].decode("ascii")])
    key = ec.generate_private_key(ec.SECP256R1())
    with tempfile.NamedTemporaryFile(prefix="stsguard-") as file:  # 0600; the ssl module takes files only
        file.write(_certificate(challenge, key))
        file.write(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        file.flush()
        context.load_cert_chain(file.name)
    return context


def _certificate(challenge: AcmeChallenge, key: ec.EllipticCurvePrivateKey) -> bytes:
    """RFC 8737 §3: one dNSName, which is the host, and the critical acmeIdentifier."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "stsguard challenge")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(challenge.expires_at - _BEGUN_BEFORE)
        .not_valid_after(challenge.expires_at + _BEGUN_BEFORE)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(challenge.host)]), critical=False)
        .add_extension(acme_identifier(challenge.content), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
