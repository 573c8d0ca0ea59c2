"""The structure of a mail message (RFC 5322, RFC 2045, 2046, 2183, 2231), as much of it as finding an attachment takes.

Octets in, octets out, in one pass and within bounds, whatever is in them: nothing here raises. Broken structure is read
as mail programs read it, with a note. Left out on purpose: the meaning of header fields that lead to no attachment,
comments within Content-Type, and uuencode.
"""

import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from stsguard.core.received_report import Notes, WarningCode
from stsguard.core.syntax import quoted

MAX_DEPTH = 6  # multipart in forwarded message in multipart, and some more
MAX_PARTS = 50
MAX_LINE_REST = 200  # blanks after a boundary
MAX_HEADER_BYTES = 256 * 1024  # Postfix' header_size_limit is 100 KiB a field
MAX_VALUE_LENGTH = 2000

WANTED = frozenset(
    {
        *(b"content-type", b"content-transfer-encoding", b"content-disposition"),
        *(b"from", b"subject", b"date", b"message-id", b"tls-report-domain", b"tls-report-submitter"),
    }
)

_PARAMETER = re.compile(r";\s*([^\s=;\"]+)\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"?|([^;]*))", re.DOTALL)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_PIECE = re.compile(r"([^*]+)\*(?:(\d{1,3})(\*)?)?", re.ASCII)
_PERCENT = re.compile(r"%([0-9A-Fa-f]{2})")
_MEDIA_TYPE = re.compile(r"[^\s;/]+/[^\s;]+")
_BOUNDARY_LINE = rb"--([^\r\n]{0,199}\S)[ \t]*+\r?\n"
_FIRST_LINE = re.compile(_BOUNDARY_LINE)
_LATER_LINE = re.compile(rb"\n" + _BOUNDARY_LINE)
_FIELD_NAME = re.compile(rb"[!-9;-~]{1,200}[ \t]*:")
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_BASE64_AND_SPACE = _BASE64 + b"= \t\r\n"
_NOT_BASE64 = bytes(octet for octet in range(256) if octet not in _BASE64)

Header = Mapping[bytes, str]


@dataclass(frozen=True, slots=True)
class Leaf:
    """A part that holds no others. `header` is its own, `message` that of the message it is in; `depth` says how many
    messages are forwarded around it."""

    media_type: str
    name: str
    header: Header
    message: Header
    body: bytes
    depth: int


@dataclass(slots=True)
class Walk:
    """Goes through the parts of one message."""

    notes: Notes
    _left: int = MAX_PARTS
    _containers: int = MAX_PARTS  # parts that hold others, which may be none
    _warned: set[WarningCode] = field(default_factory=set)

    def leaves(self, header: Header, body: bytes) -> Iterator[Leaf]:
        """Each part of the message that `split` made these of, as far as it holds no others, in order."""
        return self._within(header, header, body, 0, 0)

    def _within(self, header: Header, message: Header, body: bytes, level: int, depth: int) -> Iterator[Leaf]:
        media_type, parameters = content_type(header.get(b"content-type", ""))
        if level < MAX_DEPTH:
            if media_type.startswith("multipart/"):
                self._containers -= 1
                for part in self._parts(parameters.get("boundary", ""), body):
                    if self._left <= 0 or self._containers <= 0:
                        self._leave_out()
                        return
                    own, inner = split(part)
                    yield from self._within(own, message, inner, level + 1, depth)
                return
            if media_type == "message/rfc822":
                self._containers -= 1
                inner_header, inner = split(decoded(body, header.get(b"content-transfer-encoding", ""), self.notes))
                yield from self._within(inner_header, inner_header, inner, level + 1, depth + 1)
                return
        self._left -= 1
        yield Leaf(media_type, _file_name(header, parameters), header, message, body, depth)

    def _leave_out(self) -> None:
        if WarningCode.PARTS_LEFT_OUT not in self._warned:
            self._warned.add(WarningCode.PARTS_LEFT_OUT)
            self.notes.add(WarningCode.PARTS_LEFT_OUT, f"more than {MAX_PARTS} parts: the others are not looked at")

    def _parts(self, boundary: str, body: bytes) -> Iterator[bytes]:
        """What is between the boundary lines (RFC 2046 §5.1.1); a last one that is missing is taken for there."""
        mark = b"--" + boundary.encode("utf-8", "replace")
        if not boundary or mark not in body:
            first = _FIRST_LINE.match(body) or _LATER_LINE.search(body)
            if first is None:
                self.notes.add(WarningCode.BOUNDARY, f"no line with the boundary {quoted(boundary)}")
                return
            mark = b"--" + first[1]
            self.notes.add(WarningCode.BOUNDARY, f"the boundary is not {quoted(boundary)} but that of the first part")
        begin = -1
        for at, after, last in _delimiters(body, mark):
            if begin >= 0:
                yield body[begin:at]
            if last:
                return
            begin = after
        self.notes.add(WarningCode.BOUNDARY, "the last boundary is missing")
        if begin >= 0:
            yield body[begin:]


def _delimiters(body: bytes, mark: bytes) -> Iterator[tuple[int, int, bool]]:
    """Where the part before each boundary line ends, where the next one begins, and whether it is the last line."""
    # An expression, since a body of lines that nearly are one would be some million rounds of a loop. It looks no
    # further than at what begins as one: a line may have the boundary a million times.
    line = re.escape(mark) + rb"(--)?[^\S\n]{0,%d}+(?=\n|\Z)" % MAX_LINE_REST
    first = re.match(line, body)
    if first:
        yield 0, min(first.end() + 1, len(body)), first[1] is not None
    for found in re.finditer(rb"\n" + line, body):
        before = found.start()  # RFC 2046 §5.1.1: the line end before it belongs to the boundary
        end = before - (before > 0 and body[before - 1] == 0x0D)
        yield end, min(found.end() + 1, len(body)), found[1] is not None


