"""Which parts of a mail are taken for reports; whole mails are in tests/protocol/received."""

import base64
import gzip
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings

from stsguard.core import received_mail
from stsguard.core.errors import ReportInvalid
from stsguard.core.received_mail import MAX_REPORTS, find_reports, mail_header
from stsguard.core.tlsrpt_mail import build_mail
from stsguard.core.tlsrpt_report import Report, compress, to_json
from stsguard.core.tlsrpt_report_received import parse_received
from stsguard.core.unpack import unpack
from tests.reports import DOMAIN, reports
from tests.strategies import relaxed

GZIP = gzip.compress(b'{"report-id": "1"}', mtime=0)


@given(reports)
@settings(relaxed, max_examples=30)
def test_round_trip_of_what_we_send(sent: Report) -> None:
    message = build_mail(
        sent,
        ("tls@example.net",),
        report_domain=DOMAIN,
        sender="noreply@mail.example.com",
        message_id="1@mail.example.com",
        at=datetime(2026, 11, 22, tzinfo=UTC),
    )
    found = find_reports(message)
    assert found.warnings == ()
    assert found.header.from_address == "noreply@mail.example.com"
    assert found.header.report_domain == DOMAIN
    assert found.header.submitter == sent.submitter
    assert found.header.subject_report_id == f"{sent.report_id}@{sent.submitter}"
    (part,) = found.parts
    assert part.content == compress(to_json(sent))
    assert parse_received(unpack(part.content).documents[0]).successes == sent.successes


def part(media_type: str, body: bytes, name: str = "x", encoding: str = "8bit") -> bytes:
    return (
        f'--b\nContent-Type: {media_type}; name="{name}"\nContent-Transfer-Encoding: {encoding}\n\n'.encode()
        + body
        + b"\n"
    )


def mail(*parts: bytes) -> bytes:
    return b"Content-Type: multipart/report; report-type=tlsrpt; boundary=b\n\n" + b"".join(parts) + b"--b--\n"


def test_the_labelled_one_comes_first_and_only_some_are_taken() -> None:
    found = find_reports(mail(*[part("text/plain", b'{ "a": 1}')] * MAX_REPORTS, part("application/tlsrpt+gzip", GZIP)))
    assert len(found.parts) == MAX_REPORTS
    assert found.parts[0].media_type == "application/tlsrpt+gzip"
    assert {warning.code for warning in found.warnings} == {"media-type", "several-reports"}


@pytest.mark.parametrize(
    ("one", "taken"),
    [
        (part("text/plain", b"[EXTERNAL] be careful"), False),
        (part("text/html", b"<html>"), False),
        (part("image/png", b"\x89PNG"), False),
        (part("text/plain", b'\n {"a": 1}'), True),
        (
            part("application/octet-stream", b"rubbish", "a.json.gz"),
            True,
        ),  # called a report: somebody has to say why not
        (part("application/tlsrpt+gzip", b"rubbish"), True),
        (part("application/tlsrpt+gzip", b""), False),
        (part("application/octet-stream", base64.b64encode(GZIP), encoding="base64"), True),
        (part("application/octet-stream", base64.b64encode(GZIP)), True),
        (part("application/octet-stream", b'{"a": "\xff"}', encoding="base64"), True),
    ],
)
def test_what_a_part_is_taken_for(one: bytes, taken: bool) -> None:
    assert bool(find_reports(mail(one)).parts) is taken


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("a@example.com", "a@example.com"),
        ('"A, B" <a@example.com> (c)', "a@example.com"),
        ("a@example.com, b@example.com", ""),
        ("undisclosed", ""),
        ('"a b"@example.com', ""),
        ("", ""),
    ],
)
def test_from(value: str, address: str) -> None:
    assert find_reports(f"From: {value}\n\n".encode()).header.from_address == address


@pytest.mark.parametrize(
    ("value", "subject"),
    [
        ("=?utf-8?Q?a=C3=A4?= b", "aä b"),
        ("=?utf-8?B?a?=", "=?utf-8?B?a?="),
        ("=?no-such?Q?a?=", "=?no-such?Q?a?="),
        ("=?utf-8?Q?=00?=", "\ufffd"),
    ],
)
def test_subject(value: str, subject: str) -> None:
    assert find_reports(f"Subject: {value}\n\n".encode()).header.subject == subject


@pytest.mark.parametrize(
    ("value", "date"),
    [
        ("Mon, 02 Mar 2026 03:10:06 -0700", datetime(2026, 3, 2, 10, 10, 6, tzinfo=UTC)),
        ("Mon, 02 Mar 2026 03:10:06 -0000", datetime(2026, 3, 2, 3, 10, 6, tzinfo=UTC)),
        ("Mon, 02 Mar 2026 03:10:06 +9999", None),
        ("yesterday", None),
        ("Mon, 31 Dec 9999 23:00:00 -0900", None),
    ],
)
def test_date(value: str, date: datetime | None) -> None:
    assert find_reports(f"Date: {value}\n\n".encode()).header.date == date


def test_a_mail_too_long_is_refused() -> None:
    with pytest.raises(ReportInvalid, match="bytes"):
        find_reports(b" " * (received_mail.MAX_MESSAGE_BYTES + 1))


def test_the_header_alone() -> None:
    mail = b"From a@example.com Sun Mar  1 00:00:00 2026\nFrom: A <a@example.com>\nTLS-Report-Submitter: example.com\n"
    for text in (mail, mail.partition(b"\n")[2], mail + b"\nbody"):
        assert (mail_header(text).from_address, mail_header(text).submitter) == ("a@example.com", "example.com")
    assert mail_header(b"From: A <a@example.com>\nFrom: b@example.com\n").from_address == "a@example.com"
    assert mail_header(b"").from_address == ""
