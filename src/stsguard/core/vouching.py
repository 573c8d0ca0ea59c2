"""Whether a valid DKIM signature vouches for what is read in a mail (RFC 6376 §8.15, RFC 8460 §3).

A signature covers the body and some header fields, of each the last (RFC 6376 §5.4.2), while mail programs read the
first; and Google's covers no Content-Type. So a signed mail that quotes another, as a bounce does, could be given a
header in which the quoted report is the signer's own. Such a mail is read, but nobody vouches for it.
"""

import re

from stsguard.core.mime import content_type, head_of, split, without_envelope_line
from stsguard.core.syntax import quoted

_SINGLE = re.compile(rb"^(content-type|content-transfer-encoding|from|tls-report-[a-z]+)[ \t]*:", re.I | re.M)
_MESSAGE_PART = re.compile(rb"^content-type:\s*+message/", re.I | re.M)
# The first boundary line, with nothing before it but the sentence that programs write there.
_OPENING = re.compile(rb"\s*+(?:This is a m[^\n]{0,200}\n\s*+)?--([^\r\n]{0,199}\S)[ \t]*+\r?\n", re.I)


def doubt(message: bytes, *, content_type_signed: bool) -> str:
    """Why a valid signature of `message` does not vouch for the reports read in it; empty where it does.

    `content_type_signed`: whether the signature covers Content-Type, and with it where the parts begin.
    """
    message = without_envelope_line(message)
    names = [name.lower() for name in _SINGLE.findall(head_of(message))]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            return f"the mail has {name.decode().title()} twice, and one of them is not signed (RFC 6376 section 8.15)"
    return "" if content_type_signed else _doubt_in_structure(message)


def _doubt_in_structure(message: bytes) -> str:
    """The same, where only the body says how it is built."""
    header, body = split(message)
    media_type, parameters = content_type(header.get(b"content-type", ""))
    if _MESSAGE_PART.search(body):
        return "Content-Type is not signed, and there is a message within the mail"
    if not media_type.startswith("multipart/"):
        return ""
    boundary = parameters.get("boundary", "")
    opening = _OPENING.match(body)
    if opening is None or opening[1] != boundary.encode("utf-8", "replace"):
        return f"Content-Type is not signed, and the body does not begin with its boundary {quoted(boundary)}"
    return ""
