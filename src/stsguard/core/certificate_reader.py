"""Reads a certificate: the names and dates of it that `mxcheck` judges.

Apart from `mxcheck` since reading takes cryptography's X.509 and judging does not: that library is large, and the
daemon answers before it needs it.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from stsguard.core.errors import CertificateInvalid
from stsguard.core.mxcheck import CertificateFacts, fold

# A chain may hold 100 kB (OpenSSL's limit), and facts are kept for thousands of hosts. Certificates of large
# providers name some hundred hosts; one with more text than this counts as unreadable rather than read in part.
MAX_NAMES_LENGTH = 32_768
_MAX_TEXT = 200

# What cryptography raises for certificates that strangers made up; found by mutating good ones.
CERTIFICATE_ERRORS = (
    ValueError,
    TypeError,
    KeyError,  # cryptography 43, for a name whose ASN.1 type it does not know
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


def certificate_facts(der: bytes) -> CertificateFacts:
    """The names and dates of the certificate `der`.

    Names of subject and issuer that can't be decoded are given as unreadable; they decide nothing.

    Raises:
        CertificateInvalid: its dates or its subjectAltName can't be read, or there are too many names.
    """
    with quiet():
        try:
            certificate = x509.load_der_x509_certificate(der)
            dns_names = _dns_names(certificate.extensions)
            dates = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            sha256 = certificate.fingerprint(hashes.SHA256()).hex()
        except CERTIFICATE_ERRORS as exc:
            raise CertificateInvalid(f"the certificate can't be read: {_cut(str(exc))}") from exc
        common_names = _common_names(certificate)
        subject = _name_text(lambda: certificate.subject)
        issuer = _name_text(lambda: certificate.issuer)
    if sum(map(len, dns_names + common_names)) > MAX_NAMES_LENGTH:
        raise CertificateInvalid(f"the certificate's names are longer than {MAX_NAMES_LENGTH} characters")
    return CertificateFacts(
        subject=subject,
        issuer=issuer,
        common_name=common_names[0] if common_names else None,
        dns_names=dns_names,
        not_before=dates[0],
        not_after=dates[1],
        sha256=sha256,
        common_names=common_names,
    )


def pem_facts(pem: bytes) -> CertificateFacts:
    """The names and dates of the first certificate in `pem`, what else there may be.

    Raises:
        CertificateInvalid: there is none, or it can't be read.
    """
    with quiet():
        try:
            der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
        except CERTIFICATE_ERRORS as exc:
            raise CertificateInvalid("the file holds no certificate that can be read") from exc
    return certificate_facts(der)


@contextmanager
def quiet() -> Iterator[None]:
    """Cryptography warns of certificates that are odd; a stranger's oddities are no warnings of this program."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _dns_names(extensions: x509.Extensions) -> tuple[str, ...]:
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(fold(name) for name in names.get_values_for_type(x509.DNSName))


def _common_names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        attributes = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except CERTIFICATE_ERRORS:
        return ()
    return tuple(fold(str(attribute.value)) for attribute in attributes)


def _name_text(read: Callable[[], x509.Name]) -> str:
    try:
        return _cut(read().rfc4514_string())
    except CERTIFICATE_ERRORS:
        return "(unreadable)"


def _cut(text: str) -> str:
    """Text for people: bounded, and with nothing in it that acts on a terminal."""
    shown = text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in shown)
