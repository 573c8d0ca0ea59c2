"""A presented certificate chain held against usable TLSA records (RFC 7672 §3.2, RFC 7671 §5.1, §5.2).

The outcome is OpenSSL's, and so Postfix's: a chain for DANE-TA(2) is built from the presented certificates and the
full ones in the DNS alone, from the leaf up to the nearest trust anchor, in whatever order they came.

Left out on purpose: certificate policies, revocation, and constraints on other names than dNSNames.
"""

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from stsguard.core.certificate_reader import CERTIFICATE_ERRORS, certificate_facts, quiet
from stsguard.core.dane import CERT, DANE_EE, DANE_TA, FULL, SPKI, TlsaRecord
from stsguard.core.errors import CertificateInvalid
from stsguard.core.mxcheck import CertificateFacts, postfix_would_match
from stsguard.names import Domain

# Postfix builds chains of ten at most (smtp_tls_scert_verifydepth = 9). Signatures are checked for every pair of
# certificates that may follow one another, so the number bounds what a hostile chain costs.
MAX_CERTIFICATES = 12

ExtensionT = TypeVar("ExtensionT", bound=x509.ExtensionType)


class DaneMatch(StrEnum):
    """What a presented chain is by a host's usable TLSA records; the first two authenticate it."""

    DANE_EE = "dane-ee"
    DANE_TA = "dane-ta"
    NO_MATCH = "no-match"
    CHAIN_INVALID = "chain-invalid"  # an anchor matches, but a certificate on the way may not issue
    OUT_OF_DATE = "out-of-date"  # an anchor matches, but a certificate on the way has expired or is not yet valid
    NAME_MISMATCH = "name-mismatch"  # an anchor matches, the names do not

    @property
    def authenticated(self) -> bool:
        """Whether RFC 7672 §3.2 permits delivery over this session."""
        return self in (DaneMatch.DANE_EE, DaneMatch.DANE_TA)


def match_chain(
    tlsa: Sequence[TlsaRecord], chain_der: Sequence[bytes], reference_identifiers: Sequence[Domain], now: datetime
) -> DaneMatch:
    """Whether the chain `chain_der`, leaf first, is authenticated by `tlsa`, the records of `usable_tlsa`.

    `reference_identifiers` are the names by RFC 7672 §3.2.2: the TLSA base domain, then those of the next hop.
    """
    if not chain_der:
        return DaneMatch.NO_MATCH
    # RFC 7672 §3.1.1, §3.2.1: the leaf alone counts; its names and dates must be ignored.
    if any(record.usage == DANE_EE and _associated(record, chain_der[0]) for record in tlsa):
        return DaneMatch.DANE_EE
    anchors = [record for record in tlsa if record.usage == DANE_TA]
    if not anchors:
        return DaneMatch.NO_MATCH
    with quiet():
        return _match_anchors(anchors, chain_der, reference_identifiers, now)


def _associated(record: TlsaRecord, der: bytes) -> bool:
    """Whether the record's data is that of this certificate (RFC 6698 §2.1)."""
    try:
        content = der if record.selector == CERT else subject_public_key_info(der)
    except CertificateInvalid:
        return False
    match record.matching_type:
        case 1:
            return hashlib.sha256(content).digest() == record.data
        case 2:
            return hashlib.sha512(content).digest() == record.data
        case _:
            return content == record.data


def subject_public_key_info(der: bytes) -> bytes:
    """The SubjectPublicKeyInfo of a certificate, octet for octet (RFC 5280 §4.1).

    Cut out of the encoding: a key that was parsed and written again may differ (compressed points, RSA-PSS).

    Raises:
        CertificateInvalid: the encoding is not that of a certificate.
    """
    start, _ = _element(der, 0)
    position, end = _element(der, start)
    if der[position : position + 1] == b"\xa0":  # version, absent in v1
        position = _element(der, position)[1]
    for _skipped in ("serialNumber", "signature", "issuer", "validity", "subject"):
        position = _element(der, position)[1]
    key_end = _element(der, position)[1]
    if key_end > end:
        raise CertificateInvalid("the public key reaches beyond its certificate")
    return der[position:key_end]


