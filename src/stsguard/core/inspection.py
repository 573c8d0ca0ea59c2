"""What was seen of one of our own domains from outside: evidence, not judged here (RFC 8461 §3, §4, RFC 8460 §3).

`findings` says what is wrong with it, `readiness` whether it allows to enforce, `rollout` what may be done next.
"""

from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address

from stsguard.core.mtasts import Policy
from stsguard.core.mxcheck import MxProbe
from stsguard.names import Domain

IPAddress = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class RecordAt:
    """The TXT records at one name as one authoritative server has them, each with its strings joined; `ttl` in seconds.

    `problem` is empty, or says why this server gave no answer; then nothing is known of its records. A denial is an
    answer without records.
    """

    server: str
    texts: tuple[bytes, ...]
    ttl: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class PolicyAt:
    """The policy as a sender gets it from one public address of the Policy Host (RFC 8461 §3.3).

    `policy` None: it could not be had, and `problem` says why; `reason` is then the code of the `FetchReason`.
    `not_after` is the end of the certificate, known also where the fetch failed after the handshake.
    """

    address: IPAddress
    policy: Policy | None
    body: bytes
    problem: str
    reason: str
    not_after: datetime | None


@dataclass(frozen=True, slots=True)
class MxSeen:
    """One MX host in DNS, and what its TLS looked like at each of its addresses. `problem`: why nothing was probed."""

    mx_hostname: Domain
    preference: int
    probes: tuple[MxProbe, ...]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Inspection:
    """All that was looked at, at `at`. Each `…_problem` is empty, or says why that part is not known at all.

    `null_mx`: the domain says that it takes no mail (RFC 7505), so nothing can be bounced.
    """

    policy_domain: Domain
    at: datetime
    sts_records: tuple[RecordAt, ...]
    sts_records_problem: str
    tlsrpt_records: tuple[RecordAt, ...]
    tlsrpt_records_problem: str
    policies: tuple[PolicyAt, ...]
    policies_problem: str
    mx_hosts: tuple[MxSeen, ...]
    mx_problem: str
    null_mx: bool
    mx_ttl: int = 0
