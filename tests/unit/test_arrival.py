"""The form of an entry in the spool: what was written is read, and whatever else is there is told from it."""

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stsguard.core.arrival import (
    MAIL,
    MAX_HEADER_BYTES,
    MAX_TEXT_LENGTH,
    Arrival,
    EntryInvalid,
    SpoolEntry,
    Via,
    media_type_of,
    parse_entry,
    serialize_entry,
)

NOW = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)
texts = st.text(max_size=MAX_TEXT_LENGTH)


@given(st.sampled_from(Via), texts, texts, texts, st.binary(max_size=200))
def test_entry_is_read_as_it_was_written(via: Via, recipient: str, client: str, media_type: str, octets: bytes) -> None:
    arrival = Arrival(via, NOW, recipient, client, media_type)
    header = serialize_entry(arrival, octets)
    assert header.count(b"\n") == 1
    assert parse_entry(header + octets) == SpoolEntry(arrival, octets)


def test_text_is_cut_so_that_the_first_line_is_bounded() -> None:
    wild = "\U0001f600" * 5000
    header = serialize_entry(Arrival(Via.MILTER, NOW, wild, wild, wild), b"")
    assert len(header) < MAX_HEADER_BYTES
    assert parse_entry(header).arrival.client == wild[:MAX_TEXT_LENGTH]


def test_instants_are_utc() -> None:
    there = NOW.astimezone(timezone(timedelta(hours=5)))
    assert parse_entry(serialize_entry(Arrival(Via.FILE, there), b"")).arrival.received_at.tzinfo is UTC


def test_only_a_mail_is_one() -> None:
    assert Arrival(Via.PIPE, NOW).is_mail
    assert not Arrival(Via.HTTPS, NOW, media_type="application/tlsrpt+gzip").is_mail


@pytest.mark.parametrize(
    "octets", [b" {", b"[]", b"\x1f\x8b\x08", b"PK\x03\x04", b"\xef\xbb\xbf{", b"\xff\xfe{\0", b"{\0"]
)
def test_report_file_is_told_from_a_mail_by_what_it_begins_with(octets: bytes) -> None:
    assert media_type_of(octets) == ""
    assert media_type_of(b"Received: by x\r\n" + octets) == media_type_of(b"From x\n") == MAIL


def _changed(**changes: object) -> bytes:
    head = serialize_entry(Arrival(Via.FILE, NOW), b"abc")
    values = json.loads(head.removeprefix(b"stsguard-spool-1 ")) | changes
    return b"stsguard-spool-1 " + json.dumps(values).encode() + b"\nabc"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it does not begin as an entry"),
        (b"stsguard-spool-2 {}\n", "it does not begin as an entry"),
        (b"stsguard-spool-1 {}", "it does not begin as an entry"),
        (b"stsguard-spool-1 " + b" " * MAX_HEADER_BYTES + b"\n", "it does not begin as an entry"),
        (b"stsguard-spool-1 {}\n", "its first line can't be read: .*recipient"),
        (b"stsguard-spool-1 []\n", "its first line can't be read"),
        (b"stsguard-spool-1 \xff\n", "its first line can't be read"),
        (b"stsguard-spool-1 " + b"[" * 16000 + b"\n", "its first line can't be read"),
        (_changed(via="pigeon"), "its first line can't be read: .*pigeon"),
        (_changed(received_at="2026-03-01T00:00:00"), "its first line can't be read: .*no zone"),
        (_changed(received_at="0001-01-01T00:00:00+23:00"), "its first line can't be read"),
        (_changed(length=4), "it has 3 bytes in place of '4'"),
        (_changed(length="3"), "it has 3 bytes in place of '3'"),
        (_changed(sha256="0" * 64), "its bytes are not those that were written"),
        (_changed(sha256=None), "its bytes are not those that were written"),
        (_changed()[:-1], "it has 2 bytes"),
        (_changed()[:-1] + b"d", "its bytes are not"),
    ],
)
def test_what_is_no_entry_is_refused_with_its_reason(content: bytes, reason: str) -> None:
    with pytest.raises(EntryInvalid, match=reason):
        parse_entry(content)
