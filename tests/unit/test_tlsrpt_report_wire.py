"""The fast way into a report: it goes only where the slow way would find nothing to say."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stsguard.core.errors import ResultType
from stsguard.core.received_json import load
from stsguard.core.received_report import Notes
from stsguard.core.received_shape import shape
from stsguard.core.tlsrpt_report import Report, to_json
from stsguard.core.tlsrpt_report_wire import ReceivedDetail, WireReport, decode_strict
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
        tuple(type(each)(each.policy, each.summary, each.details or ()) for each in found.policies),
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
