"""Sessions, what is known of their destination, and what they count as, for the tests of the verdict."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from stsguard.core.dane import MxHost, TlsaRecord, TlsaStatus
from stsguard.core.errors import ResultType
from stsguard.core.mtasts import MxPattern, Policy, parse_policy
from stsguard.core.mxcheck import MxProbe
from stsguard.core.overrides import Override, OverrideKind
from stsguard.core.session import AppliedPolicy, Count, FailureDetail, PolicyType, Seen, Session, Source
from stsguard.names import Domain

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
DOMAIN, MX, STRANGER = Domain("example.com"), Domain("mx.example.com"), Domain("mx.example.net")
BASE = Domain("mx.hoster.test")
ADDRESS = "192.0.2.1"
TLSA = (TlsaRecord(3, 1, 1, b"\xfe" * 32), TlsaRecord(2, 0, 1, b"\x01" * 32))
TLSA_STRINGS = (f"2 0 1 {'01' * 32}", f"3 1 1 {'FE' * 32}")


def policy(mode: str = "enforce") -> Policy:
    return parse_policy(f"version: STSv1\nmode: {mode}\nmx: mx.example.com\nmx: *.example.org\nmax_age: 86400".encode())


ENFORCE, TESTING, NONE = policy(), policy("testing"), policy("none")
STRINGS = ENFORCE.policy_text
PATTERNS = ("mx.example.com", "*.example.org")
STS = AppliedPolicy(PolicyType.STS, DOMAIN, STRINGS, PATTERNS)
STS_TESTING = STS._replace(policy_strings=TESTING.policy_text)
STS_UNKNOWN = AppliedPolicy(PolicyType.STS, DOMAIN)
NO_POLICY = AppliedPolicy(PolicyType.NO_POLICY_FOUND, DOMAIN)
DANE = AppliedPolicy(PolicyType.TLSA, BASE, TLSA_STRINGS)


def session(seen: Seen = Seen.SUCCESS, result_type: ResultType | None = None, **changes: object) -> Session:
    whole = Session(
        at=AT,
        source=Source.LOG,
        instance="postfix",
        seen=seen,
        recipient_domain=DOMAIN,
        result_type=result_type,
        sending_mta_ip="198.51.100.9",
        receiving_mx_hostname=MX,
        receiving_mx_helo="mx.example.com",
        receiving_ip=ADDRESS,
    )
    return whole._replace(**changes)  # type: ignore[arg-type]  # the names and types are the tests' own


SUCCESS = session()
EXPIRED = session(Seen.FAILURE, ResultType.CERTIFICATE_EXPIRED, failure_reason_code="certificate_has_expired")
PLAINTEXT = session(Seen.PLAINTEXT)
SKIPPED = session(Seen.MX_NOT_PERMITTED, receiving_ip="", receiving_mx_helo="", sending_mta_ip="")


def probe(
    result_type: ResultType | None = None, reason: str = "", *, minutes: float = -10.0, **changes: object
) -> MxProbe:
    whole = MxProbe(
        mx_hostname=MX,
        address=ip_address(ADDRESS),
        at=AT + timedelta(minutes=minutes),
        tls=True,
        trusted=True,
        result_type=result_type,
        failure_reason_code=reason,
        inconclusive=False,
        dane_matched=None,
        certificate=None,
    )
    return replace(whole, **changes)  # type: ignore[arg-type]  # the names and types are the tests' own


def host(status: TlsaStatus, *records: TlsaRecord, base: Domain | None = BASE) -> MxHost:
    return MxHost(MX, 10, status, (ip_address(ADDRESS),), records, base)


def override(kind: OverrideKind, *mx: str) -> Override:
    return Override("example.com", kind, mx_patterns=tuple(MxPattern.parse(text) for text in mx))


def detail(result_type: ResultType, reason: str = "", **changes: str) -> FailureDetail:
    whole = FailureDetail(
        result_type=result_type,
        sending_mta_ip="198.51.100.9",
        receiving_mx_hostname=MX,
        receiving_mx_helo="mx.example.com",
        receiving_ip=ADDRESS,
        failure_reason_code=reason,
    )
    return whole._replace(**changes)


def success(applied: AppliedPolicy) -> Count:
    return Count(DOMAIN, DOMAIN, applied, 1, failed=False)


def failure(applied: AppliedPolicy, *details: FailureDetail) -> Count:
    return Count(DOMAIN, DOMAIN, applied, 1, failed=True, details=details)


def aside(applied: AppliedPolicy, *details: FailureDetail) -> Count:
    return Count(DOMAIN, DOMAIN, applied, 0, failed=False, details=details)


def unverified(applied: AppliedPolicy) -> Count:
    return success(applied)._replace(unverified=True)


def twice(count: Count, base: Domain = BASE) -> tuple[Count, Count]:
    return count, count._replace(report_domain=base, for_mx_host=True)


EXPIRED_DETAIL = detail(ResultType.CERTIFICATE_EXPIRED, "certificate_has_expired")
PLAIN_DETAIL = detail(ResultType.STARTTLS_NOT_SUPPORTED)
MISMATCH = detail(ResultType.VALIDATION_FAILURE, "mx-mismatch")
NONE_USABLE = detail(ResultType.TLSA_INVALID, "all-TLSA-records-unusable")


def would_fail(result_type: ResultType, reason: str, minutes: float = -10.0) -> FailureDetail:
    at = AT + timedelta(minutes=minutes)
    when = f"would fail in enforce mode, verified by probe at {at:%Y-%m-%dT%H:%M:00Z}"
    return detail(result_type, f"{reason} ({when})" if reason else when)
