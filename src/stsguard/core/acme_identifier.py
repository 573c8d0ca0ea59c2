"""The certificate extension that answers a tls-alpn-01 challenge: id-pe-acmeIdentifier (RFC 8737 §3, §6.1).

A critical extension with the SHA-256 of the key authorisation as an OCTET STRING. The `acme` package once wrote another
OID and has none any more, so it is ours. The same form carries the nonce by which we see whether port 443 of a policy
host reaches us.
"""

import hashlib

from cryptography import x509

ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
_OCTET_STRING = b"\x04\x20"  # of 32 octets, in DER


def acme_identifier(content: str) -> x509.UnrecognizedExtension:
    """The extension for this key authorisation (RFC 8737 §3)."""
    return x509.UnrecognizedExtension(ACME_IDENTIFIER, _OCTET_STRING + hashlib.sha256(content.encode()).digest())


def carries_identifier(certificate_der: bytes, content: str) -> bool:
    """Whether a certificate has the extension for `content`, critical as it has to be; False for what is none."""
    try:
        found = x509.load_der_x509_certificate(certificate_der).extensions.get_extension_for_oid(ACME_IDENTIFIER)
    except (ValueError, TypeError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return False
    return found.critical and found.value == acme_identifier(content)
