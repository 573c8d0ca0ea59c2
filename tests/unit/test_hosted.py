"""Versions of a hosted policy: what a sender may still hold, what may be published (RFC 8461 §3.2, §8.2)."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from stsguard.core.hosted import HostedDomain, PolicyVersion, Stage, record_text, serialize_policy
from stsguard.core.mtasts import Mode, MxPattern, parse_policy, parse_record
from stsguard.names import Domain

NOW = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
MX = (MxPattern.parse("mx1.example.com"), MxPattern.parse("*.example.net"))
FIRST = PolicyVersion(1, "20260301T000000Z", Mode.TESTING, 86_400, MX, NOW, "added")
SECOND = replace(FIRST, number=2, record_id="20260301T010000Z", mode=Mode.ENFORCE, created_at=NOW + HOUR)


def domain(*versions: PolicyVersion) -> HostedDomain:
    return HostedDomain(Domain("example.com"), Stage.TESTING, NOW, NOW, versions)


def test_rfc8461_3_2_the_policy_is_served_with_crlf_and_read_back() -> None:
    body = serialize_policy(Mode.ENFORCE, 604_800, MX)
    lines = (b"version: STSv1", b"mode: enforce", b"mx: mx1.example.com", b"mx: *.example.net", b"max_age: 604800")
    assert body == b"".join(line + b"\r\n" for line in lines)
    policy = parse_policy(body)
    assert (policy.mode, policy.max_age, policy.mx_patterns) == (Mode.ENFORCE, 604_800, MX)
    assert policy.warnings == ()


def test_rfc8461_3_2_none_needs_no_mx() -> None:
    assert parse_policy(serialize_policy(Mode.NONE, 86_400, ())).mode is Mode.NONE


def test_rfc8461_3_1_record_text() -> None:
    assert parse_record(record_text("20260301T000000Z")).record_id == "20260301T000000Z"


def test_rfc8461_3_3_policy_host() -> None:
    assert domain(FIRST).policy_host == "mta-sts.example.com"


def test_rfc8461_8_2_a_version_is_published_only_once_it_is_served() -> None:
    assert domain(FIRST).publishable is None
    served = replace(FIRST, served_at=NOW)
    hosted = domain(served, SECOND)
    assert hosted.current == SECOND
    assert hosted.publishable == served
    assert hosted.published is None
    published = replace(served, published_at=NOW + HOUR)
    assert domain(published, SECOND).published == published


def test_rfc8461_3_2_a_version_is_held_for_max_age_after_its_successor_was_served() -> None:
    assert domain(FIRST).held_until(FIRST) is None
    assert domain(FIRST, SECOND).held_until(FIRST) is None  # the old text may still come from one of the addresses
    hosted = domain(FIRST, replace(SECOND, served_at=NOW + HOUR))
    assert hosted.held_until(FIRST) == NOW + HOUR + timedelta(days=1)
    assert hosted.held_until(hosted.current) is None
