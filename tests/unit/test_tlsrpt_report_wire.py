"""The fast way into a report: it goes only where the slow way would find nothing to say."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stsguard.core.errors import ResultType
from stsguard.core.received_json import load
from stsguard.core.received_report import Notes, ReceivedDetail, ReceivedPolicy
from stsguard.core.received_shape import shape
from stsguard.core.tlsrpt_report import Report, to_json
from stsguard.core.tlsrpt_report_wire import NOTHING, WireReport, as_details, as_policy, decode_json, decode_strict
from tests.reports import EXPIRED, STS, TLSA, report, reports, row
from tests.strategies import relaxed

GOOD = to_json(report(row(STS, 10, 2, {EXPIRED: 2}), row(TLSA, 1)))


def slowly(data: bytes) -> tuple[WireReport, bool]:
    """The report read the slow way, and whether there was anything to say."""
    notes = Notes()
    found = shape(load(data, notes), notes)
    return found, any(notes.of(at) for at in range(-1, len(found.policies)))


def plain(found: WireReport) -> WireReport:
    """The slow way makes an empty list of details where there is none."""
    return type(found)(
        found.organization_name,
        found.dates,
        found.contact_info,
        found.report_id,
        tuple(ReceivedPolicy(each.policy, each.summary, each.details) for each in found.policies),
    )


@given(reports, st.sampled_from([None, 1]), st.booleans())
@settings(relaxed, max_examples=30)
def test_both_ways_end_in_equal_values(found: Report, indent: int | None, ascii_only: bool) -> None:
    data = json.dumps(json.loads(to_json(found)), indent=indent, ensure_ascii=ascii_only).encode()
    fast = decode_strict(data)
    slow, _ = slowly(data)
    assert fast is None or plain(fast) == plain(slow)


def test_a_good_report_goes_the_fast_way() -> None:
    fast = decode_strict(GOOD)
    assert fast is not None
    assert (plain(fast), False) == (plain(slowly(GOOD)[0]), slowly(GOOD)[1])
    assert decode_strict(json.dumps(json.loads(GOOD), indent=2).encode()) is not None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'{"organ', b'{"report-id":"x","organ'),  # a repeated key
        (b"Example Inc.", b"a\\u003a"),
        (b'{"organ', b'{"report-id" :"x","organ'),  # both at once, so that the numbers of colons agree
        (b"Example Inc.", b'\\u0022:\\u0022"'),
        (b"Example Inc.", b"a\\u0000"),
        (b"Example Inc.", b""),
        (b'"Example Inc."', b"null"),
        (b"Example Inc.", b"\xff"),
        (b'{"organ', b'{"x":1,"organ'),
        (b'{"policy":', b'{"warnings":[],"policy":'),  # which is a field of the value, and ours alone
        (b'{"policy":', b'{"warnings":[{"code":"bom","text":"x"}],"policy":'),
        (b":10", b":-10"),
        (b":10", b":10.0"),
        (b":10", b':"10"'),
        (b'"192.0.2.1"', b'""'),
        (b'"certificate-expired"', b'""'),
        (b'"version: STSv1"', b'""'),
        (b'"*.mail.example.net"]', b'""]'),
        (b'"tlsa"', b'""'),
        (b'"example.net"', b'""'),
        (b"mx1 at your service", b"x" * 2000),
        (b"mx1 at your service", b"," * 600_000),
        (b"}]}", b"}]} x"),
    ],
)
def test_anything_odd_goes_the_slow_way(old: bytes, new: bytes) -> None:
    data = GOOD.replace(old, new)
    assert data != GOOD
    assert decode_strict(data) is None


@given(st.data())
@relaxed
def test_what_goes_the_fast_way_has_nothing_to_be_told(data: st.DataObject) -> None:
    """Single octets changed: where the fast way still goes, the slow one finds the same and says nothing."""
    changed = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(GOOD) - 1))] = data.draw(st.sampled_from(b'0z" :,{}[]\\\x00\x80'))
    fast = decode_strict(bytes(changed))
    if fast is not None:
        slow, told = slowly(bytes(changed))
        assert plain(fast) == plain(slow)
        assert not told


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b' {"a": [1, 2.5, "\xc3\xa9", null]} ', {"a": [1, 2.5, "é", None]}),
        (b"null", None),
        (b'{"a":1,"a":2}', NOTHING),
        (b'{"a\\u003a":1}', NOTHING),
        (b'"\\u0000"', NOTHING),
        (b'"\\ud800"', NOTHING),
        (b'"\xff"', NOTHING),
        (b"[NaN]", NOTHING),
        (b"1e400", NOTHING),
        (b"9" * 30, int("9" * 30)),
        (b"9" * 5000, NOTHING),
        (b"{} x", NOTHING),
    ],
)
def test_json_that_everybody_reads_alike(data: bytes, value: object) -> None:
    assert decode_json(data) == value


def test_parts_of_the_shape() -> None:
    policies = json.loads(GOOD)["policies"]
    found = as_policy(policies[0])
    assert found is not None
    assert as_details(policies[0]["failure-details"]) == found.details
    assert as_policy(policies[0] | {"warnings": []}) is None
    assert as_policy("sts") is None
    for text in ("\0", "\ud800", ""):
        assert as_policy({**policies[0], "policy": {"policy-type": "sts", "policy-domain": text}}) is None
        assert as_details([{"result-type": text, "failed-session-count": 1}]) is None


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("certificate-expired", ResultType.CERTIFICATE_EXPIRED),
        (" Certificate_Expired ", ResultType.CERTIFICATE_EXPIRED),
        ("Testing", None),
        ("", None),
    ],
)
def test_result_type(text: str, meant: ResultType | None) -> None:
    assert ReceivedDetail(text, 1).result_type is meant
