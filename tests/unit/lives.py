"""Values of our own domains that several tests build upon."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

from stsguard.core.errors import ResultType
from stsguard.core.hosted import HostedDomain, PolicyVersion, record_text, serialize_policy
from stsguard.core.inspection import Inspection, MxSeen, PolicyAt, RecordAt
from stsguard.core.mtasts import MxPattern, Policy, parse_policy
from stsguard.core.mxcheck import MxProbe
from stsguard.core.rollout import LivePolicy, adopt
from stsguard.names import Domain

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
DOMAIN = Domain("example.com")
HOST = Domain("mx1.example.com")
ADDRESS = IPv4Address("192.0.2.1")


def patterns(*texts: str) -> tuple[MxPattern, ...]:
    return tuple(MxPattern.parse(text) for text in texts)


MX = patterns("mx1.example.com", "*.example.net")


def policy_of(version: PolicyVersion) -> Policy:
    return parse_policy(serialize_policy(version.mode, version.max_age, version.mx_patterns))


def live(mode: str, max_age: int = 604_800, mx: Iterable[str] = ("mx1.example.com",), **record: object) -> LivePolicy:
    """A live policy; `record_id` and `record_ttl` of its record."""
    text = [f"mode: {mode}", *(f"mx: {pattern}" for pattern in mx), f"max_age: {max_age}"]
    policy = parse_policy("".join(f"{line}\r\n" for line in ("version: STSv1", *text)).encode())
    return replace(LivePolicy(policy), **record)  # type: ignore[arg-type]  # the keywords are the fields' names


def added(now: datetime = NOW, found: LivePolicy | None = None) -> HostedDomain:
    """A domain just added, of which `found` was live."""
    found = found or LivePolicy()
    return adopt(DOMAIN, found, now, mx_patterns=() if found.policy else MX)[0]


def probe(result_type: ResultType | None = None, *, inconclusive: bool = False, reason: str = "") -> MxProbe:
    return MxProbe(
        mx_hostname=HOST,
        address=ADDRESS,
        at=NOW,
        tls=not inconclusive,
        trusted=result_type is None,
        result_type=result_type,
        failure_reason_code=reason,
        inconclusive=inconclusive,
        dane_matched=None,
        certificate=None,
    )


def policy_at(version: PolicyVersion) -> PolicyAt:
    body = serialize_policy(version.mode, version.max_age, version.mx_patterns)
    return PolicyAt(ADDRESS, parse_policy(body), body, "", "", NOW + 60 * DAY)


def record_at(*texts: str, server: str = "ns1.example.net", problem: str = "") -> RecordAt:
    return RecordAt(server, tuple(text.encode() for text in texts), 300, problem)


def inspection(domain: HostedDomain, at: datetime = NOW) -> Inspection:
    """One in which all is well."""
    return Inspection(
        policy_domain=domain.policy_domain,
        at=at,
        sts_records=(record_at(record_text(domain.current.record_id)),),
        sts_records_problem="",
        tlsrpt_records=(record_at("v=TLSRPTv1; rua=mailto:tls@example.com"),),
        tlsrpt_records_problem="",
        policies=(policy_at(domain.current),),
        policies_problem="",
        mx_hosts=(
            MxSeen(HOST, 10, (probe(),)),
            MxSeen(Domain("mx2.example.net"), 20, (probe(),)),
        ),
        mx_problem="",
        null_mx=False,
        mx_ttl=3600,
    )
