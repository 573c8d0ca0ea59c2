"""What a file is that is no TLS report, by how it begins: so that whoever took one for another is told which it is.

A DMARC aggregate report (RFC 7489 §7.2) comes by the same ways, from the same senders and in the same packings.
"""

import re

from stsguard.core.syntax import quoted

_LOOKED_AT = 2000
_HEAD = re.compile(rb"(?:\xef\xbb\xbf)?\s*", re.DOTALL)
_DMARC = re.compile(rb"<(?:\w+:)?feedback[\s>]")
_TAR_MAGIC, _TAR_AT = b"ustar", 257  # POSIX.1-2001, ustar interchange format
_BEGINNINGS = (
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF-", "a PDF document"),
    (b"BZh", "packed by bzip2"),
    (b"\xfd7zXZ\0", "packed by xz"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"SQLite format 3\0", "an SQLite database"),
)


def what_is(octets: bytes) -> str:
    """What this is, in words that go on after "it is": "a PNG image"; empty where that is not known here."""
    begin = octets[:_LOOKED_AT]
    text = begin[_HEAD.match(begin).end() :].lower()  # type: ignore[union-attr] # it matches anything
    if not text:
        return "empty"
    if text.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if text.startswith(b"<") and _DMARC.search(text):
        return "a DMARC aggregate report (RFC 7489)"
    if text.startswith(b"<?xml"):
        return "XML"
    if octets[_TAR_AT : _TAR_AT + len(_TAR_MAGIC)] == _TAR_MAGIC:
        return "a tar archive: unpack it, and give the files in it"
    return next((what for beginning, what in _BEGINNINGS if begin.startswith(beginning)), "")


def description(octets: bytes) -> str:
    """A sentence on what this is, where it is no report: what is known of it, else how it begins."""
    what = what_is(octets)
    return f"it is {what}" if what else f"it begins with {quoted(octets.lstrip()[:20].decode('latin-1'))}"
