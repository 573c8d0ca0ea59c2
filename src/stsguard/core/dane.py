"""DANE for SMTP: evidence from the DNS and what of it is usable (RFC 7672 §2.2, §3; RFC 7671).

Values only. Gathering the evidence is `discovery.mx`; matching a certificate chain against usable records is here,
since Postfix and our own verification have to agree on it.
"""

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Generic, TypeVar

from stsguard.core.errors import LookupReason
from stsguard.names import Domain

T = TypeVar("T")


class AnswerStatus(StrEnum):
    """What a DNS answer said. A failed look-up is no answer but `LookupFailed`."""

    FOUND = "found"
    NODATA = "nodata"
    NXDOMAIN = "nxdomain"


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class MxHost:
    """One MX host of a next hop with its evidence. `tlsa` holds the usable records only."""

    mx_hostname: Domain
    preference: int
    tlsa_status: TlsaStatus
    addresses: tuple[IPv4Address | IPv6Address, ...] = ()
    tlsa: tuple[TlsaRecord, ...] = ()
    tlsa_base_domain: Domain | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class MxEvidence:
    """All MX hosts of a next hop. `secure` is the MX RRset's status, or the address RRset's where there is no MX.

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
