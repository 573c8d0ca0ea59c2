"""The strict reader of reports: each error and each warning by name."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stsguard.core.errors import ReportInvalid
from stsguard.core.tlsrpt_report import parse_report, read_report, to_json
from stsguard.core.tlsrpt_report_reader import MAX_REPORT_BYTES
from tests.reports import EXPIRED, STS, TLSA, report, row
from tests.strategies import relaxed

REPORT = report(row(STS, 10, 2, {EXPIRED: 2}), row(TLSA, 1))
GOOD = to_json(REPORT)


def changed(*changes: tuple[tuple[str | int, ...], object]) -> bytes:
    """The good report with these values in these places; `...` takes the key away."""
    whole: Any = json.loads(GOOD)
    for path, value in changes:
        place = whole
        for step in path[:-1]:
            place = place[step]
        if value is ...:
            del place[path[-1]]
        else:
            place[path[-1]] = value
    return json.dumps(whole).encode()


def test_a_good_report() -> None:
    reading = read_report(GOOD)
    assert reading.report == REPORT
    assert (reading.errors, reading.warnings) == ((), ())
    assert parse_report(GOOD) == REPORT


POLICY = ("policies", 0, "policy")
DETAIL = ("policies", 0, "failure-details", 0)
BAD: list[tuple[bytes, str]] = [
    (b"", "not JSON: Expecting value in line 1, column 1"),
    (b"\xef\xbb\xbf{}", "not JSON: Unexpected UTF-8 BOM"),
    (b'{"a": "\xff"}', "not UTF-8: byte 0xff at position 7"),
    (b'{"a": NaN}', "NaN is no number of JSON"),
    (b'{"a": 1, "a": 2}', "the key 'a' is there twice in one object"),
    (b"9" * 5000, "a number of too many digits"),
    (b"[" * 200_000, "nested too deeply"),
    (b" " * (MAX_REPORT_BYTES + 1), f"more than {MAX_REPORT_BYTES} bytes"),
    (b"[]", "the report: not an object"),
    (b"null", "the report: not there"),
    (changed((("organization-name",), ...)), "the report: the key 'organization-name' is missing"),
    (changed((("organization-name",), "")), "organization-name: empty"),
    (changed((("organization-name",), 1)), "organization-name: not a string"),
    (changed((("contact-info",), None)), "contact-info: not a string"),
    (changed((("contact-info",), "example.com")), "contact-info: 'example.com' is no mail address"),
    (changed((("contact-info",), "a@b c")), "contact-info: 'a@b c' is no mail address"),
    (changed((("report-id",), ...)), "the report: the key 'report-id' is missing"),
    (changed((("date-range",), ...)), "date-range: not there"),
    (changed((("date-range", "start-datetime"), ...)), "date-range: the key 'start-datetime' is missing"),
    (changed((("date-range", "end-datetime"), "2026-11-21T23:59:59")), "no date-time of RFC 3339"),
    (changed((("date-range", "end-datetime"), "2026-11-31T23:59:59Z")), "no date-time of RFC 3339"),
    (changed((("date-range", "end-datetime"), "0001-01-01T00:00:00+23:00")), "no date-time of RFC 3339"),
    (changed((("date-range", "end-datetime"), "20261121T235959Z")), "no date-time of RFC 3339"),
    (changed((("date-range", "end-datetime"), "2026-11-20T23:59:59Z")), "date-range: it ends before it begins"),
    (changed((("policies",), {})), "policies: not an array"),
    (changed((("policies",), ...)), "the report: the key 'policies' is missing"),
    (changed((("policies",), [1])), "policies[0]: not an object"),
    (changed(((*POLICY, "policy-type"), "STS")), "policies[0].policy.policy-type: 'STS' is none of tlsa, sts"),
    (changed(((*POLICY, "policy-type"), ...)), "policies[0].policy: the key 'policy-type' is missing"),
    (changed(((*POLICY, "policy-domain"), ...)), "policies[0].policy: the key 'policy-domain' is missing"),
    (changed(((*POLICY, "policy-domain"), "Example.net")), "policies[0].policy.policy-domain: 'Example.net' is no"),
    # RFC 8460 erratum 6241
    (changed(((*POLICY, "mx-host"), "*.mail.example.net")), "policies[0].policy.mx-host: not an array"),
    (changed(((*POLICY, "mx-host"), [1])), "policies[0].policy.mx-host: not an array of strings"),
    (changed((("policies", 0, "summary"), ...)), "policies[0]: the key 'summary' is missing"),
    *(
        (changed((("policies", 0, "summary", "total-failure-session-count"), number)), "not a whole number from 0 on")
        for number in (-1, 1.5, "2", True, None, 2**53)
    ),
    (changed((("policies", 0, "failure-details"), {})), "policies[0].failure-details: not an array"),
    (changed(((*DETAIL, "result-type"), ...)), "policies[0].failure-details[0]: the key 'result-type' is missing"),
    (changed(((*DETAIL, "failed-session-count"), ...)), "the key 'failed-session-count' is missing"),
    (changed(((*DETAIL, "sending-mta-ip"), "")), "policies[0].failure-details[0].sending-mta-ip: empty"),
]


@pytest.mark.parametrize(("data", "error"), BAD, ids=[row[1] for row in BAD])
def test_errors(data: bytes, error: str) -> None:
    reading = read_report(data)
    assert reading.report is None
    assert any(error in found for found in reading.errors), reading.errors
    with pytest.raises(ReportInvalid):
        parse_report(data)


STRANGE: list[tuple[bytes, str]] = [
    (changed((("date-range", "end-datetime"), "2026-11-28T23:59:59Z")), "date-range: not one full day in UTC"),
    (changed((("date-range", "start-datetime"), "2026-11-21T01:00:00Z")), "date-range: not one full day in UTC"),
    (changed((("policies",), [])), "policies: empty, so the report says nothing"),
    (changed((("x-more",), 1)), "the report: the key 'x-more' is none of RFC 8460"),
    (changed(((*POLICY, "policy-string"), [])), "policies[0].policy: there is no policy-string"),
    (changed(((*POLICY, "mx-host"), ["MX.example.net"])), "policies[0].policy.mx-host: not only patterns"),
    (changed((("policies", 1, "policy", "mx-host"), ["mx.example.net"])), "policies[1].policy.mx-host: not only"),
    (changed(((*DETAIL, "result-type"), "other")), "'other' is not among those of RFC 8460 §4.3"),
    (changed(((*DETAIL, "receiving-ip"), "x.x.x.x")), "receiving-ip: 'x.x.x.x' is not what RFC 8460 §4.4 has"),
    (changed(((*DETAIL, "failed-session-count"), 1)), "explain fewer sessions than the summary says failed"),
    (
        changed((("policies", 0, "failure-details"), [json.loads(GOOD)["policies"][0]["failure-details"][0]] * 2)),
        "policies[0]: equal failure-details are not merged",
    ),
]


@pytest.mark.parametrize(("data", "warning"), STRANGE, ids=[row[1] for row in STRANGE])
def test_warnings(data: bytes, warning: str) -> None:
    reading = read_report(data)
    assert reading.errors == ()
    assert reading.report is not None
    assert any(warning in found for found in reading.warnings), reading.warnings


@pytest.mark.parametrize("end", ["2026-11-21T23:59:59Z", "2026-11-22T00:00:00Z", "2026-11-22T00:59:59+01:00"])
def test_rfc8460_4_4_the_end_of_a_full_day(end: str) -> None:
    assert read_report(changed((("date-range", "end-datetime"), end))).warnings == ()


def test_several_errors_are_told_and_the_message_holds_the_first() -> None:
    data = changed((("organization-name",), 1), (("report-id",), 2), (("contact-info",), 3), (("policies",), 4))
    assert len(read_report(data).errors) == 4
    with pytest.raises(
        ReportInvalid, match=r"^policies: not an array; organization-name: not a string; contact-info: [^;]*$"
    ):
        parse_report(data)


_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["policies", "policy", "summary", "date-range", "x"]), inner, max_size=3),
    ),
    max_leaves=12,
)


@given(st.one_of(st.binary(max_size=60), _json.map(lambda value: json.dumps(value).encode())))
@relaxed
def test_whatever_comes_is_a_report_or_has_an_error(data: bytes) -> None:
    reading = read_report(data)
    assert (reading.report is None) == bool(reading.errors)


@given(st.sampled_from([*POLICY[:1], "date-range", "contact-info", "report-id", "organization-name"]), _json)
@relaxed
def test_whatever_a_key_holds(key: str, value: object) -> None:
    reading = read_report(changed(((key,), value)))
    assert (reading.report is None) == bool(reading.errors)
