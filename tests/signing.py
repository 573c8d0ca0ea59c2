"""Report mail that is really signed: by our own signer, and by dkimpy where it has to be signed wrongly."""

import base64
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import dkim
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from stsguard.adapters.dkim_signer import DkimSigner
from stsguard.core.dkim_body import canonical_body
from stsguard.names import Domain

SELECTOR = "tlsrpt2026"
PrivateKey = rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

MAIL = (
    b"From: TLS reports <noreply@mail.example.com>\r\nTo: tlsrpt@example.net\r\nSubject: Report Domain: example.net\r\n"
    b"Date: Sun, 1 Mar 2026 12:00:00 +0000\r\nMessage-ID: <report@mail.example.com>\r\n"
    b"TLS-Report-Domain: example.net\r\nTLS-Report-Submitter: example.com\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: text/plain\r\n\r\nThe report  of the day.\t \r\n\r\n"
)


@cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    """One key of that length for all tests."""
    return rsa.generate_private_key(65537, bits)


@cache
def ed25519_key() -> ed25519.Ed25519PrivateKey:
    """One key for all tests."""
    return ed25519.Ed25519PrivateKey.generate()


def published(key: PrivateKey, tags: str = "v=DKIM1; k={k}; p={p}") -> str:
    """The TXT record of `key`."""
    public = key.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        octets, kind = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), "rsa"
    else:
        octets, kind = public.public_bytes(Encoding.Raw, PublicFormat.Raw), "ed25519"
    return tags.format(k=kind, p=base64.b64encode(octets).decode())


def signed(message: bytes = MAIL, domain: str = "mail.example.com", key: PrivateKey | None = None) -> bytes:
    """`message` signed as our own reports are."""
    octets = (key or rsa_key()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "key.pem"
        path.write_bytes(octets)
        return DkimSigner(domain=Domain(domain), selector=SELECTOR, key_file=path).sign(message)


def signed_otherwise(
    message: bytes = MAIL,
    *,
    fields: Sequence[bytes] = (b"from", b"to", b"subject"),
    canonicalize: tuple[bytes, bytes] = (b"relaxed", b"relaxed"),
    length: bool = False,
    algorithm: bytes = b"rsa-sha256",
    extra: tuple[tuple[bytes, bytes], ...] = (),
) -> bytes:
    """`message` signed as dkimpy does when it is told to; `extra` tags replace its own t=."""
    key = rsa_key().private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    signer = _Signer(message)
    signer.extra = extra
    # In linear time what dkimpy takes the square for.
    signer.body = canonical_body(signer.body, relaxed=canonicalize[1] == b"relaxed")
    field = signer.sign(
        SELECTOR.encode(),
        b"mail.example.com",
        key,
        signature_algorithm=algorithm,
        canonicalize=canonicalize,
        include_headers=list(fields),
        length=length,
    )
    return bytes(field) + message


class _Signer(dkim.DKIM):  # type: ignore[misc] # dkimpy has no types
    extra: tuple[tuple[bytes, bytes], ...] = ()

    def gen_header(self, fields: list[tuple[bytes, bytes]], *arguments: object, **options: object) -> bytes:
        own = [pair for pair in fields if pair[0] != b"t"] if self.extra else fields
        return bytes(super().gen_header([*self.extra, *own], *arguments, **options))