def without_envelope_line(message: bytes) -> bytes:
    """`message` without the first line that mbox puts before it."""
    return message.partition(b"\n")[2] if message.startswith((b"From ", b">From ")) else message


def begins_as_mail(data: bytes) -> bool:
    """Whether a header field comes first, as in every mail that an MTA had in its hands (RFC 5322 §2.2)."""
    return _FIELD_NAME.match(without_envelope_line(data)) is not None


def head_of(data: bytes) -> bytes:
    """The header, as far as `split` reads it."""
    return data[: min(len(data) - len(split(data)[1]), MAX_HEADER_BYTES)]


def split(data: bytes) -> tuple[Header, bytes]:
    """The header fields in `WANTED`, the first of each and unfolded, and the body."""
    if data.startswith((b"\n", b"\r\n")):
        return {}, data.lstrip(b"\r\n")
    crlf = data.find(b"\n\r\n", 0, MAX_HEADER_BYTES)
    end = data.find(b"\n\n", 0, crlf if crlf >= 0 else MAX_HEADER_BYTES)
    if end >= 0:
        return _fields(data[:end]), data[end + 2 :]
    return (_fields(data[:crlf]), data[crlf + 3 :]) if crlf >= 0 else (_fields(data[:MAX_HEADER_BYTES]), b"")


def _fields(text: bytes) -> Header:
    fields: dict[bytes, str] = {}
    lines: list[bytes] = []
    name = b""
    for line in text.split(b"\n"):
        if line[:1] in {b" ", b"\t"}:
            if name:
                lines.append(line)
            continue
        if name:
            fields[name] = _unfolded(lines)
            name = b""
        begin, colon, value = line.partition(b":")
        # RFC 5322 §2.2: no blank before the colon. The obsolete form (§4.5) has it, but dkimpy does not know that form,
        # so that whoever believes such a field believes what is not signed.
        lowered = begin.lower()
        if colon and lowered in WANTED and lowered not in fields:
            name, lines = lowered, [value]
    if name:
        fields[name] = _unfolded(lines)
    return fields


def _unfolded(lines: list[bytes]) -> str:
    text = b" ".join([line.strip() for line in lines]).strip()[: 2 * MAX_VALUE_LENGTH]
    return text.decode("utf-8", "replace")[:MAX_VALUE_LENGTH].replace("\0", "\ufffd")


def content_type(value: str) -> tuple[str, dict[str, str]]:
    """Media type in lower case, and parameters by their names in lower case (RFC 2045 §5.1, RFC 2231 §3, §4).

    Without one it is text/plain (RFC 2045 §5.2). Parameters may be unquoted, and a semicolon may stand at the end.
    """
    found = _MEDIA_TYPE.match(value)
    return found[0].lower() if found else "text/plain", parameters_of(value)


def parameters_of(value: str) -> dict[str, str]:
    """The parameters of Content-Type or Content-Disposition. Of repeated ones the first counts."""
    plain: dict[str, str] = {}
    pieces: dict[str, dict[int, str]] = {}
    for match in _PARAMETER.finditer(value):
        name = match[1].lower()
        text = match[3].strip() if match[2] is None else _QUOTED_PAIR.sub(r"\1", match[2])
        piece = _PIECE.fullmatch(name)
        if piece is None:
            plain.setdefault(name, text)
            continue
        encoded = piece[3] or piece[2] is None
        pieces.setdefault(piece[1], {}).setdefault(int(piece[2] or 0), _unescaped(text) if encoded else text)
    for name, numbered in pieces.items():
        plain.setdefault(name, "".join(numbered[number] for number in sorted(numbered)))
    return plain


def _unescaped(text: str) -> str:
    """Without charset and language in front, and without percent signs (RFC 2231 §4); only ASCII and Latin-1."""
    return _PERCENT.sub(lambda match: chr(int(match[1], 16)), text.rpartition("'")[2])


def _file_name(header: Header, parameters: Mapping[str, str]) -> str:
    disposition = header.get(b"content-disposition", "")
    name = parameters_of(disposition).get("filename") if disposition else None
    return (name or parameters.get("name", ""))[:MAX_VALUE_LENGTH]


def decoded(body: bytes, encoding: str, notes: Notes) -> bytes:
    """`body` without its Content-Transfer-Encoding (RFC 2045 §6)."""
    name = encoding.strip(" \t;\"'").lower()
    if name == "base64":
        return from_base64(body, notes)
    if name == "quoted-printable":
        return binascii.a2b_qp(body)
    if name not in {"", "7bit", "8bit", "binary"}:
        notes.add(WarningCode.TRANSFER_ENCODING, f"Content-Transfer-Encoding {quoted(encoding)} is none of RFC 2045")
    return body


def from_base64(body: bytes, notes: Notes) -> bytes:
    """`body` decoded (RFC 2045 §6.8: other characters are ignored), with a note where it is not quite base64."""
    if body.translate(None, _BASE64_AND_SPACE):
        notes.add(WarningCode.BASE64, "characters within base64 that do not belong there")
    try:
        return binascii.a2b_base64(body)
    except binascii.Error:
        notes.add(WarningCode.BASE64, "the base64 is cut off")
    letters = body.translate(None, _NOT_BASE64)
    letters = letters[: len(letters) - (len(letters) % 4 == 1)]
    return binascii.a2b_base64(letters + b"=" * (-len(letters) % 4))
