"""The structure of mail: parameters, boundaries, encodings, bounds."""

import base64
import quopri
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stsguard.core.mime import (
    MAX_DEPTH,
    MAX_LINE_REST,
    MAX_PARTS,
    Leaf,
    Walk,
    begins_as_mail,
    content_type,
    decoded,
    parameters_of,
    split,
)
from stsguard.core.received_report import Notes
from tests.strategies import relaxed


def walked(message: bytes) -> tuple[list[Leaf], list[str]]:
    notes = Notes()
    leaves = list(Walk(notes).leaves(*split(message)))
    return leaves, [warning.code for warning in notes.of_report()]


@pytest.mark.parametrize(
    ("value", "media_type", "parameters"),
    [
        ("", "text/plain", {}),
        (
            "Multipart/Report; report-type=tlsrpt; boundary=b",
            "multipart/report",
            {"report-type": "tlsrpt", "boundary": "b"},
        ),
        ('a/b ; X="c;d\\"e" ;', "a/b", {"x": 'c;d"e'}),
        ('a/b; x="open', "a/b", {"x": "open"}),
        ("a/b; x=1; x=2;; y = 3 ", "a/b", {"x": "1", "y": "3"}),
        ("nonsense; x=1", "text/plain", {"x": "1"}),
        # RFC 2231
        ("a/b; n*0=x; n*1*=y%7a; n*10=!", "a/b", {"n": "xyz!"}),
        ("a/b; n*=utf-8'en'x%20y", "a/b", {"n": "x y"}),
        ("a/b; n=plain; n*=other", "a/b", {"n": "plain"}),
    ],
)
def test_content_type(value: str, media_type: str, parameters: dict[str, str]) -> None:
    assert content_type(value) == (media_type, parameters)


def test_the_first_of_a_field_counts_and_folds_are_undone() -> None:
    header, body = split(
        b"\tstray\r\nX: 1\r\n 2\r\nSubject: a\r\n\tb\r\nSUBJECT: c\r\nno colon\r\nFrom: x\0y\r\n\r\nrest"
    )
    assert header == {b"subject": "a b", b"from": "x\ufffdy"}
    assert body == b"rest"
    assert split(b"\r\n\r\nonly a body") == ({}, b"only a body")
    assert split(b"Subject: no body") == ({b"subject": "no body"}, b"")


def test_rfc5322_2_2_a_field_name_has_no_blank_before_the_colon() -> None:
    assert split(b"From : a@example.com\r\nFrom: b@example.com\r\n\r\n")[0] == {b"from": "b@example.com"}


B = b"Content-Type: multipart/mixed; boundary=b\n\n"


@pytest.mark.parametrize(
    ("message", "bodies", "told"),
    [
        (B + b"pre\n--b\n\nx\n--b\n\ny\n--b--\npost\n--b\n\nz", [b"x", b"y"], []),
        (B + b"--b\r\n\r\nx\r\n\r\n--b  \r\n\r\ny\r\n--b--", [b"x\r\n", b"y"], []),
        (B + b"--b\n\nx --b\n--bc\n--b--", [b"x --b\n--bc"], []),
        (B + b"--b\n\nx", [b"x"], ["boundary"]),
        (B + b"--b\n\nx\n--b", [b"x", b""], ["boundary"]),
        (B + b"text --b only", [], ["boundary"]),
        (B + b"nothing", [], ["boundary"]),
        (B + b"--other\n\nx\n--other--\n", [b"x"], ["boundary"]),
        (b"Content-Type: multipart/mixed\n\n--c\n\nx\n--c--", [b"x"], ["boundary"]),
        (B + b"--b\n--b--", [b""], []),
        (
            b"Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\n" + base64.b64encode(b"A: b\n\nx"),
            [b"x"],
            [],
        ),
        (b"", [b""], []),
    ],
)
def test_parts(message: bytes, bodies: list[bytes], told: list[str]) -> None:
    leaves, codes = walked(message)
    assert [leaf.body for leaf in leaves] == bodies
    assert codes == told


def test_parts_that_hold_nothing_are_bounded_too() -> None:
    leaves, told = walked(B + (b"--b\nContent-Type: multipart/mixed\n\n") * (MAX_PARTS + 9) + b"--b--")
    assert (leaves, "parts-left-out" in told) == ([], True)


