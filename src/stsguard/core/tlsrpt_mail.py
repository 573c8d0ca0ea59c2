"""Reports as mail (RFC 8460 §5.3): the message, unsigned, and whom a mailto URI names (RFC 6068).

A message is the same octets for the same arguments, so that a second attempt can be told for one (same Message-ID, same
content). It is written by hand, not by a library that may fold and encode otherwise in its next version: everything but
the names of organisations is ASCII, and no line is longer than 78 octets unless a name alone is (RFC 5322 §2.1.1).

Left out on purpose: internationalised local parts (RFC 6531), which few MTAs take, and header fields within a mailto
URI, by which strangers would write into our mail (RFC 6068 §7 leaves them to the sender).
"""

import base64
import hashlib
import quopri
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from email.utils import format_datetime

from stsguard.core.tlsrpt_report import MEDIA_TYPE_GZIP, Report, compress, filename, to_json
from stsguard.names import Domain, NameInvalid

MAX_ADDRESSES = 10  # of one URI: a record must not make us mail the world (RFC 8460 §7, "Reports as DDoS")
MAX_ADDRESS_LENGTH = 254  # RFC 5321 §4.5.3.1.3, less the angle brackets
MAX_LOCAL_PART_LENGTH = 64  # RFC 5321 §4.5.3.1.1
_LINE_LENGTH = 78  # RFC 5322 §2.1.1
_BASE64_LINE = 57  # octets in, 76 characters out (RFC 2045 §6.8)
_MAX_POLICIES_TOLD = 20

