"""What is told of files that are no reports."""

import pytest

from stsguard.core.other_files import description, what_is

XML = b'<?xml version="1.0" encoding="UTF-8"?>'


@pytest.mark.parametrize(
    ("octets", "what"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf \r\n", "empty"),
        (b"\n<!DOCTYPE HTML PUBLIC>", "an HTML page"),
        (b"<HTML lang=en>", "an HTML page"),
        (XML + b"\n<!-- g -->\n<feedback>", "a DMARC aggregate report (RFC 7489)"),
        (b"<feedback xmlns='urn:ietf:params:xml:ns:dmarc-2.0'>", "a DMARC aggregate report (RFC 7489)"),
        (XML + b"<rss>", "XML"),
        (b"<rss>", ""),
        (b"\x89PNG\r\n\x1a\n\0", "a PNG image"),
        (b"%PDF-1.7", "a PDF document"),
        (b"BZh91AY&SY", "packed by bzip2"),
        (b"name".ljust(257, b"\0") + b"ustar\x0000", "a tar archive: unpack it, and give the files in it"),
        (b"hello", ""),
        (b'{"policies": []}', ""),
    ],
)
def test_what_it_is(octets: bytes, what: str) -> None:
    assert what_is(octets) == what


def test_what_is_not_known_is_told_by_how_it_begins() -> None:
    assert description(b"GIF89a") == "it is a GIF image"
    assert description(b" \x1b[31mhello, everybody out there") == "it begins with '\\x1b[31mhello, everybod'"