def _element(der: bytes, position: int) -> tuple[int, int]:
    """Where the content of the DER element at `position` starts and ends."""
    start = position + 2
    length = der[position + 1] if start <= len(der) else 0x80
    if length >= 0x80:  # the long form: that many octets of length follow; none is BER's indefinite form
        octets = length & 0x7F
        length = int.from_bytes(der[start : start + octets], "big")
        start += octets
        if not 1 <= octets <= 4:  # more than 4 GiB is no certificate
            raise CertificateInvalid("the certificate is not DER")
    if start + length > len(der):
        raise CertificateInvalid("the certificate is cut short")
    return start, start + length


def _match_anchors(
    anchors: Sequence[TlsaRecord],
    chain_der: Sequence[bytes],
    reference_identifiers: Sequence[Domain],
    now: datetime,
) -> DaneMatch:
    # RFC 7671 §5.2.2: a full certificate in the DNS need not be in the chain.
    in_dns = [record.data for record in anchors if record.selector == CERT and record.matching_type == FULL]
    try:
        leaf = x509.load_der_x509_certificate(chain_der[0])
        facts = certificate_facts(chain_der[0])
    except (*CERTIFICATE_ERRORS, CertificateInvalid):
        return DaneMatch.CHAIN_INVALID
    issuers = list(_readable([*in_dns[:MAX_CERTIFICATES], *chain_der[1 : 1 + MAX_CERTIFICATES]]))
    result = DaneMatch.NO_MATCH
    for path in _paths(leaf, issuers):
        top = path[-1]
        # As in OpenSSL the leaf is no anchor of itself: that is what DANE-EE(3) says.
        matched = len(path) > 1 and any(_associated(record, top.public_bytes(Encoding.DER)) for record in anchors)
        if matched or _signed_by_bare_key(anchors, top):
            # RFC 5280 §6.1: an anchor's own dates are no part of the path; OpenSSL minds those of a self-signed one.
            dated = path[:-1] if matched and top.subject != top.issuer else path
            result = _judge(path, dated, facts, reference_identifiers, now)
            if result is DaneMatch.DANE_TA:
                break
    return result


def _readable(chain_der: Sequence[bytes]) -> Iterator[x509.Certificate]:
    """Those that can be read in full, each once; one that can't issues nothing."""
    for der in dict.fromkeys(chain_der):
        try:
            certificate = x509.load_der_x509_certificate(der)
            _ = certificate.extensions, certificate.subject, certificate.issuer
        except CERTIFICATE_ERRORS:
            continue
        yield certificate


def _paths(leaf: x509.Certificate, issuers: Sequence[x509.Certificate]) -> Iterator[tuple[x509.Certificate, ...]]:
    """The shortest way from the leaf to each certificate it leads to: each is entered once, so no loop is endless."""
    waiting: deque[tuple[x509.Certificate, ...]] = deque([(leaf,)])
    left = [issuer for issuer in issuers if issuer != leaf]
    while waiting:
        path = waiting.popleft()
        yield path
        found = [issuer for issuer in left if _issued(path[-1], issuer)]
        left = [issuer for issuer in left if issuer not in found]
        waiting.extend([(*path, issuer) for issuer in found])


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (*CERTIFICATE_ERRORS, InvalidSignature):
        return False
    return True


def _signed_by_bare_key(anchors: Sequence[TlsaRecord], top: x509.Certificate) -> bool:
    """RFC 7671 §5.2.3: without the anchor in the chain, its topmost certificate may be signed by a bare key."""
    keys = [record.data for record in anchors if record.selector == SPKI and record.matching_type == FULL]
    return any(_signed_by(top, key) for key in keys)