_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_DOT_ATOM = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_QUOTED_STRING = re.compile(r'"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\[\x20-\x7e])*"')
_QUOTABLE = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]+")
# What comes between the commas that separate: quoted strings whole.
_PIECE = re.compile(r'(?:[^",\\]|\\.|"(?:[^"\\]|\\.)*"|["\\])+')
_PRINTABLE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_NOT_IN_ID = re.compile(r"[^A-Za-z0-9.+_-]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def mailto_addresses(uri: str) -> tuple[str, ...]:
    """The addresses that a mailto URI names, each once and as RFC 5321 writes it; empty where none can be used.

    RFC 6068 §2: a comma separates addresses, and one that belongs to an address is percent-encoded. RFC 8460 §3 has
    every comma within a URI encoded, so %2C may mean either: it separates where what stands before it is an address.
    """
    scheme, _, rest = uri.partition(":")
    if scheme.lower() != "mailto":
        return ()
    hier_part = rest.partition("#")[0].partition("?")[0]
    found: dict[str, None] = {}
    for part in hier_part.split(","):
        found.update((address, None) for address in _addresses(_percent_decoded(part)))
    return tuple(found)[:MAX_ADDRESSES]


def message_id(report: Report, uri: str) -> str:
    """The Message-ID of `report` to the destination `uri`, the same for every attempt; without angle brackets."""
    digest = hashlib.sha256(uri.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{_id_left(report)}.{digest}@{report.submitter}"


def build_mail(
    report: Report,
    to: Sequence[str],
    *,
    report_domain: Domain,
    sender: str,
    message_id: str,
    at: datetime,
    packed: bytes | None = None,
) -> bytes:
    """The message, with CRLF line ends, ready to be signed.

    Args:
        to: addresses as `mailto_addresses` gives them.
        sender: for From; an ASCII addr-spec.
        message_id: without angle brackets.
        at: for Date, aware.
        packed: the report in JSON, compressed; None to make it anew.

    Raises:
        ValueError: an argument can't stand in a header field.
    """
    content = compress(to_json(report)) if packed is None else packed
    boundary = f"=_tlsrpt_{hashlib.sha256(message_id.encode()).hexdigest()[:24]}"
    subject_id = f"<{_id_left(report)}@{report.submitter}>"
    header = [
        _field("From", sender),
        _field("To", *(f"{address}," for address in to[:-1]), to[-1]),
        # RFC 8460 §5.3: tlsrpt-subject, its words between FWS
        _field("Subject", "Report", "Domain:", report_domain, "Submitter:", report.submitter, "Report-ID:", subject_id),
        _field("Date", *format_datetime(at).split()),
        _field("Message-ID", f"<{message_id}>"),
        _field("TLS-Report-Domain", report_domain),
        _field("TLS-Report-Submitter", report.submitter),  # MUST be the domain of contact-info
        # RFC 8460 §3: "MUST deliver reports despite any TLS-related failures"; RFC 8689 §5 tells it to each MTA.
        _field("TLS-Required", "No"),
        _field("Auto-Submitted", "auto-generated"),  # RFC 3834 §5: nobody answers it
        _field("MIME-Version", "1.0"),
        _field("Content-Type", "multipart/report;", 'report-type="tlsrpt";', f'boundary="{boundary}"'),
    ]
    charset, encoding, text = _encoded_text(_human_readable(report, report_domain))
    first = [
        _field("Content-Type", "text/plain;", f'charset="{charset}"'),
        _field("Content-Transfer-Encoding", encoding),
        b"",
        text,
    ]
    second = [
        _field("Content-Type", MEDIA_TYPE_GZIP),
        _field("Content-Transfer-Encoding", "base64"),
        _field("Content-Disposition", "attachment;", *_filename_parameters(filename(report, report_domain))),
        b"",
        *_base64_lines(content),
    ]
    mark = f"--{boundary}".encode()
    return b"\r\n".join([*header, b"", mark, *first, mark, *second, mark + b"--", b""])


def _percent_decoded(text: str) -> str:
    """The text behind the escapes; empty where that is not printable ASCII."""
    decoded = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
    return decoded if decoded.isascii() and decoded.isprintable() else ""


def _addresses(text: str) -> Iterator[str]:
    """The addresses in a decoded part. What stands before a comma and is no address is part of the next one."""
    pending = ""
    for piece in _PIECE.findall(text)[: 2 * MAX_ADDRESSES]:
        pending = f"{pending},{piece}" if pending else piece
        address = _addr_spec(pending)
        if address is not None:
            yield address
            pending = ""


def _addr_spec(text: str) -> str | None:
    """The addr-spec, its local part quoted where it has to be and its domain in A-labels; None where it is none."""
    local_part, at, domain_text = text.strip().rpartition("@")
    if not at or not local_part or len(local_part) > MAX_LOCAL_PART_LENGTH:
        return None
    if not _DOT_ATOM.fullmatch(local_part) and not _QUOTED_STRING.fullmatch(local_part):
        # RFC 6068 §2 wants it quoted already, but what is meant is plain.
        if not _QUOTABLE.fullmatch(local_part):
            return None
        local_part = f'"{local_part}"'
    try:
        address = f"{local_part}@{Domain.parse(domain_text)}"
    except NameInvalid:
        return None
    return address if len(address) <= MAX_ADDRESS_LENGTH else None


def _id_left(report: Report) -> str:
    """The report-id as id-left of RFC 5322 §3.6.4. Ours is one already."""
    return ".".join(part for part in _NOT_IN_ID.sub("-", report.report_id).split(".") if part) or "report"


def _field(name: str, *words: str) -> bytes:
    """A header field of these words, folded between them where the line would grow too long (RFC 5322 §2.2.3)."""
    lines = [f"{name}:"]
    for word in words:
        if not _PRINTABLE.fullmatch(word):
            raise ValueError(f"{name} can't hold {word!r}")
        if len(lines[-1]) + 1 + len(word) > _LINE_LENGTH and lines[-1] != f"{name}:":
            lines.append("")
        lines[-1] += f" {word}"
    return "\r\n".join(lines).encode("ascii")


def _filename_parameters(name: str) -> list[str]:
    """`filename`, in one parameter where that fits a line, else in the continuations of RFC 2231 §3.

    A fold within the quotation marks would add a blank to the name, as it does in the example of RFC 8460 §5.3.1.
    """
    whole = f'filename="{name}"'
    if len(whole) < _LINE_LENGTH:
        return [whole]
    width = _LINE_LENGTH - len(' filename*10="";')
    pieces = [name[at : at + width] for at in range(0, len(name), width)]
    numbered = [f'filename*{number}="{piece}";' for number, piece in enumerate(pieces)]
    return [*numbered[:-1], numbered[-1].removesuffix(";")]


def _base64_lines(content: bytes) -> Iterator[bytes]:
    return (base64.b64encode(content[at : at + _BASE64_LINE]) for at in range(0, len(content), _BASE64_LINE))


def _encoded_text(lines: Sequence[str]) -> tuple[str, str, bytes]:
    """charset, Content-Transfer-Encoding and the octets of the text part."""
    text = "\n".join(lines)
    if text.isascii() and all(len(line) <= _LINE_LENGTH for line in lines):
        return "us-ascii", "7bit", text.replace("\n", "\r\n").encode("ascii")
    return "utf-8", "quoted-printable", quopri.encodestring(text.encode()).replace(b"\n", b"\r\n")


def _human_readable(report: Report, report_domain: Domain) -> list[str]:
    """What a person wants to know before opening the attachment. No text of strangers but names is in it."""
    organization = _CONTROL.sub(" ", report.organization)
    lines = [
        "This is an aggregate report on TLS (SMTP TLS Reporting, RFC 8460).",
        "It says how the mail servers of",
        f"  {organization}",
        "fared when they connected to those that take mail for",
        f"  {report_domain}",
        "and is sent because that domain asks for it by its TXT record at _smtp._tls.",
        "",
        f"Period:               {report.start_at:%Y-%m-%d %H:%M:%S} to {report.end_at:%Y-%m-%d %H:%M:%S} UTC",
        f"Successful sessions:  {report.successes}",
        f"Failed sessions:      {report.failures}",
        f"Report-ID:            {_id_left(report)}",
        f"Contact:              {report.contact}",
        "",
    ]
    for result in report.policies[:_MAX_POLICIES_TOLD]:
        policy = result.policy
        lines.append(f"Policy {policy.policy_type.value} of {policy.policy_domain}:")
        lines.append(f"  {result.successes} successful, {result.failures} failed")
        by_type: Counter[str] = Counter()
        for detail, sessions in result.details:
            by_type[detail.result_type] += sessions
        lines += [f"  {result_type}: {sessions}" for result_type, sessions in sorted(by_type.items())]
    if len(report.policies) > _MAX_POLICIES_TOLD:
        lines.append(f"and {len(report.policies) - _MAX_POLICIES_TOLD} more policies")
    return [*lines, "", "The attached file is the whole report: JSON, compressed with gzip.", ""]
