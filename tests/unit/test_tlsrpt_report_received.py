"""What the values of a received report mean, beside the shapes of tests/protocol/received."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stsguard.core import received_report
from stsguard.core.errors import ReportInvalid
from stsguard.core.received_report import ReceivedPolicy, ReceivedReport
from stsguard.core.tlsrpt_report import Report, to_json
from stsguard.core.tlsrpt_report_received import MAX_DETAILS, MAX_POLICIES, parse_received
from tests.reports import EXPIRED, STS, TLSA, report, reports, row
from tests.strategies import relaxed

REPORT = report(row(STS, 10, 2, {EXPIRED: 2}), row(TLSA, 1))
GOOD: dict[str, Any] = json.loads(to_json(REPORT))


def parsed(**changed: object) -> ReceivedReport:
    whole = GOOD | {key.replace("_", "-"): value for key, value in changed.items()}
    return parse_received(json.dumps(whole).encode())


def told(found: ReceivedReport) -> list[str]:
    return [warning.code for warning in found.all_warnings()]


def policy(*details: tuple[str, int], failures: int = 0, **more: object) -> dict[str, object]:
    return {
        "policy": {"policy-type": "sts", "policy-domain": "example.com", **more},
        "summary": {"total-successful-session-count": 1, "total-failure-session-count": failures},
        "failure-details": [{"result-type": name, "failed-session-count": number} for name, number in details],
    }


@given(reports)
@settings(relaxed, max_examples=30)
def test_round_trip_of_what_we_send(sent: Report) -> None:
    found = parse_received(to_json(sent))
    assert (found.organization_name, found.contact_info, found.report_id) == (
        sent.organization.replace("\0", "\ufffd"),
        sent.contact,
        sent.report_id,
    )
    assert (found.start_at, found.end_at, found.day) == (sent.start_at, sent.end_at, sent.start_at.date())
    assert (found.successes, found.failures) == (sent.successes, sent.failures)
    for ours, theirs in zip(sent.policies, found.policies, strict=True):
        assert theirs.policy_type is ours.policy.policy_type
        assert theirs.policy_domain == ours.policy.policy_domain
        assert theirs.mx_hosts == ours.policy.mx_host_patterns
        assert [(detail.result_type, detail.sessions) for detail in theirs.details] == [
            (detail.result_type, sessions) for detail, sessions in ours.details
        ]


def test_our_own_has_no_warnings() -> None:
    assert told(parse_received(to_json(REPORT), now=REPORT.end_at)) == []
    assert told(parse_received(to_json(REPORT), now=REPORT.start_at)) == ["in-the-future"]


def test_policies_and_details_are_bounded_and_the_rest_is_told() -> None:
    many = parsed(policies=[policy()] * (MAX_POLICIES + 3))
    assert len(many.policies) == MAX_POLICIES
    assert many.warnings[0].text == "policies: 3 are left out, with 3 sessions"
    details = [("validation-failure", 1)] * (MAX_DETAILS // 2)
    most = parsed(policies=[policy(*details, failures=len(details)), policy(*details, ("other", 7)), policy(("x", 1))])
    assert [len(each.details) for each in most.policies] == [MAX_DETAILS // 2, MAX_DETAILS // 2, 0]
    assert "policies[1]: 1 failure-details are left out, with 7 sessions" in {each.text for each in most.all_warnings()}


def test_warnings_are_bounded() -> None:
    found = parsed(policies=[policy(**{"policy-type": "other"})] * 2000)
    assert len(list(found.all_warnings())) == received_report.MAX_WARNINGS + 1
    assert found.warnings[-1].code == "warnings-left-out"


@pytest.mark.parametrize(
    ("strings", "read"),
    [
        (['["a", "b", 3]'], ('["a", "b", 3]',)),
        (["[broken"], ("[broken",)),
        (['{"a": 1}'], ('{"a": 1}',)),
        (['["a", "", "b\\u0000"]'], ("a",)),
        (['["a"]', "b"], ('["a"]', "b")),
    ],
)
def test_an_array_within_a_policy_string(strings: list[str], read: tuple[str, ...]) -> None:
    found = parsed(policies=[policy(**{"policy-string": strings})])
    assert found.policies[0].policy_strings == read
    assert parsed(policies=[policy(**{"mx-host": strings})]).policies[0].mx_hosts == read


@pytest.mark.parametrize(
    ("start", "end", "read", "codes"),
    [
        ("2026-03-01T00:00:00z", "2026-03-02T00:00:00Z", ("2026-03-01", 86400), ["date-form"]),
        ("2026-03-01 00:00:00Z", "2026-03-02T00:00:00Z", ("2026-03-01", 86400), ["date-form"]),
        (" 20260301T000000Z", "2026-03-02T00:00:00Z", ("2026-03-01", 86400), ["date-form"]),
        ("2026-03-01T23:59:60Z", "2026-03-02T23:59:59Z", ("2026-03-01T23:59:59", 86400), ["date-form"]),
        ("", "2026-03-02T00:00:00Z", ("2026-03-01", 86399), ["empty-value"]),
        ("2026-03-01T10:00:00Z", "soon", ("2026-03-01", 86399), ["date-unreadable"]),
        ("0001-01-01T00:00:00+10:00", "2026-03-01T23:59:59Z", ("2026-03-01", 86399), ["date-unreadable"]),
        ("9999-12-31T24:00:00Z", "2026-03-01T23:59:59Z", ("2026-03-01", 86399), ["date-unreadable"]),
    ],
)
def test_dates(start: str, end: str, read: tuple[str, int], codes: list[str]) -> None:
    found = parsed(date_range={"start-datetime": start, "end-datetime": end})
    assert found.start_at == datetime.fromisoformat(read[0]).replace(tzinfo=UTC)
    assert found.end_at - found.start_at == timedelta(seconds=read[1])
    assert told(found) == codes


def test_a_report_of_no_day_is_none() -> None:
    with pytest.raises(ReportInvalid, match=r"^date-range: neither 'a' nor 'b' is a date$"):
        parsed(date_range={"start-datetime": "a", "end-datetime": "b"})


_json = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(['["a"]', "{"])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)


@given(st.data(), reports)
@settings(relaxed, max_examples=30)
def test_any_value_anywhere_is_survived(data: st.DataObject, sent: Report) -> None:
    whole: Any = json.loads(to_json(sent))
    place: Any = whole
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    if data.draw(st.booleans()):
        place[key] = data.draw(_json)
    else:
        del place[key]
    try:
        found = parse_received(json.dumps(whole).encode())
    except ReportInvalid:
        return
    assert found.start_at <= found.end_at
    assert found.successes >= 0
    assert found.failures >= 0


@given(st.data(), reports)
@settings(relaxed, max_examples=60)
def test_the_fast_way_ends_where_the_tolerant_one_does(data: st.DataObject, sent: Report) -> None:
    """A key that nobody knows makes any report go the slow way: it is all that may be told besides."""
    whole: Any = json.loads(to_json(sent))
    policies = whole["policies"]
    if policies:
        applied = policies[0]["policy"]
        odd = st.sampled_from(
            ["sts", "STS", " tlsa", "", "example.com", "Example.COM.", "[]", '["a"]', "a ", "10.0.0.1"]
        )
        applied[data.draw(st.sampled_from(["policy-type", "policy-domain"]))] = data.draw(odd)
        applied[data.draw(st.sampled_from(["policy-string", "mx-host"]))] = data.draw(st.lists(odd, max_size=2))
        policies[0]["summary"]["total-failure-session-count"] += data.draw(st.integers(0, 1))
        for detail in policies[0].get("failure-details", [])[:1]:
            detail["sending-mta-ip"] = data.draw(st.sampled_from(["192.0.2.1", "fe80::1%eth0", "mx", "", "1 %"]))
            detail["result-type"] = data.draw(st.sampled_from(["certificate-expired", "Certificate_Expired", "x"]))
    fast = parse_received(json.dumps(whole).encode())
    slow = parse_received(json.dumps(whole | {"x-odd": 1}).encode())
    assert [warning.text for warning in slow.warnings if "x-odd" not in warning.text] == [
        warning.text for warning in fast.warnings
    ]
    for ours, theirs in zip(fast.policies, slow.policies, strict=True):
        assert meant(ours) == meant(theirs)
    slow.policies = fast.policies
    slow.warnings = fast.warnings
    assert fast == slow


def meant(found: ReceivedPolicy) -> object:
    """A policy without the difference between nothing and an empty list."""
    return (
        (found.policy_type_text, found.policy_type, found.policy_domain_text, found.policy_domain),
        (found.policy_strings, found.mx_hosts, found.summary, found.details, found.warnings),
    )


@given(st.binary(max_size=80))
@relaxed
def test_any_octets_are_survived(data: bytes) -> None:
    with pytest.raises(ReportInvalid):
        parse_received(data)
