"""What is read of a plain record or policy is what the full parser reads of it (RFC 8461 §3.1, §3.2)."""

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stsguard.core.errors import PolicyInvalid, RecordInvalid
from stsguard.core.mtasts import (
    Policy,
    Record,
    parse_any_policy,
    parse_plain_policy,
    parse_policy,
    parse_record,
    select_record,
)

BODY = b"version: STSv1\nmode: enforce\nmx: mx.example.com\nmx: *.example.net\nmax_age: 604800\n"

_mx_values = st.sampled_from(
    ["mx.example.com", "*.example.com", "a", "1.2.3.4", "*.1.2.3.4", "*.*.example", "-.example", "a..b", "*", "*.", "."]
)
_line = st.one_of(
    st.sampled_from(["version: STSv1", "mode: enforce", "mode: testing", "mode: none", "mode: other", "max_age: 1"]),
    st.just(""),
    st.integers(0, 10**9).map("max_age: {}".format),
    _mx_values.map("mx: {}".format),
    st.text("abz09-.*_ \t", max_size=8).map("mx: {}".format),
)
_nearly_plain = st.tuples(
    st.just(["version: STSv1"]),
    st.sampled_from(["enforce", "testing", "none"]).map(lambda mode: [f"mode: {mode}"]),
    st.lists(_mx_values.map("mx: {}".format), max_size=4),
    st.lists(_line, max_size=1),
    st.integers(0, 40_000_000).map(lambda seconds: [f"max_age: {seconds}"]),
).map(lambda parts: [line for part in parts for line in part])
_bodies = st.builds(
    lambda lines, end, ended: (end.join(lines) + end * ended).encode(),
    st.one_of(_nearly_plain, st.lists(_line, max_size=6)),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([1, 0, 2]),
)


def _any_policy(body: bytes) -> Policy | None:
    try:
        return parse_any_policy(body)
    except PolicyInvalid:
        return None


@given(_bodies)
@example(BODY)
@example(BODY.replace(b"\n", b"\r\n"))
@example(BODY.replace(b"\n", b"\r\n", 1))
@example(BODY.replace(b"604800", b"31557600"))
@example(BODY.replace(b"604800", b"31557601"))
@example(BODY.replace(b"604800", b"0"))
@example(BODY.replace(b"mx.example.com", b"192.0.2.1"))
@example(BODY + b"\r")
def test_rfc8461_3_2_a_plain_policy_is_read_as_any(body: bytes) -> None:
    plain = parse_plain_policy(body)
    assert plain in (None, _any_policy(body))


@pytest.mark.parametrize("body", [BODY, BODY.replace(b"\n", b"\r\n"), BODY[:-1], BODY.replace(b"enforce", b"none")])
def test_most_policies_are_plain(body: bytes) -> None:
    assert parse_plain_policy(body) == parse_policy(body)


@pytest.mark.parametrize(
    "body",
    [
        BODY.replace(b"604800", b"31557601"),  # counts as less, with a warning
        BODY.replace(b"604800", b"0"),
        BODY.replace(b"mx.example.com", b"192.0.2.1"),
        BODY.replace(b"*.example.net", b"*.*.example.net"),
        BODY + b"\n",
        BODY.replace(b"mode", b"Mode"),
        b"\xef\xbb\xbf" + BODY,
        b"",
    ],
)
def test_what_is_to_be_said_something_of_is_not_plain(body: bytes) -> None:
    assert parse_plain_policy(body) is None


_ids = st.text("aZ09-", max_size=34)


@given(_ids, st.sampled_from(["; ", ";", ";  ", " ; "]), st.sampled_from([";", "", " ", "; ", ";;", "; a=b;"]))
@example("20300101", "; ", ";")
def test_rfc8461_3_1_a_plain_record_is_read_as_any(record_id: str, before: str, after: str) -> None:
    text = f"v=STSv1{before}id={record_id}{after}"

    def outcome(read: Callable[[], Record | None]) -> Record | str | None:
        try:
            return read()
        except RecordInvalid as exc:
            return str(exc)

    assert outcome(lambda: select_record([text.encode()])) == outcome(lambda: parse_record(text))
