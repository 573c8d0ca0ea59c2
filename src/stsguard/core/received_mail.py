"""Finds the reports in a mail (RFC 8460 §5.3), however the mail is built.

The RFC wants multipart/report with report-type=tlsrpt and one part of application/tlsrpt+gzip or +json. Senders and the
programs on the way make of it octet-stream, application/json or x-gzip, a message without parts, or a forwarded
message in a message, so what counts is what a part begins with. Whether the mail is to be believed is left to DKIM.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.errors import MessageError
from email.header import decode_header, make_header
from email.utils import getaddresses, parsedate_to_datetime

from stsguard.core.errors import ReportInvalid
from stsguard.core.mime import Header, Leaf, Walk, content_type, decoded, from_base64, split, without_envelope_line
from stsguard.core.received_report import Notes, ReceivedWarning, WarningCode
from stsguard.core.syntax import quoted
from stsguard.core.tlsrpt_report import MEDIA_TYPE_GZIP, MEDIA_TYPE_JSON
from stsguard.core.unpack import GZIP_MAGIC
from stsguard.core.unzip import ZIP_MAGIC

MAX_MESSAGE_BYTES = 30 * 1024 * 1024  # 20 MiB of JSON in base64, and a header
MAX_REPORTS = 10  # of one mail

_TLSRPT = re.compile(r"application/(?:x-)?tlsrpt\b")
_NAME = re.compile(r"\.(?:json|json\.gz|gz|zip)$", re.IGNORECASE)
_JSON = re.compile(rb"(?:\xef\xbb\xbf)?\s*\{\s*\"")
_UTF16 = (b"\xff\xfe{\0", b"\xfe\xff\0{", b"{\0", b"\0{")
_GZIP_IN_BASE64 = b"H4sI"
_REPORT_ID = re.compile(r"Report-ID:\s*<?([^<>\s]+)", re.IGNORECASE)
_PLAIN_ADDRESS = re.compile(r"[^\s@<>(),:;\"]+@[^\s@<>(),:;\"]+")


@dataclass(frozen=True, slots=True)
class MailHeader:
    """Of one message what matters here: text as written, unfolded and bounded; empty or None where it is not there.

    `from_address` is empty, too, where From names none or several: nobody can be aligned with that.
    `subject_report_id` is the Report-ID in Subject, which Google and Microsoft write otherwise than in the report.
    """

    from_address: str
    subject: str
    subject_report_id: str
    message_id: str
    date: datetime | None
    report_domain: str
    submitter: str


@dataclass(frozen=True, slots=True)
class ReportPart:
    """A part that may be a report: what it is called, and its octets for `unpack`. `header` is of the message that it
    is in: where `forwarded`, that is not the mail itself, and what signs the mail does not sign for the report."""

    media_type: str
    name: str
    content: bytes
    header: MailHeader
    forwarded: bool


@dataclass(frozen=True, slots=True)
class ReceivedMail:
    """A mail and the parts of it that may be reports, the likeliest first; none where there is nothing like one."""

    header: MailHeader
    parts: tuple[ReportPart, ...]
    warnings: tuple[ReceivedWarning, ...] = ()


def mail_header(message: bytes) -> MailHeader:
    """The header of a mail alone, whatever is in it."""
    return _mail_header(split(without_envelope_line(message))[0])


def find_reports(message: bytes) -> ReceivedMail:
    """The reports in a mail, as it was received.

    Raises:
        ReportInvalid: the mail is longer than `MAX_MESSAGE_BYTES`. Nothing else is raised.
    """
    if len(message) > MAX_MESSAGE_BYTES:
        raise ReportInvalid(f"a mail of {len(message)} bytes, and {MAX_MESSAGE_BYTES} are looked at")
    notes = Notes()
    header, body = split(without_envelope_line(message))
    outer = _mail_header(header)
    labelled: list[ReportPart] = []
    others: list[ReportPart] = []
    for leaf in Walk(notes).leaves(header, body):
        certain = _TLSRPT.match(leaf.media_type) is not None
        content = _content(leaf, certain or _NAME.search(leaf.name) is not None, notes)
        if content:
            inner = outer if not leaf.depth else _mail_header(leaf.message)
            part = ReportPart(leaf.media_type, leaf.name, content, inner, leaf.depth > 0)
            (labelled if certain else others).append(part)
    parts = tuple((labelled + others)[:MAX_REPORTS])
    if parts:
        _judge(header, parts, len(labelled) + len(others), notes)
    return ReceivedMail(outer, parts, notes.of_report())


def _content(leaf: Leaf, named: bool, notes: Notes) -> bytes:
    """The octets of a part that is a report by its name or by what it begins with; empty where it is none."""
    encoding = leaf.header.get(b"content-transfer-encoding", "")
    quiet = Notes()  # what is wrong with the encoding of another part is of no interest
    content = decoded(leaf.body, encoding, quiet)
    if not _begins_as_report(content):
        other = leaf.body.lstrip()
        if other.startswith(_GZIP_IN_BASE64):
            quiet = Notes()
            quiet.add(WarningCode.TRANSFER_ENCODING, f"base64 under Content-Transfer-Encoding {quoted(encoding)}")
            content = from_base64(other, quiet)
        elif _begins_as_report(other):
            quiet = Notes()
            quiet.add(WarningCode.TRANSFER_ENCODING, f"not encoded under Content-Transfer-Encoding {quoted(encoding)}")
            content = other
        elif not named:
            return b""
    for warning in quiet.of_report():
        notes.add(warning.code, warning.text)
    return content


def _begins_as_report(content: bytes) -> bool:
    begin = content[:200].lstrip(b" \t\r\n")
    return begin.startswith((GZIP_MAGIC, ZIP_MAGIC, *_UTF16)) or _JSON.match(begin) is not None


def _judge(header: Header, parts: tuple[ReportPart, ...], number: int, notes: Notes) -> None:
    """Notes where the mail is not as RFC 8460 §5.3 has it."""
    value = header.get(b"content-type", "")
    media_type, parameters = content_type(value)
    if all(part.forwarded for part in parts):
        pass  # who forwards makes another mail of it
    elif media_type != "multipart/report":
        notes.add(WarningCode.NOT_MULTIPART_REPORT, f"Content-Type {quoted(media_type)} where multipart/report belongs")
    elif parameters.get("report-type", "").lower() != "tlsrpt":
        notes.add(WarningCode.REPORT_TYPE, f"report-type {quoted(parameters.get('report-type', ''))} for tlsrpt")
    if value.rstrip().endswith(";"):
        notes.add(WarningCode.PARAMETER_FORM, "Content-Type ends in a semicolon")
    for part in parts:
        if part.media_type not in {MEDIA_TYPE_GZIP, MEDIA_TYPE_JSON}:
            notes.add(WarningCode.MEDIA_TYPE, f"a report of media type {quoted(part.media_type)}")
        if part.forwarded:
            notes.add(WarningCode.FORWARDED, "the report is in a message within the mail")
    if number > 1:
        notes.add(WarningCode.SEVERAL_REPORTS, f"{number} parts that may be reports")


def _mail_header(header: Header) -> MailHeader:
    subject = _words(header.get(b"subject", ""))
    report_id = _REPORT_ID.search(subject)
    return MailHeader(
        from_address=_address(header.get(b"from", "")),
        subject=subject,
        subject_report_id=report_id[1] if report_id else "",
        message_id=header.get(b"message-id", "").strip("<> "),
        date=_date(header.get(b"date", "")),
        report_domain=header.get(b"tls-report-domain", ""),
        submitter=header.get(b"tls-report-submitter", ""),
    )


def _words(text: str) -> str:
    """Without the encoded words of RFC 2047, where they can be read."""
    if "=?" not in text:
        return text
    try:
        return str(make_header(decode_header(text)))[: len(text)].replace("\0", "\ufffd")
    except (MessageError, ValueError, LookupError):
        return text


def _address(text: str) -> str:
    if _PLAIN_ADDRESS.fullmatch(text):
        return text
    found = getaddresses([text])
    return found[0][1] if len(found) == 1 and _PLAIN_ADDRESS.fullmatch(found[0][1]) else ""


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
