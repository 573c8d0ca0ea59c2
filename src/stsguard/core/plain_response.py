"""The plain HTTP response that carries a policy, read straight from the octets: what nearly every Policy Host sends.

200, one text/plain Content-Type, one Content-Length, the body (RFC 8461 §3.3, RFC 9112 §3 to §6). Whatever else there
may be, or may be missing, is `NOT_PLAIN` and for a full HTTP/1 reader to judge: this one can leave out cases, and never
has one of its own. A property test and a fuzz target hold what it reads against what h11 reads from the same octets.
"""

import re
from enum import Enum

from stsguard.core.mtasts import media_type_accepted

MAX_HEAD_OCTETS = 8192  # half of what is accepted in all; most heads have some hundreds
_START = b"HTTP/1.1 200 "
_HEAD_END = b"\r\n\r\n"
_STATUS_LINE = re.compile(rb"HTTP/1\.1 200 [A-Za-z ]{0,40}")
# RFC 9110 §5.1, §5.5 without what is obsolete: no folding, no octets beyond ASCII, no control characters.
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*((?:[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?)?)[ \t]*")
_LENGTH = re.compile(rb"[0-9]{1,6}")
# Fields that change what the body is, or who has the connection afterwards; only a full reader knows what to do.
_TELLING = frozenset((b"transfer-encoding", b"content-encoding", b"upgrade"))


class Unread(Enum):
    """Why there is no body."""

    MORE = "more"  # it is plain as far as it has come
    NOT_PLAIN = "not plain"


def read_plain_response(octets: bytes, *, max_size_bytes: int) -> bytes | Unread:
    """The body of the response that `octets` are, or begin with."""
    if not octets.startswith(_START):
        return Unread.MORE if _START.startswith(octets) else Unread.NOT_PLAIN
    end = octets.find(_HEAD_END, 0, MAX_HEAD_OCTETS)
    if end < 0:
        # RFC 9112 §2.2: a bare LF may end a line, so that the head may be over already.
        lines_end_plainly = octets.count(b"\n") == octets.count(b"\r\n")
        return Unread.MORE if lines_end_plainly and len(octets) < MAX_HEAD_OCTETS else Unread.NOT_PLAIN
    length = _body_length(octets[:end].split(b"\r\n"), max_size_bytes)
    if length is None:
        return Unread.NOT_PLAIN
    start = end + len(_HEAD_END)
    if len(octets) < start + length:
        return Unread.MORE
    return octets[start : start + length]


def _body_length(lines: list[bytes], max_size_bytes: int) -> int | None:
    """Content-Length of a head that is plain and permits its body to be a policy, else None."""
    if not _STATUS_LINE.fullmatch(lines[0]):
        return None
    length: int | None = None
    is_text = False
    for line in lines[1:]:
        match = _FIELD.fullmatch(line)
        if match is None:
            return None
        name, value = match[1].lower(), match[2]
        if name in _TELLING:
            return None
        if name == b"content-length":
            if length is not None or not _LENGTH.fullmatch(value) or int(value) > max_size_bytes:
                return None
            length = int(value)
        elif name == b"content-type":
            if is_text or not media_type_accepted(value.decode("ascii")):
                return None
            is_text = True
    return length if is_text else None
