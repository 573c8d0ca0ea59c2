"""DANE for SMTP: evidence from the DNS and what of it is usable (RFC 7672 §2.2, §3; RFC 7671).

Values only. Gathering the evidence is `discovery.mx`, matching a certificate chain is `core.danechain`; which records
are usable is here, as Postfix sees it: a record that it would skip is no evidence.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Generic, TypeVar

from stsguard.core.errors import LookupReason
from stsguard.names import Domain

DANE_TA = 2
DANE_EE = 3
CERT = 0
SPKI = 1
FULL = 0
# matching type -> (octets of its digest, rank): SHA2-512 before SHA2-256, Postfix's default order.
_DIGESTS: Mapping[int, tuple[int, int]] = {1: (32, 1), 2: (64, 2)}
MAX_TLSA_RECORDS = 100  # Postfix reads no more records than this of one answer

T = TypeVar("T")


class AnswerStatus(StrEnum):
    """What a DNS answer said. A failed look-up is no answer but `LookupFailed`."""

    FOUND = "found"
    NODATA = "nodata"
    NXDOMAIN = "nxdomain"


# Not frozen, though nobody changes one: that would make it three times as costly to build, and every cold domain builds
# several. So it is below with what is marked as hot.
@dataclass(slots=True, unsafe_hash=True)
class Answer(Generic[T]):
    """A DNS answer, CNAMEs followed.

    `records` is empty unless `status` is FOUND. `canonical_name` is the end of the CNAME chain, equal to the name
    asked for where there is none. `ttl` is in seconds: the least of the chain, or for a denial the SOA's negative TTL
    (RFC 2308 §5); 0 where a denial carried no SOA. `secure` is the AD bit of a resolver that is trusted to validate.
    """

    status: AnswerStatus
    records: tuple[T, ...]
    canonical_name: Domain
    ttl: int
    secure: bool


@dataclass(slots=True, unsafe_hash=True)  # hot
class MxRecord:
    """One MX record. `mx_hostname` None is the root, a null MX (RFC 7505 §3), or a target that is no host name."""

    preference: int
    mx_hostname: Domain | None


@dataclass(frozen=True, slots=True)
class TlsaRecord:
    """One TLSA record (RFC 6698 §2.1): usage, selector, matching type, certificate association data."""

    usage: int
    selector: int
    matching_type: int
    data: bytes


class TlsaStatus(StrEnum):
    """What DANE says of one MX host, given its address and TLSA look-ups (RFC 7672 §2.2)."""

    USABLE = "usable"  # secure TLSA RRset with at least one usable record
    UNUSABLE = "unusable"  # secure, not empty, none usable: TLS is mandatory, unauthenticated
    ABSENT = "absent"  # none, or insecure, or not asked for since the addresses are insecure
    FAILED = "failed"  # a look-up failed: the host counts as unreachable (§2.1.2)
    UNREACHABLE = "unreachable"  # no address


@dataclass(slots=True, unsafe_hash=True)  # hot
class MxHost:
    """One MX host of a next hop with its evidence. `tlsa` holds the usable records only. `tlsa_failure` says why the
    TLSA look-up failed, at `tlsa_base_domain`; None where it did not, or the address look-up failed before it."""

    mx_hostname: Domain
    preference: int
    tlsa_status: TlsaStatus
    addresses: tuple[IPv4Address | IPv6Address, ...] = ()
    tlsa: tuple[TlsaRecord, ...] = ()
    tlsa_base_domain: Domain | None = None
    detail: str = ""
    tlsa_failure: LookupReason | None = None


@dataclass(slots=True, unsafe_hash=True)  # hot
class MxEvidence:
    """All MX hosts of a next hop. `secure` is the status of the MX RRset, or of its denial where there is no MX.

    `implicit` marks a domain without MX records (RFC 5321 §5.1), `null_mx` one that accepts no mail (RFC 7505); then
    `hosts` is empty. `ttl` is the least TTL in seconds of all that was used.
    """

    hosts: tuple[MxHost, ...]
    secure: bool
    ttl: int
    implicit: bool = False
    null_mx: bool = False


@dataclass(frozen=True, slots=True)
class MxLookupFailure:
    """The MX hosts could not be determined: delivery has to wait (RFC 7672 §2.1.2)."""

    reason: LookupReason
    detail: str


def usable_tlsa(records: Iterable[TlsaRecord]) -> tuple[TlsaRecord, ...]:
    """The records of a secure TLSA RRset that authenticate an SMTP server, in their order, each once.

    Empty where none is usable; then TLS is mandatory and unauthenticated (RFC 7672 §2.2).
    """
    usable = [record for record in dict.fromkeys(records) if _is_usable(record)]
    strongest: dict[tuple[int, int], int] = {}
    for record in usable:
        kind = record.usage, record.selector
        strongest[kind] = max(strongest.get(kind, 0), _rank(record))
    # RFC 7671 §9: by usage and selector the strongest digest alone counts, and Full(0) always does. The agility comes
    # after the unusable ones are gone, so that a malformed stronger record never drives out a good weaker one.
    return tuple(
        record
        for record in usable
        if record.matching_type == FULL or _rank(record) == strongest[record.usage, record.selector]
    )[:MAX_TLSA_RECORDS]


def _rank(record: TlsaRecord) -> int:
    return 0 if record.matching_type == FULL else _DIGESTS[record.matching_type][1]


def _is_usable(record: TlsaRecord) -> bool:
    # RFC 7672 §3.1.3: PKIX-TA(0) and PKIX-EE(1) add nothing for SMTP; unusable, as any unknown usage.
    if record.usage not in (DANE_TA, DANE_EE) or record.selector not in (CERT, SPKI):
        return False
    if record.matching_type == FULL:
        return _is_well_formed(record)
    # RFC 7671 §9: an unsupported digest algorithm, or an incorrect digest length.
    digest = _DIGESTS.get(record.matching_type)
    return digest is not None and len(record.data) == digest[0]


def _is_well_formed(record: TlsaRecord) -> bool:
    """Whether Full(0) data is a certificate or a public key and nothing else (RFC 6698 §4.1)."""
    # Few domains publish such records, and a look-up must not wait until these modules are loaded.
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_der_public_key  # noqa: PLC0415

    from stsguard.core.certificate_reader import CERTIFICATE_ERRORS, quiet  # noqa: PLC0415

    with quiet():
        try:
            if record.selector == CERT:
                x509.load_der_x509_certificate(record.data).public_key()
            else:
                load_der_public_key(record.data)
        except CERTIFICATE_ERRORS:
            return False
    return True
