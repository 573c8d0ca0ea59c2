"""JSON of strangers: what is tolerated, and the bounds."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stsguard.core.errors import ReportInvalid
from stsguard.core.received_json import (
    MAX_DEPTH,
    MAX_REPAIRED_BYTES,
    MAX_VALUES,
    check_bounds,
    load,
    loads,
)
from stsguard.core.received_report import Notes
from tests.strategies import relaxed


def codes(notes: Notes) -> list[str]:
    return [warning.code for warning in notes.of_report()]


@pytest.mark.parametrize(
    ("data", "value", "told"),
    [
        (b' {"a": 1}\r\n', {"a": 1}, []),
        (b'{"a": 1, "b": {"a": 2, "a": 3}, "a": 4}', {"a": 1, "b": {"a": 2}}, ["duplicate-key"]),
        (b'\xef\xbb\xbf{"a": "\xff"}', {"a": "\ufffd"}, ["not-utf8", "byte-order-mark"]),
        (b'{"a": "x\ty"}', {"a": "x\ty"}, ["control-character"]),
        (b"[] and more", [], ["trailing-data"]),
        (b"[1e400, -Infinity]", [float("inf"), float("-inf")], []),
        (b"[%d, -%d, %d]" % (10**30, 10**30, 2**60), [10**30, -(10**30), 2**60], []),
        (b"[%d, -%d, %d, 1e400]" % (10**30, 10**30, 2**60), [10**20, -(10**20), 2**60, float("inf")], []),
        (b"9" * 7_000_000, 10**20, []),
    ],
)
def test_tolerated(data: bytes, value: object, told: list[str]) -> None:
    notes = Notes()
    assert load(data, notes) == value
    assert codes(notes) == told


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not JSON: Expecting value in line 1, column 1"),
        (b'{"a": 1,\n }', "not JSON: Expecting property name enclosed in double quotes in line 2, column 2"),
        (b'{"a": "x\ty" 1}', "not JSON: Expecting ',' delimiter in line 1, column 13"),
        (b'{"a": "x', "not JSON: Unterminated string starting at in line 1, column 7"),
        (b"[" * (2 * MAX_DEPTH + 1), f"nested more than {MAX_DEPTH} deep"),
        (b"[" + b"0," * MAX_VALUES + b"0]", f"{MAX_VALUES + 1} values, and a report has {MAX_VALUES} at most"),
        (b" " * (MAX_REPAIRED_BYTES + 1), "too large to be repaired"),
    ],
)
def test_refused(data: bytes, why: str) -> None:
    with pytest.raises(ReportInvalid) as refusal:
        load(data, Notes())
    assert why in str(refusal.value)


def test_lone_surrogates_come_through_to_be_cleaned() -> None:
    assert loads('"\\ud800"', Notes()) == "\ud800"
    assert loads('["\ud800"]', Notes()) == ["\ud800"]


@pytest.mark.parametrize("inside", ["[[[[", '\\"[', "\\\\", '\\\\\\"{,,,', "\\u0022[", ""])
def test_brackets_within_strings_do_not_count(inside: str) -> None:
    check_bounds((f'["{inside}", ' * (MAX_DEPTH - 1) + "1" + "]" * (MAX_DEPTH - 1)).encode())
    with pytest.raises(ReportInvalid):
        check_bounds((f'["{inside}", ' * (3 * MAX_DEPTH)).encode())


_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**15), 10**15), st.text('"\\[]{},:é\n', max_size=6)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text('"\\[{,', max_size=4), inner)),
    max_leaves=20,
)


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return int(isinstance(value, dict | list)) + max(map(_depth, inner), default=0)


@given(_values, st.booleans())
@relaxed
def test_reads_what_json_writes(value: object, ascii_only: bool) -> None:
    notes = Notes()
    assert load(json.dumps(value, ensure_ascii=ascii_only).encode(), notes) == value
    assert codes(notes) == []


@given(_values, st.integers(0, 3 * MAX_DEPTH))
@relaxed
def test_depth_is_bounded(value: object, more: int) -> None:
    data = b"[" * more + json.dumps(value).encode() + b"]" * more
    depth = _depth(value) + more
    try:
        check_bounds(data)
    except ReportInvalid:
        assert depth > MAX_DEPTH
    else:
        assert depth <= 2 * MAX_DEPTH
