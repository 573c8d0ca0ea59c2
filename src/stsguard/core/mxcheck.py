"""What a probe of an MX host showed, and what it means (RFC 8461 §4, RFC 7672 §3)."""

from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address

from stsguard.core.errors import ResultType
from stsguard.names import Domain


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """The leaf certificate as presented. `dns_names` are the SAN's dNSNames, lower case, wildcards as they stand."""

    subject: str
    issuer: str
    common_name: str | None
    dns_names: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    sha256: str


@dataclass(frozen=True, slots=True)
class MxProbe:
    """One STARTTLS session with one MX host at one address.

    `result_type` None with `tls` true means that RFC 8461 §4.2 holds for `mx_hostname`. `inconclusive` marks a probe
    that says nothing of TLS (no connection, a rejecting banner, a local fault); then `result_type` is None as well.
    `trusted` says whether the chain is trusted and in date whatever its names: what Postfix checks beside the name.
    `dane_matched` is None where no usable TLSA record was given.
    """

    mx_hostname: Domain
    address: IPv4Address | IPv6Address
    at: datetime
    tls: bool
    trusted: bool
    result_type: ResultType | None
    failure_reason_code: str
    inconclusive: bool
    dane_matched: bool | None
    certificate: CertificateFacts | None
    tls_version: str = ""
