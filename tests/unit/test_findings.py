"""What is wrong with a domain of ours, and what it means for mail (RFC 8461 §3, §4, RFC 8460 §3)."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from stsguard.core.errors import ResultType
from stsguard.core.findings import MX_UNUSED, HostingFinding, SeenFinding, Severity, is_quiet, judge, quiet_since
from stsguard.core.hosted import HostedDomain, Stage
from stsguard.core.inspection import Inspection, MxSeen
from stsguard.core.readiness import Readiness
from stsguard.core.rollout import enforce, retire
from stsguard.core.rollout_evidence import published, record_gone, served
from stsguard.names import Domain
from tests.unit.lives import ADDRESS, DAY, HOST, HOUR, NOW, added, inspection, policy_at, probe, record_at

STRANGER = Domain("mx.stranger.example")


def out(domain: HostedDomain) -> HostedDomain:
    number, now = domain.current.number, domain.current.created_at
    return published(served(domain, number, now)[0], number, 300, now)[0]


TESTING = out(added())
ENFORCE = out(enforce(TESTING, Readiness(()), NOW, first_max_age=604_800)[0])
RETIRING = out(retire(ENFORCE, NOW)[0])


def found(domain: HostedDomain, **parts: object) -> list[tuple[str, str, Severity]]:
    seen = replace(inspection(domain), **parts)  # type: ignore[arg-type]  # the keywords are the fields' names
    return [(each.code, each.subject, each.severity) for each in judge(domain, seen, NOW)]


def text_of(domain: HostedDomain, **parts: object) -> str:
    seen = replace(inspection(domain), **parts)  # type: ignore[arg-type]  # the keywords are the fields' names
    (finding,) = judge(domain, seen, NOW)
    return finding.text


@pytest.mark.parametrize("domain", [TESTING, ENFORCE, RETIRING], ids=lambda domain: domain.stage.value)
def test_all_is_well(domain: HostedDomain) -> None:
    assert judge(domain, inspection(domain), NOW) == ()


def test_nothing_is_wrong_with_a_retired_domain() -> None:
    assert found(replace(TESTING, stage=Stage.RETIRED), sts_records=(), policies=()) == []


@pytest.mark.parametrize(
    ("domain", "texts", "expected"),
    [
        (TESTING, (), ("record-missing", "ns1.example.net", Severity.ERROR)),
        (RETIRING, (), ("record-missing", "ns1.example.net", Severity.WARNING)),
        (TESTING, ("v=STSv1; id=1;", "v=STSv1; id=2;"), ("record-invalid", "ns1.example.net", Severity.ERROR)),
        (TESTING, ("v=STSv1; id=1;",), ("record-foreign-id", "ns1.example.net", Severity.ERROR)),
        (ENFORCE, ("v=STSv1; id=20260301T120001Z;",), ("record-out-of-sync", "ns1.example.net", Severity.ERROR)),
        (served(added(), 1, NOW)[0], (), ("record-awaited", "ns1.example.net", Severity.NOTE)),
        (
            served(retire(ENFORCE, NOW)[0], 3, NOW)[0],
            ("v=STSv1; id=20260301T120002Z;",),
            ("record-awaited", "ns1.example.net", Severity.NOTE),
        ),
        (added(), ("v=STSv1; id=20260301T120001Z;",), ("record-early", "ns1.example.net", Severity.WARNING)),
        (
            retire(ENFORCE, NOW)[0],
            ("v=STSv1; id=20260301T120003Z;",),
            ("record-early", "ns1.example.net", Severity.WARNING),
        ),
    ],
)
def test_rfc8461_3_1_the_record(domain: HostedDomain, texts: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert found(domain, sts_records=(record_at(*texts),)) == [expected]


def test_no_record_is_missed_before_and_after_its_time() -> None:
    assert found(added(), sts_records=(record_at(),)) == []
    gone = record_gone(RETIRING, NOW)[0]
    assert found(gone, sts_records=(record_at(),)) == []


def test_each_server_is_told_apart() -> None:
    good = inspection(TESTING).sts_records[0]
    records = (good, record_at(server="ns2.example.net"), record_at(server="ns3.example.net", problem="timeout"))
    assert found(TESTING, sts_records=records) == [
        ("record-missing", "ns2.example.net", Severity.ERROR),
        ("record-unknown", "ns3.example.net", Severity.WARNING),
    ]
    assert found(TESTING, sts_records=(), sts_records_problem="servfail") == [("record-unknown", "", Severity.WARNING)]


def test_rfc8461_3_3_the_policy_at_each_address() -> None:
    good = policy_at(TESTING.current)
    other = policy_at(replace(TESTING.current, max_age=1))
    down = replace(good, policy=None, problem="refused", reason="connection-refused")
    assert found(TESTING, policies=(good, other, down)) == [
        ("policy-differs", str(ADDRESS), Severity.ERROR),
        ("policy-unreachable", str(ADDRESS), Severity.ERROR),
    ]
    assert found(added(), policies=(other,), sts_records=(record_at(),)) == [
        ("policy-awaited", str(ADDRESS), Severity.NOTE)
    ]
    assert found(TESTING, policies=()) == [("policy-unreachable", "", Severity.ERROR)]
    assert "nxdomain" in text_of(TESTING, policies=(), policies_problem="nxdomain")


def test_warnings_of_the_parser_are_shown() -> None:
    good = policy_at(TESTING.current)
    assert good.policy is not None
    warned = replace(good, policy=replace(good.policy, warnings=("line 2: a blank line",)))
    assert found(TESTING, policies=(warned,)) == [("policy-warnings", str(ADDRESS), Severity.NOTE)]


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (14 * DAY, []),
        (14 * DAY - HOUR, [("certificate-expires", str(ADDRESS), Severity.WARNING)]),
        (3 * DAY - HOUR, [("certificate-expires", str(ADDRESS), Severity.ERROR)]),
        (timedelta(), [("certificate-expired", str(ADDRESS), Severity.ERROR)]),
    ],
)
def test_certificates_that_run_out(left: timedelta, expected: list[tuple[str, str, Severity]]) -> None:
    policy = replace(policy_at(TESTING.current), not_after=NOW + left)
    assert found(TESTING, policies=(policy,)) == expected
    assert found(TESTING, policies=(replace(policy, not_after=None),)) == []


@pytest.mark.parametrize(("domain", "severity"), [(TESTING, Severity.WARNING), (ENFORCE, Severity.ERROR)])
def test_rfc8461_4_1_mx_and_policy_both_ways(domain: HostedDomain, severity: Severity) -> None:
    hosts = (MxSeen(HOST, 1, (probe(),)), MxSeen(STRANGER, 2, (probe(),)))
    assert found(domain, mx_hosts=hosts) == [
        ("mx-not-covered", STRANGER, severity),
        (MX_UNUSED, "*.example.net", Severity.NOTE),
    ]


@pytest.mark.parametrize(
    ("domain", "severity"), [(TESTING, Severity.WARNING), (ENFORCE, Severity.ERROR), (RETIRING, Severity.ERROR)]
)
def test_rfc8461_4_2_an_mx_host_that_fails(domain: HostedDomain, severity: Severity) -> None:
    good = inspection(domain).mx_hosts[1]
    failing = MxSeen(HOST, 1, (probe(ResultType.CERTIFICATE_EXPIRED, reason="certificate_has_expired"),))
    assert found(domain, mx_hosts=(failing, good)) == [("mx-failing", HOST, severity)]
    assert "192.0.2.1: certificate_has_expired" in text_of(domain, mx_hosts=(failing, good))
    bounces = "mail bounces" if severity is Severity.ERROR else "mail would bounce"
    assert bounces in text_of(domain, mx_hosts=(failing, good))


def test_what_enforced_binds_until_it_has_run_out() -> None:
    failing = (MxSeen(HOST, 1, (probe(ResultType.CERTIFICATE_EXPIRED),)),)
    later = NOW + 8 * DAY
    seen = replace(inspection(RETIRING, later), mx_hosts=failing)
    (finding,) = judge(RETIRING, replace(seen, policies=inspection(RETIRING).policies), later)
    assert finding.severity is Severity.WARNING
    assert "192.0.2.1: certificate-expired" in finding.text


def test_what_could_not_be_looked_at_is_not_held_against_anyone() -> None:
    good = inspection(TESTING).mx_hosts[1]
    unproven = (MxSeen(HOST, 1, (probe(inconclusive=True),)), good)
    assert found(TESTING, mx_hosts=unproven) == [("mx-unproven", HOST, Severity.NOTE)]
    assert found(TESTING, mx_hosts=(), mx_problem="timeout") == [("mx-unknown", "", Severity.WARNING)]


def test_rfc7505_a_parked_domain() -> None:
    assert found(TESTING, mx_hosts=(), null_mx=True, tlsrpt_records=(record_at(),)) == [
        ("null-mx", "", Severity.NOTE),
    ]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"tlsrpt_records": (record_at(),)}, ("tlsrpt-missing", "ns1.example.net", Severity.NOTE)),
        ({"tlsrpt_records": (record_at("v=TLSRPTv1;"),)}, ("tlsrpt-invalid", "ns1.example.net", Severity.WARNING)),
        ({"tlsrpt_records_problem": "timeout", "tlsrpt_records": ()}, ("tlsrpt-unknown", "", Severity.NOTE)),
        (
            {"tlsrpt_records": (record_at("v=TLSRPTv1; rua=mailto:a@example.org"), record_at(problem="timeout"))},
            ("tlsrpt-without-us", "ns1.example.net", Severity.NOTE),
        ),
    ],
)
def test_rfc8460_3_reports(parts: dict[str, object], expected: tuple[str, str, Severity]) -> None:
    seen: Inspection = replace(inspection(TESTING), **parts)  # type: ignore[arg-type]  # the fields' names
    (finding,) = judge(TESTING, seen, NOW, ruas=["mailto:tls@example.com"])
    assert (finding.code, finding.subject, finding.severity) == expected


def seen_finding(severity: Severity, gone_at: datetime | None) -> SeenFinding:
    return SeenFinding(HostingFinding("x", "", severity, "x"), NOW, NOW, gone_at)


def test_quiet_is_when_nothing_above_a_note_is_there() -> None:
    note, gone = seen_finding(Severity.NOTE, None), seen_finding(Severity.WARNING, NOW + DAY)
    gone_note = seen_finding(Severity.NOTE, NOW + 3 * DAY)
    assert is_quiet([])
    assert is_quiet([note, gone])
    assert not is_quiet([gone, seen_finding(Severity.ERROR, None)])
    assert quiet_since([note, gone, gone_note, seen_finding(Severity.ERROR, NOW)]) == NOW + DAY
    assert quiet_since([note]) is None
