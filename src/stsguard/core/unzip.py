"""Members of a zip archive, within bounds: the little of the format (PKWARE's APPNOTE 6.3.10) that report files use.

`zipfile` works on files and does not bound what it inflates; here are octets, and the directory at the end of the
archive is believed only as far as they bear it out. Left out on purpose: zip64, encryption, archives in several parts,
and methods but "stored" and "deflated".
"""

import struct
import zlib
from collections.abc import Iterator

from stsguard.core.errors import ReportInvalid

ZIP_MAGIC = b"PK\x03\x04"  # §4.3.7, local file header

_END = struct.Struct("<4s4H2LH")  # §4.3.16, end of central directory record
_END_MAGIC = b"PK\x05\x06"
_MAX_COMMENT = 65_535
_ENTRY = struct.Struct("<4s6H3L5H2L")  # §4.3.12, central directory header
_ENTRY_MAGIC = b"PK\x01\x02"
_LOCAL = struct.Struct("<4s5H3L2H")
_ENCRYPTED = 0x0001  # §4.4.4
_STORED, _DEFLATED = 0, 8  # §4.4.5


def unzip(data: bytes, limit: int, max_entries: int) -> list[tuple[str, bytes]]:
    """Name and content of each file in the archive `data`; directories are left out.

    Raises:
        ReportInvalid: it is broken or cut off, needs what is left out here, has more than `max_entries` entries, or
            more than `limit` octets in all of them together.
    """
    found: list[tuple[str, bytes]] = []
    try:
        for name, method, offset, size, checksum in _entries(data, max_entries):
            content = _content(data, method, offset, size, limit)
            limit -= len(content)
            if zlib.crc32(content) != checksum:
                raise ReportInvalid(f"broken zip: wrong checksum of entry {len(found) + 1}")
            if not name.endswith("/"):
                found.append((name, content))
    except (struct.error, zlib.error) as exc:
        raise ReportInvalid(f"broken zip: {exc}") from exc
    return found


def _entries(data: bytes, max_entries: int) -> Iterator[tuple[str, int, int, int, int]]:
    """name, method, offset of the local header, size as packed, and checksum of each entry."""
    at = data.rfind(_END_MAGIC, max(0, len(data) - _MAX_COMMENT - _END.size))
    if at < 0:
        raise ReportInvalid("broken zip: cut off")
    _, _, _, _, number, _, position, _ = _END.unpack_from(data, at)
    if number > max_entries:
        raise ReportInvalid(f"{number} entries in a zip archive, and {max_entries} are taken at most")
    for _ in range(number):
        entry = _ENTRY.unpack_from(data, position)
        magic, flags, method, checksum, size, offset = entry[0], entry[3], entry[4], entry[7], entry[8], entry[16]
        name_length, extra_length, comment_length = entry[10:13]
        if magic != _ENTRY_MAGIC:
            raise ReportInvalid("broken zip: no directory")
        if flags & _ENCRYPTED:
            raise ReportInvalid("an encrypted zip archive")
        position += _ENTRY.size
        name = data[position : position + name_length].decode("utf-8", "replace")
        yield name, method, offset, size, checksum
        position += name_length + extra_length + comment_length


def _content(data: bytes, method: int, offset: int, size: int, limit: int) -> bytes:
    local = _LOCAL.unpack_from(data, offset)
    if local[0] != ZIP_MAGIC:
        raise ReportInvalid("broken zip: no entry where the directory says")
    begin = offset + _LOCAL.size + local[9] + local[10]
    packed = data[begin : begin + size]
    if method == _DEFLATED:
        inflater = zlib.decompressobj(wbits=-15)
        content = inflater.decompress(packed, limit + 1)
        if len(content) <= limit and not inflater.eof:
            raise ReportInvalid("broken zip: cut off")
    elif method == _STORED:
        content = packed
    else:
        raise ReportInvalid(f"packed into zip by method {method}, which is not known here")
    if len(content) > limit:
        raise ReportInvalid("more bytes in the zip archive than are taken")
    return content
