"""The plain response to a policy fetch, and that it is read as h11 reads it (RFC 8461 §3.3, RFC 9112)."""

from collections.abc import Sequence

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stsguard import __version__
from stsguard.adapters.policy_fetch.response import FullResponse, PolicyResponse
from stsguard.core.errors import PolicyFetchFailed
from stsguard.core.plain_response import MAX_HEAD_OCTETS, Unread, read_plain_response
from stsguard.names import Domain
from tests.strategies import relaxed

HOST = Domain("mta-sts.example.test")
BODY = b"version: STSv1\r\n"
LENGTH = f"Content-Length: {len(BODY)}"
LIMIT = 512


def head(*fields: str, status: str = "HTTP/1.1 200 OK", end: str = "\r\n") -> bytes:
    return end.join((status, *fields, "", "")).encode("latin-1")


def read(octets: bytes) -> bytes | Unread:
    return read_plain_response(octets, max_size_bytes=LIMIT)


PLAIN = head("Server: nginx", "Content-Type: text/plain", LENGTH) + BODY


@pytest.mark.parametrize(
    "octets",
    [
        PLAIN,
        PLAIN + b"HTTP/1.1 200 OK",
        head("content-type:text/plain; charset=utf-8", f"{LENGTH} ", "X:", "Y: a, b\t c") + BODY,
        head("CONTENT-TYPE: TEXT/PLAIN", LENGTH, status="HTTP/1.1 200 ") + BODY,
    ],
)
def test_plain_responses(octets: bytes) -> None:
    assert read(octets) == BODY


def test_a_part_of_a_plain_response_waits_for_more() -> None:
    for end in range(len(PLAIN)):
        assert read(PLAIN[:end]) is Unread.MORE


@pytest.mark.parametrize(
    "octets",
    [
        b"HTTP/1.0 200 OK\r\n",
        b"HTTP/1.1 302 Found\r\n",
        b"220 smtp",
        b"\0",
        head("Content-Type: text/plain", LENGTH, status="HTTP/1.1 200 \xe4") + BODY,
        head("Content-Type: text/plain", LENGTH, end="\n") + BODY,  # RFC 9112 §2.2 permits it
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\n",
        head("Content-Type: text/plain") + BODY,
        head(LENGTH) + BODY,
        head("Content-Type: text/html", LENGTH) + BODY,
        head("Content-Type: text/plain", "Content-Type: text/plain", LENGTH) + BODY,
        head("Content-Type: text/plain", LENGTH, LENGTH) + BODY,
        head("Content-Type: text/plain", "Content-Length: +1") + BODY,
        head("Content-Type: text/plain", f"Content-Length: {LIMIT + 1}") + BODY,
        head("Content-Type: text/plain", LENGTH, "Transfer-Encoding: chunked") + BODY,
        head("Content-Type: text/plain", LENGTH, "Content-Encoding: identity") + BODY,
        head("Content-Type: text/plain", LENGTH, "Upgrade: h2c") + BODY,
        head("Content-Type: text/plain", LENGTH, "X: a", " folded") + BODY,
        head("Content-Type: text/plain", LENGTH, "No colon") + BODY,
        head("Content-Type: text/plain", LENGTH, "X: a\0b") + BODY,
        head("Content-Type: text/plain", LENGTH, "X: \xe4") + BODY,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD_OCTETS,
    ],
)
def test_whatever_else_is_left_to_h11(octets: bytes) -> None:
    assert read(octets) is Unread.NOT_PLAIN


_FIELDS = [
    "Content-Type: text/plain",
    "content-type: text/plain;charset=utf-8",
    "Content-Type: text/html",
    LENGTH,
    "Content-Length: 5",
    "Content-Length: 1000",
    "Content-Length: 016",
    "Transfer-Encoding: chunked",
    "Content-Encoding: gzip",
    "Content-Encoding: identity",
    "Connection: close",
    "Connection: upgrade",
    "Upgrade: h2c",
    "Set-Cookie: a=b; c",
    "X:",
    "X: \xe4",
    "X : y",
    " folded",
    "Date: Sat, 28 Nov 2026 10:00:00 GMT",
]


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    status = draw(st.sampled_from(["HTTP/1.1 200 OK"] * 5 + ["HTTP/1.1 200", "HTTP/1.0 200 OK", "HTTP/1.1 404 No"]))
    fields = draw(st.lists(st.sampled_from(_FIELDS), max_size=5))
    if draw(st.booleans()):
        fields += ["Content-Type: text/plain", LENGTH]
    end = draw(st.sampled_from(["\r\n"] * 5 + ["\n"]))
    return head(*fields, status=status, end=end) + draw(st.sampled_from([BODY, BODY * 2, BODY[:5], b""]))


@relaxed
@given(
    responses(),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=2),
    st.lists(st.integers(1, 60), max_size=6),
)
def test_what_is_read_the_short_way_is_what_h11_reads(
    made: bytes, changes: Sequence[tuple[int, int]], sizes: Sequence[int]
) -> None:
    octets = bytearray(made)
    for position, octet in changes:
        if position < len(octets):
            octets[position] = octet
    pieces = []
    for size in sizes:
        pieces.append(bytes(octets[:size]))
        del octets[:size]
    pieces = [piece for piece in (*pieces, bytes(octets)) if piece]

    def outcome(response: PolicyResponse | FullResponse) -> bytes | str:
        try:
            for piece in pieces:
                body = response.receive(piece)
                if body is not None:
                    return body
            return response.finish()
        except PolicyFetchFailed as exc:
            return exc.reason.code

    assert outcome(PolicyResponse(HOST, max_size_bytes=LIMIT)) == outcome(FullResponse(max_size_bytes=LIMIT))


@pytest.mark.parametrize(("port", "host"), [(443, HOST), (8443, f"{HOST}:8443")])
def test_the_request_is_one_that_h11_would_send(port: int, host: str) -> None:
    fields = [
        ("Host", host),
        ("User-Agent", f"stsguard/{__version__}"),
        ("Accept", "text/plain"),
        ("Accept-Encoding", "identity"),
        ("Cache-Control", "no-store"),
        ("Connection", "close"),
    ]
    client = h11.Connection(h11.CLIENT)
    sent = client.send(h11.Request(method="GET", target="/.well-known/mta-sts.txt", headers=fields)) or b""
    assert PolicyResponse(HOST, max_size_bytes=LIMIT, port=port).request == sent
