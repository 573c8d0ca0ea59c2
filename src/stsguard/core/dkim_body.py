"""The canonical body that a DKIM signature has hashed (RFC 6376 §3.4.3, §3.4.4), in time linear in its length.

dkimpy's own takes the square of a long run of blanks and a list item for each line, which a stranger's mail of 10 MB
would make use of; a test holds the one against the other.
"""

import hashlib
import re

_BLANKS = re.compile(rb"[ \t]+")


def body_hash(body: bytes, *, relaxed: bool) -> bytes:
    """SHA-256 of the canonical form; `body` may have bare LF, as a mail from a file has."""
    return hashlib.sha256(canonical_body(body, relaxed=relaxed)).digest()


def canonical_body(body: bytes, *, relaxed: bool) -> bytes:
    """The canonical form itself."""
    # Mail in a file has LF at a line's end, on the wire it had CRLF.
    text = body.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    if relaxed:
        text = _BLANKS.sub(b" ", text).replace(b" \r\n", b"\r\n")
    text = _without_empty_lines(text)
    # §3.4.3: an empty body is CRLF; §3.4.4: an empty one stays empty.
    return b"" if relaxed and text == b"\r\n" else text


def _without_empty_lines(text: bytes) -> bytes:
    """Without the empty lines at the end, and with CRLF after the last line."""
    end = len(text.rstrip(b"\r\n"))
    tail = text[end:]
    bare = tail.rfind(b"\r\r")  # a bare CR is text: what follows the last of them are line ends
    if tail.endswith(b"\r"):
        return text + b"\r\n"
    return text[: end + bare + 1] + b"\r\n"
