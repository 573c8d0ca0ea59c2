"""Mails with reports in them, really signed, as senders write them."""

import base64
import gzip

from tests.received import report_json
from tests.signing import SELECTOR, ed25519_key, published, signed

SENDER = "sender.example"
KEY_NAME = f"{SELECTOR}._domainkey.{SENDER}"


def key_record() -> str:
    """The TXT record of the key by which they are signed."""
    return published(ed25519_key())


def report_mail(
    content: bytes | None = None, *, sender: str = SENDER, domain: str = "a.example", subject: str = "Report"
) -> bytes:
    """A mail as RFC 8460 §5.3 has it, not signed; `content` is the report's JSON."""
    packed = base64.encodebytes(gzip.compress(report_json() if content is None else content, mtime=0))
    return (
        f"From: noreply@{sender}\r\nTo: tls@{domain}\r\nDate: Mon, 02 Mar 2026 03:10:06 +0000\r\n"
        f"Message-ID: <1@{sender}>\r\nSubject: {subject}\r\nTLS-Report-Domain: {domain}\r\n"
        f"TLS-Report-Submitter: {sender}\r\nMIME-Version: 1.0\r\n"
        'Content-Type: multipart/report; report-type=tlsrpt; boundary="b1"\r\n\r\n'
        "--b1\r\nContent-Type: text/plain\r\n\r\nThis is an aggregate TLS report.\r\n"
        "--b1\r\nContent-Type: application/tlsrpt+gzip\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    ).encode() + packed.replace(b"\n", b"\r\n") + b"--b1--\r\n"  # fmt: skip


def signed_mail(content: bytes | None = None, *, sender: str = SENDER, domain: str = "a.example") -> bytes:
    """The same, signed by `sender`."""
    return signed(report_mail(content, sender=sender, domain=domain), sender, ed25519_key())