def _signed_by(certificate: x509.Certificate, key_der: bytes) -> bool:
    signature, signed = certificate.signature, certificate.tbs_certificate_bytes
    try:
        key = load_der_public_key(key_der)
        parameters = certificate.signature_algorithm_parameters
        digest = certificate.signature_hash_algorithm
        match key, parameters, digest:
            case rsa.RSAPublicKey(), padding.PKCS1v15() | padding.PSS(), HashAlgorithm():
                key.verify(signature, signed, parameters, digest)
            case ec.EllipticCurvePublicKey(), ec.ECDSA(), _:
                key.verify(signature, signed, parameters)
            case ((ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey()), None, None):
                key.verify(signature, signed)
            case _:
                return False
    except (*CERTIFICATE_ERRORS, InvalidSignature):
        return False
    return True


def _judge(
    path: Sequence[x509.Certificate],
    dated: Sequence[x509.Certificate],
    facts: CertificateFacts,
    reference_identifiers: Sequence[Domain],
    now: datetime,
) -> DaneMatch:
    if not _serves_tls(path[0]) or not all(_may_issue(path, depth) for depth in range(1, len(path))):
        return DaneMatch.CHAIN_INVALID
    if not all(certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc for certificate in dated):
        return DaneMatch.OUT_OF_DATE
    names = facts.dns_names or facts.common_names
    if not all(_permits_names(certificate, names) for certificate in path[1:]):
        return DaneMatch.CHAIN_INVALID
    # RFC 7672 §3.2.3: DNS-IDs, or the CN where there are none, against any reference identifier.
    if any(postfix_would_match(facts, name) for name in reference_identifiers):
        return DaneMatch.DANE_TA
    return DaneMatch.NAME_MISMATCH


def _may_issue(path: Sequence[x509.Certificate], depth: int) -> bool:
    """Whether the certificate at `depth` may issue the one below it (RFC 5280 §4.2.1.3, §4.2.1.9)."""
    certificate = path[depth]
    basic = _extension(certificate, x509.BasicConstraints)
    usage = _extension(certificate, x509.KeyUsage)
    if basic is None or not basic.ca or (usage is not None and not usage.key_cert_sign):
        return False
    # RFC 7671 §5.2.1: constraints of the anchor apply as well; self-issued certificates do not count.
    below = sum(1 for between in path[1:depth] if between.subject != between.issuer)
    return (basic.path_length is None or below <= basic.path_length) and _serves_tls(certificate)


def _serves_tls(certificate: x509.Certificate) -> bool:
    """RFC 5280 §4.2.1.12; like OpenSSL, anyExtendedKeyUsage is not taken for serverAuth."""
    usage = _extension(certificate, x509.ExtendedKeyUsage)
    return usage is None or ExtendedKeyUsageOID.SERVER_AUTH in usage


def _permits_names(certificate: x509.Certificate, names: Sequence[str]) -> bool:
    """Whether the CA's name constraints permit each of these dNSNames (RFC 5280 §4.2.1.10)."""
    constraints = _extension(certificate, x509.NameConstraints)
    if constraints is None:
        return True
    permitted = _dns_subtrees(constraints.permitted_subtrees)
    excluded = _dns_subtrees(constraints.excluded_subtrees)
    if any(_within(name, excluded) for name in names):
        return False
    return not permitted or all(_within(name, permitted) for name in names)


def _dns_subtrees(subtrees: Sequence[x509.GeneralName] | None) -> list[str]:
    return [tree.value.lower() for tree in subtrees or () if isinstance(tree, x509.DNSName)]


def _within(name: str, subtrees: Sequence[str]) -> bool:
    return any(not tree or name == tree or name.endswith("." + tree.removeprefix(".")) for tree in subtrees)


def _extension(certificate: x509.Certificate, kind: type[ExtensionT]) -> ExtensionT | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
