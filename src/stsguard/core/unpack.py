"""What is in a report file: JSON as it is, in gzip, or in a zip archive (RFC 8460 §5.2), told by its octets.

Media types and names are not believed: plain JSON comes as `tlsrpt+gzip`, gzip as octet-stream, and both in zip. One
level is unpacked, never more, and never more than `Limits` says, so that a bomb costs no more than a report. The JSON
comes out in UTF-8. Left out on purpose: other packings, encrypted archives, zip64.
"""

import codecs
import re
import zlib
from dataclasses import dataclass
from enum import StrEnum

from stsguard.core.errors import ReportInvalid
from stsguard.core.other_files import description
from stsguard.core.received_report import Notes, ReceivedWarning, WarningCode
from stsguard.core.syntax import quoted
from stsguard.core.unzip import ZIP_MAGIC, unzip

GZIP_MAGIC = b"\x1f\x8b"  # RFC 1952 §2.3.1
_GZIP_ONLY = 31  # wbits of zlib: a window of any size, header and trailer of gzip
_MAX_MEMBERS = 16  # RFC 1952 §2.2 lets a file have several; each costs a new inflater
_PLAIN = re.compile(rb"\{[^\0]")  # as nearly all begin
_SPACE = b" \t\r\n"

_MARKS = (  # UTF-32 first: its little-endian mark begins as that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF8, "utf-8"),
)
_UNMARKED = ((b"{\0", "utf-16-le"), (b"\0{", "utf-16-be"))


class Packing(StrEnum):
    """How the JSON came."""

    PLAIN = "plain"
    GZIP = "gzip"
    ZIP = "zip"


@dataclass(frozen=True, slots=True)
class Limits:
    """Octets of one file as it comes, octets of all that is in it, and entries of an archive."""

    max_compressed: int = 10 * 1024 * 1024
    max_decompressed: int = 20 * 1024 * 1024
    max_entries: int = 20


@dataclass(slots=True)
class Unpacked:
    """The JSON texts found, in UTF-8: one, but for an archive with several. `how` they came."""

    documents: tuple[bytes, ...]
    how: Packing
    warnings: tuple[ReceivedWarning, ...] = ()


DEFAULT_LIMITS = Limits()


def unpack(data: bytes, limits: Limits = DEFAULT_LIMITS, *, media_type: str = "") -> Unpacked:
    """The JSON in `data`, which is not parsed here.

    Args:
        media_type: what it was called, for a warning; empty where it was called nothing.

    Raises:
        ReportInvalid: it is no packing known here, broken, packed twice, or larger than `limits` allow.
    """
    if len(data) > limits.max_compressed:
        raise ReportInvalid(f"{len(data)} bytes, and {limits.max_compressed} are taken at most")
    notes = Notes()
    contents: tuple[bytes, ...]
    if data.startswith(GZIP_MAGIC):
        how, contents = Packing.GZIP, (gunzip(data, limits.max_decompressed, notes),)
    elif data.startswith(ZIP_MAGIC):
        how, contents = Packing.ZIP, _members(data, limits, notes)
    else:
        how, contents = Packing.PLAIN, (data,)
    if media_type and _packing_of(media_type) not in {None, how}:
        notes.add(WarningCode.MEDIA_TYPE, f"{quoted(media_type)} that is {how}")
    documents = tuple([content if _PLAIN.match(content) else _utf8(content, notes) for content in contents])
    return Unpacked(documents, how, notes.of_report())


def gunzip(data: bytes, limit: int, notes: Notes) -> bytes:
    """What is in a gzip file of one or more members, with a note where it is cut off or something follows.

    Raises:
        ReportInvalid: it is broken, or there are more than `limit` octets in it.
    """
    found, rest = b"", data
    for _ in range(_MAX_MEMBERS):
        inflater = zlib.decompressobj(_GZIP_ONLY)
        try:
            more = inflater.decompress(rest, limit - len(found) + 1)
        except zlib.error as exc:
            raise ReportInvalid(f"broken gzip: {exc}") from exc
        found = found + more if found else more
        if len(found) > limit:
            raise ReportInvalid(f"more than {limit} bytes in gzip")
        if not inflater.eof:
            # Of a file that lost its end the JSON may be whole: whoever parses it finds out.
            notes.add(WarningCode.CUT_OFF, "the gzip file is cut off")
            return found
        rest = inflater.unused_data
        if not rest.startswith(GZIP_MAGIC):
            if rest.strip(b"\0\r\n"):
                notes.add(WarningCode.TRAILING_DATA, f"{len(rest)} bytes follow the gzip file")
            return found
    raise ReportInvalid(f"more than {_MAX_MEMBERS} gzip files in one")


def _members(data: bytes, limits: Limits, notes: Notes) -> tuple[bytes, ...]:
    """The members of a zip archive that may be reports: not a readme beside them, nor what macOS adds."""
    members = unzip(data, limits.max_decompressed, limits.max_entries)
    found = tuple(content for name, content in members if not name.startswith("__MACOSX/"))
    if len(found) > 1:
        json = tuple(content for content in found if content.lstrip(_SPACE)[:1] in {b"{", b"["})
        notes.add(WarningCode.SEVERAL_FILES, f"{len(found)} files in a zip archive, {len(json)} of them JSON")
        found = json
    if not found:
        raise ReportInvalid("no report in the zip archive")
    return found


def _packing_of(media_type: str) -> Packing | None:
    subtype = media_type.lower().partition("/")[2]
    if subtype.endswith("gzip"):
        return Packing.GZIP
    if subtype.endswith("json"):
        return Packing.PLAIN
    return Packing.ZIP if "zip" in subtype else None


def _utf8(data: bytes, notes: Notes) -> bytes:
    if data.startswith((GZIP_MAGIC, ZIP_MAGIC)):
        raise ReportInvalid("packed twice")
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            data = data[len(mark) :]
            if encoding != "utf-8":
                return _converted(data, encoding, notes)
            notes.add(WarningCode.BYTE_ORDER_MARK, "a byte order mark before the JSON")
            return data
    for begin, encoding in _UNMARKED:
        if data.startswith(begin):
            return _converted(data, encoding, notes)
    begin = data[:100].lstrip(_SPACE)
    if begin[:1] not in {b"{", b"[", b'"'}:
        raise ReportInvalid(f"neither JSON, gzip nor zip: {description(data)}")
    return data


def _converted(data: bytes, encoding: str, notes: Notes) -> bytes:
    notes.add(WarningCode.NOT_UTF8, f"{encoding} where UTF-8 belongs")
    return data.decode(encoding, "replace").encode("utf-8", "replace")