def test_rfc2046_5_1_1_blanks_may_follow_a_boundary_within_bounds() -> None:
    blanks = b" " * MAX_LINE_REST
    assert [leaf.body for leaf in walked(B + b"--b" + blanks + b"\n\nx\n--b--")[0]] == [b"x"]
    assert [leaf.body for leaf in walked(B + b"--b\n\nx\n--b" + blanks + b" \n--b--")[0]] == [b"x\n--b" + blanks + b" "]
    assert [leaf.body for leaf in walked(B + b"--b\n\nx\n--b" + b" " * 9)[0]] == [b"x", b""]


def test_bounds() -> None:
    leaves, told = walked(B + b"--b\n\nx\n" * (MAX_PARTS + 9) + b"--b--")
    assert (len(leaves), told) == (MAX_PARTS, ["parts-left-out"])
    inner = (
        b"--c\nContent-Type: multipart/mixed; boundary=b\n\n"
        + b"--b\n\nx\n" * (MAX_PARTS + 9)
        + b"--b--\n--c\n\ny\n--c--"
    )
    leaves, told = walked(B.replace(b"=b", b"=c") + inner)
    assert (len(leaves), told) == (MAX_PARTS, ["parts-left-out"])
    (deepest,), _ = walked(b"Content-Type: message/rfc822\n\n" * 100 + b"Subject: x\n\ny")
    assert deepest.depth == MAX_DEPTH


@pytest.mark.parametrize(
    ("body", "encoding", "content", "told"),
    [
        (b"a=3Db", "Quoted-Printable", b"a=b", []),
        (b"YWJj\r\n", " BASE64; ", b"abc", []),
        (b"YW!Jj", "base64", b"abc", ["base64"]),
        (b"YWJjZA", "base64", b"abcd", ["base64"]),
        (b"YWJjZ", "base64", b"abc", ["base64"]),
        (b"abc", "8bit", b"abc", []),
        (b"abc", "x-uuencode", b"abc", ["transfer-encoding"]),
    ],
)
def test_decoded(body: bytes, encoding: str, content: bytes, told: list[str]) -> None:
    notes = Notes()
    assert decoded(body, encoding, notes) == content
    assert [warning.code for warning in notes.of_report()] == told


@given(st.binary(min_size=1, max_size=400), st.text("abc äé!'\"\\;", min_size=1, max_size=150))
@relaxed
def test_finds_what_the_standard_library_attaches(content: bytes, text: str) -> None:
    message = EmailMessage()
    message.set_content(text)
    message.add_attachment(content, "application", "tlsrpt+gzip", filename="a!b!1!2.json.gz")
    leaves, told = walked(message.as_bytes())
    assert told == []
    assert [leaf.media_type for leaf in leaves] == ["text/plain", "application/tlsrpt+gzip"]
    assert leaves[1].name == "a!b!1!2.json.gz"
    assert decoded(leaves[1].body, leaves[1].header[b"content-transfer-encoding"], Notes()) == content


@given(st.binary(max_size=200))
@relaxed
def test_decoders_against_the_standard_library(content: bytes) -> None:
    assert decoded(base64.encodebytes(content), "base64", Notes()) == content
    encoded = quopri.encodestring(content)  # which makes all line ends like the first one
    assert decoded(encoded, "quoted-printable", Notes()) == quopri.decodestring(encoded)


_PIECES = [
    b"--b",
    b"--b--",
    b"\n",
    b"\r\n",
    b"\n\n",
    b"Content-Type: multipart/x; boundary=b",
    b"Content-Type: message/rfc822",
]


@given(st.lists(st.one_of(st.sampled_from(_PIECES), st.binary(max_size=4)), max_size=40).map(b"".join))
@relaxed
def test_any_octets_are_survived(message: bytes) -> None:
    leaves, _ = walked(message)
    assert len(leaves) <= MAX_PARTS
    for leaf in leaves:
        assert leaf.depth <= MAX_DEPTH
        parameters_of(leaf.header.get(b"content-disposition", ""))


@pytest.mark.parametrize(
    ("octets", "mail"),
    [
        (b"Return-Path: <>\r\n", True),
        (b"From x@y Mon Mar  2 03:10:06 2026\nReceived : from a", True),
        (b"", False),
        (b"\r\nbody", False),
        (b"two words: x", False),
        (b"<html>", False),
    ],
)
def test_rfc5322_2_2_a_mail_begins_with_a_header_field(octets: bytes, mail: bool) -> None:
    assert begins_as_mail(octets) is mail
