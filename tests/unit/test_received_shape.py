"""Shapes beside those of tests/protocol/received: one odd value at a time."""

from typing import Any

import pytest

from stsguard.core.errors import ReportInvalid
from stsguard.core.received_report import MAX_SESSIONS, MAX_STRINGS, AppliedPolicy, Notes, Summary, WarningCode
from stsguard.core.received_shape import shape
from stsguard.core.tlsrpt_report_wire import WireReport

CODES = [code.value for code in WarningCode]


def whole() -> dict[str, Any]:
    return {
        "organization-name": "Example",
        "date-range": {"start-datetime": "2026-03-01T00:00:00Z", "end-datetime": "2026-03-01T23:59:59Z"},
        "contact-info": "tls@example.net",
        "report-id": "1",
        "policies": [
            {
                "policy": {"policy-type": "sts", "policy-domain": "example.com"},
                "summary": {"total-successful-session-count": 1, "total-failure-session-count": 2},
                "failure-details": [{"result-type": "validation-failure", "failed-session-count": 2}],
            }
        ],
    }


def shaped(value: object, *path: str | int) -> tuple[WireReport, list[str]]:
    """The report with `value` at `path`, and the codes of the warnings."""
    notes = Notes()
    found: Any = whole()
    place = found
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    report = shape(found, notes)
    return report, [warning.code for at in range(-1, 3) for warning in notes.of(at)]


POLICY = ("policies", 0, "policy")
SUMMARY = ("policies", 0, "summary")
DETAIL = ("policies", 0, "failure-details", 0)
ODD: list[tuple[object, tuple[str | int, ...], list[str]]] = [
    ("text", ("policies",), ["wrong-type"]),
    (None, ("policies",), []),  # as if it were missing: the one who finds no policies says so
    ([[1]], ("policies",), ["wrong-type"]),
    (["{broken"], ("policies",), ["wrong-type"]),
    ([{"policy-type": "sts"}], POLICY, ["array-for-value", "missing-key"]),
    (7, POLICY, ["wrong-type"]),
    ({}, POLICY, ["missing-key"]),
    ("text", SUMMARY, ["wrong-type"]),
    (3, ("policies", 0, "failure-details"), ["wrong-type"]),
    ("", ("policies", 0, "failure-details"), ["wrong-type"]),
    (["x"], (*POLICY, "policy-type"), ["array-for-value"]),
    (True, (*POLICY, "policy-type"), ["wrong-type"]),
    ({"a": 1}, (*POLICY, "policy-domain"), ["wrong-type"]),
    (1.5, ("report-id",), ["wrong-type"]),
    (None, (*POLICY, "mx-host"), ["null-value"]),
    ({"a": 1}, (*POLICY, "mx-host"), ["wrong-type"]),
    (["a", "", 3], (*POLICY, "mx-host"), ["wrong-type"]),
    (["a"] * (MAX_STRINGS + 2), (*POLICY, "mx-host"), ["strings-left-out"]),
    (float("nan"), (*SUMMARY, "total-failure-session-count"), ["not-a-number"]),
    (1e300, (*SUMMARY, "total-failure-session-count"), ["count-form"]),
    (-1.5, (*SUMMARY, "total-failure-session-count"), ["count-form", "count-range"]),
    ("-3", (*SUMMARY, "total-failure-session-count"), ["count-as-text", "count-range"]),
    ("many", (*SUMMARY, "total-failure-session-count"), ["wrong-type"]),
    (MAX_SESSIONS + 1, (*SUMMARY, "total-failure-session-count"), ["count-range"]),
    (10**4000, (*SUMMARY, "total-failure-session-count"), ["count-range"]),
    ("+3", (*SUMMARY, "total-failure-session-count"), ["count-as-text"]),
    ("+-5", (*SUMMARY, "total-failure-session-count"), ["wrong-type"]),
    ("--5", (*SUMMARY, "total-failure-session-count"), ["wrong-type"]),
    ("+", (*SUMMARY, "total-failure-session-count"), ["wrong-type"]),
    ("²", (*SUMMARY, "total-failure-session-count"), ["wrong-type"]),
    ("9" * 5000, (*SUMMARY, "total-failure-session-count"), ["count-as-text", "count-range"]),
    ([1], (*DETAIL, "failed-session-count"), ["wrong-type"]),
    ("a\0b", (*DETAIL, "failure-reason-code"), ["control-character"]),
    ("a\nb", (*DETAIL, "failure-reason-code"), []),
    ("x", (*DETAIL, "Receiving MX HELO"), ["key-spelling"]),
    ("x", ("organisation-name",), ["both-keys"]),
    ("x", ("Organisation_Name",), ["both-keys"]),
    ("x", ("summary",), ["unknown-key"]),  # of a draft only beside its `policy`
]


@pytest.mark.parametrize(("value", "path", "told"), ODD, ids=[f"{row[1][-1]}={row[0]!r:.20}" for row in ODD])
def test_odd_values(value: object, path: tuple[str | int, ...], told: list[str]) -> None:
    assert shaped(value, *path)[1] == told


def test_nothing_odd() -> None:
    report, told = shaped("Example", "organization-name")
    assert told == []
    assert report.policies[0].summary == Summary(1, 2)


def test_values_of_the_odd() -> None:
    assert shaped(1.5, "report-id")[0].report_id == "1.5"
    assert shaped(-(10**4000), "report-id")[0].report_id == str(-(10**20))
    assert shaped(["a", "", 3], *POLICY, "mx-host")[0].policies[0].policy.mx_hosts == ("a",)
    assert shaped(1e300, *SUMMARY, "total-failure-session-count")[0].policies[0].summary.failures == MAX_SESSIONS
    # Where the number of failures can't be read, the details say it.
    assert shaped("many", *SUMMARY, "total-failure-session-count")[0].policies[0].summary.failures == 2
    assert shaped("text", "policies", 0, "policy")[0].policies[0].policy == AppliedPolicy("", "")
    assert shaped("a\0b", *DETAIL, "failure-reason-code")[0].policies[0].details[0].failure_reason_code == "a\ufffdb"


@pytest.mark.parametrize("found", [None, 1, 1.5, "text", True, [], [1, 2], [[]], {}, {"report-id": "1"}])
def test_what_is_no_report(found: object) -> None:
    with pytest.raises(ReportInvalid, match=r"^(the report |JSON, but no TLS report: )"):
        shape(found, Notes())
