"""Our own domains' policies: every version ever served and its times, which say what a sender may still hold
(RFC 8461 §3.2, §3.3, §8.3, §10.2).

Values only; what may follow upon what is in `rollout`. A policy is served as soon as its version exists. Its `id` is
published only when the policy has been fetched back from every public address, since a sender that sees a new id
before the new policy keeps the old one under the new id (RFC 8461 §8.2).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from stsguard.core.mtasts import Mode, MxPattern
from stsguard.names import Domain

# What a client of a challenge offers by ALPN: RFC 8737 §3, and our own for the kind "reach-tls".
TLS_ALPN_PROTOCOL = b"acme-tls/1"
REACH_PROTOCOL = b"stsguard-reach/1"


class Stage(StrEnum):
    """Where a hosted domain is on its way: testing, enforce, retiring (`mode: none` is served), retired."""

    TESTING = "testing"
    ENFORCE = "enforce"
    RETIRING = "retiring"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """One policy of a domain. `number` counts from 1; 0 is what was found live when the domain was taken over.

    `served_at`: since when every public address has been seen to serve it; None while that is not known.
    `published_at`: since when every authoritative server has been seen to have its `id`. `record_ttl` is the largest
    TTL, in seconds, with which the record of this id has been seen. `max_age` in seconds, 0 … 31557600.
    """

    number: int
    record_id: str
    mode: Mode
    max_age: int
    mx_patterns: tuple[MxPattern, ...]
    created_at: datetime
    reason: str
    served_at: datetime | None = None
    published_at: datetime | None = None
    record_ttl: int = 0


@dataclass(frozen=True, slots=True)
class HostedDomain:
    """A domain whose policy we serve, with all versions in the order of their numbers; the last is the one served.

    `stage_since` is when the stage began for senders: for testing and enforce, when the first version of that stage was
    published; until then when it was created. `alias_of` names the domain whose mode, mx and max_age it follows.
    `quiet_since` is when the last finding about it went, from which max_age may grow; None while there is one.
    `record_gone_at` is since when no authoritative server has the `_mta-sts` record any more, in the stage retiring.
    `revision` is the store's number of the last change, 0 for a domain not stored yet; see `ports.DomainStore`.
    """

    policy_domain: Domain
    stage: Stage
    stage_since: datetime
    added_at: datetime
    versions: tuple[PolicyVersion, ...]
    alias_of: Domain | None = None
    quiet_since: datetime | None = None
    record_gone_at: datetime | None = None
    revision: int = 0

    @property
    def policy_host(self) -> Domain:
        """The host that serves the policy (RFC 8461 §3.3)."""
        return self.policy_domain.child("mta-sts")

    @property
    def current(self) -> PolicyVersion:
        """The version that is served."""
        return self.versions[-1]

    @property
    def published(self) -> PolicyVersion | None:
        """The latest version whose id has been seen in DNS; None where none has."""
        seen = [version for version in self.versions if version.published_at is not None]
        return seen[-1] if seen else None

    @property
    def publishable(self) -> PolicyVersion | None:
        """The latest version whose id may be in DNS now, being served everywhere (RFC 8461 §8.2), or there already,
        since ids never go back; None before the first one is served."""
        known = [version for version in self.versions if (version.served_at or version.published_at) is not None]
        return known[-1] if known else None

    def held_until(self, version: PolicyVersion) -> datetime | None:
        """Until when a sender may hold `version` (RFC 8461 §3.2 max_age): its max_age from the moment on at which its
        successor was served everywhere; None while it can still be fetched."""
        later = (other for other in self.versions if other.number > version.number)
        gone_at = next((other.served_at for other in later if other.served_at is not None), None)
        return None if gone_at is None else gone_at + timedelta(seconds=version.max_age)


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """One line of a domain's history. `what` is a constant word or two, `detail` says the rest, a REASON given with
    --force included; one line each."""

    at: datetime
    what: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class PolicyFetchRow:
    """How many times a policy was fetched on a UTC day by one kind of client. `network` is an IPv4 /24 or IPv6 /48 as
    text (or "local" for a unix socket without a forwarded address), `user_agent` is cut to a bounded length."""

    day: str
    policy_domain: Domain
    user_agent: str
    network: str
    fetches: int


@dataclass(frozen=True, slots=True)
class CertificateState:
    """The certificate of a Policy Host as ACME left it. `not_after` None: there is none yet. `renew_at`: when to renew;
    `next_attempt_at`: no attempt before, after `failures` in a row of which the last said `last_error`."""

    policy_host: Domain
    not_before: datetime | None
    not_after: datetime | None
    renew_at: datetime | None
    failures: int = 0
    next_attempt_at: datetime | None = None
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class AcmeChallenge:
    """A challenge under way (RFC 8555 §8.3, RFC 8737). `token` is what the CA asks by, `content` is the key
    authorisation; `kind` is "http-01" or "tls-alpn-01", or "reach" and "reach-tls" for our own nonce. Any process
    answers it."""

    kind: str
    host: Domain
    token: str
    content: str
    expires_at: datetime


def serialize_policy(mode: Mode, max_age: int, mx_patterns: Sequence[MxPattern]) -> bytes:
    """The policy file (RFC 8461 §3.2 sts-policy-record): CRLF after each line, the last one included."""
    lines = ["version: STSv1", f"mode: {mode.value}", *(f"mx: {pattern}" for pattern in mx_patterns)]
    return "".join(f"{line}\r\n" for line in (*lines, f"max_age: {max_age}")).encode("ascii")


def record_text(record_id: str) -> str:
    """The `_mta-sts` TXT record (RFC 8461 §3.1)."""
    return f"v=STSv1; id={record_id};"
