"""What a valid signature does not vouch for (RFC 6376 §8.15)."""

import pytest

from stsguard.core.vouching import doubt
from tests.report_mail import report_mail

MAIL = report_mail()
BOUNCE = (
    b"From: mailer-daemon@sender.example\r\nContent-Type: multipart/report; boundary=outer\r\n\r\n"
    b"--outer\r\n\r\nsorry\r\n--outer\r\nContent-Type:\r\n message/rfc822\r\n\r\n" + MAIL + b"\r\n--outer--\r\n"
)
INNER = b"Content-Type: multipart/mixed; boundary=b1\r\n"


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(
    "field",
    [
        INNER,
        b"CONTENT-TYPE : text/plain\r\n",
        b"Content-Transfer-Encoding: 7bit\r\nContent-Transfer-Encoding: base64\r\n",
        b"From: x@example.com\r\n",
        b"TLS-Report-Domain: b.example\r\n",
        b"TLS-Report-Submitter: sender.example\r\n",
    ],
)
def test_rfc6376_8_15_a_field_that_is_there_twice_is_not_vouched_for(field: bytes, signed: bool) -> None:
    assert "twice" in doubt(field + MAIL, content_type_signed=signed)
    assert "twice" in doubt(b"From x Sun Mar  1\n" + field + MAIL, content_type_signed=signed)


def test_a_mail_of_a_reporter_is_vouched_for() -> None:
    for signed in (True, False):
        assert doubt(MAIL, content_type_signed=signed) == ""
    assert doubt(MAIL.replace(b"\r\n", b"\n"), content_type_signed=False) == ""
    opened = MAIL.replace(b"\r\n\r\n--b1", b"\r\n\r\nThis is a multi-part message in MIME format.\r\n\r\n--b1", 1)
    assert doubt(opened, content_type_signed=False) == ""
    alone = b"From: a@example.com\r\nContent-Type: application/tlsrpt+json\r\n\r\n{}"
    assert doubt(alone, content_type_signed=False) == ""


def test_rfc2046_5_1_1_where_content_type_is_not_signed_the_body_begins_with_its_boundary() -> None:
    text = MAIL.replace(b"\r\n\r\n--b1", b"\r\n\r\nYour mail:\r\n\r\n--b1", 1)
    assert "does not begin with its boundary" in doubt(text, content_type_signed=False)
    assert doubt(text, content_type_signed=True) == ""
    other = MAIL.replace(b"\r\n\r\n--b1", b"\r\n\r\n--outer\r\n\r\nYour mail:\r\n--b1", 1)
    assert "does not begin with its boundary" in doubt(other, content_type_signed=False)


def test_where_content_type_is_not_signed_no_message_may_enclose_the_report() -> None:
    bounce = BOUNCE.replace(b"Content-Type: multipart/report; boundary=outer\r\n", INNER, 1)
    for mail in (BOUNCE, bounce):
        assert "a message within" in doubt(mail, content_type_signed=False)
    assert doubt(BOUNCE, content_type_signed=True) == ""
