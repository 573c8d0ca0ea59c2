"""Netstrings: framing, limits, rubbish."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stsguard.core import netstring
from stsguard.core.errors import RequestInvalid


@pytest.mark.parametrize(
    ("buffer", "found", "rest"),
    [
        (b"", [], b""),  # nothing yet
        (b"3:abc,", [b"3:abc,"], b""),  # one
        (b"3:abc,0:,", [b"3:abc,", b"0:,"], b""),  # two in one segment, the second empty
        (b"3:abc,1", [b"3:abc,"], b"1"),  # length incomplete
        (b"3:abc,12:a", [b"3:abc,"], b"12:a"),  # payload incomplete
        (b"3:abc", [], b"3:abc"),  # only the comma is missing
        (b"3:a,c,", [b"3:a,c,"], b""),  # a comma inside
        (b"10000", [], b"10000"),  # the longest length, colon yet to come
    ],
)
def test_split(buffer: bytes, found: list[bytes], rest: bytes) -> None:
    assert netstring.split(buffer) == (found, rest)


@pytest.mark.parametrize(
    ("buffer", "why"),
    [
        (b"GET / HTTP/1.1\r\n", "malformed"),  # another protocol
        (b":abc,", "malformed"),  # no length
        (b"03:abc,", "malformed"),  # leading zero
        (b"3:abcd", "comma"),  # longer than it says
        (b"10001:", "longer than 10000"),  # over the limit: refused before it is sent
        (b"1000000", "too many digits"),  # a length that can only grow
        (b"-1:,", "malformed"),  # a sign
        (b"\xd9\xa3:abc,", "malformed"),  # digits of another script
        (b"3 :abc,", "malformed"),  # a blank
    ],
)
def test_rubbish_is_refused(buffer: bytes, why: str) -> None:
    with pytest.raises(RequestInvalid, match=why):
        netstring.split(buffer)


def test_limit_is_the_payload_alone() -> None:
    at_limit = netstring.encode(b"x" * 10_000)
    assert netstring.split(at_limit) == ([at_limit], b"")
    with pytest.raises(RequestInvalid):
        netstring.split(netstring.encode(b"x" * 10_001))


@given(st.lists(st.binary(max_size=50), max_size=6), st.binary(max_size=3))
def test_round_trip(payloads: list[bytes], cut: bytes) -> None:
    framed = [netstring.encode(payload) for payload in payloads]
    stream = b"".join(framed)
    assert netstring.split(stream) == (framed, b"")
    assert [netstring.payload(one) for one in framed] == payloads
    half = len(stream) - min(len(cut), len(stream))
    first, rest = netstring.split(stream[:half])
    second, end = netstring.split(rest + stream[half:])
    assert (first + second, end) == (framed, b"")


@given(st.binary(max_size=40))
def test_any_bytes_give_netstrings_or_the_one_error(buffer: bytes) -> None:
    try:
        found, rest = netstring.split(buffer)
    except RequestInvalid:
        return
    assert b"".join(found) + rest == buffer
