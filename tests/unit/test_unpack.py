"""What a file is taken for, and the bounds; whole files are in tests/protocol/received."""

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stsguard.core.errors import ReportInvalid
from stsguard.core.unpack import Limits, Packing, unpack
from tests.strategies import relaxed
from tests.zips import zipped

GOOD = b'{"report-id": "1"}'


def packed(data: bytes) -> bytes:
    """gzip without a time, so that tests have the same name in every process."""
    return gzip.compress(data, mtime=0)


SMALL = Limits(max_compressed=1000, max_decompressed=100, max_entries=3)


@pytest.mark.parametrize(
    ("data", "media_type", "how", "told"),
    [
        (GOOD, "", Packing.PLAIN, []),
        (b" \r\n" + GOOD, "application/tlsrpt+json", Packing.PLAIN, []),
        (GOOD, "application/tlsrpt+gzip", Packing.PLAIN, ["media-type"]),
        (GOOD, "application/octet-stream", Packing.PLAIN, []),
        (packed(GOOD), "application/x-gzip", Packing.GZIP, []),
        (packed(GOOD), "Application/JSON", Packing.GZIP, ["media-type"]),
        (packed(GOOD), "application/zip", Packing.GZIP, ["media-type"]),
        (zipped({"a.json": GOOD}), "application/x-zip-compressed", Packing.ZIP, []),
        (packed(GOOD[:4]) + packed(GOOD[4:]), "", Packing.GZIP, []),
        (packed(GOOD)[:-3], "", Packing.GZIP, ["cut-off"]),
        (packed(GOOD) + b"\0\r\n", "", Packing.GZIP, []),
        (packed(GOOD) + b"x", "", Packing.GZIP, ["trailing-data"]),
        (GOOD.decode().encode("utf-16-be"), "", Packing.PLAIN, ["not-utf8"]),
        (b"\x00\x00\xfe\xff" + GOOD.decode().encode("utf-32-be"), "", Packing.PLAIN, ["not-utf8"]),
        (b"\xef\xbb\xbf" + GOOD, "", Packing.PLAIN, ["byte-order-mark"]),
    ],
)
def test_taken(data: bytes, media_type: str, how: Packing, told: list[str]) -> None:
    found = unpack(data, media_type=media_type)
    assert found.how is how
    assert [document.strip() for document in found.documents] == [GOOD]
    assert [warning.code for warning in found.warnings] == told


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it is empty"),
        (b" " * 200, "it is empty"),
        (b"<html>", "it is an HTML page"),
        (b" hello, world, how are you", "it begins with 'hello, world, how ar'"),
        (b"\x1f\x8b\x08", "it is empty"),  # a gzip file cut off within its header
        (b"\x1f\x8b\x09" + bytes(20), "broken gzip"),
        (packed(packed(GOOD)), "packed twice"),
        (packed(b"PK\x03\x04"), "packed twice"),
        (packed(b"") * 17, "more than 16 gzip files"),
        (b"{" * 1001, "1001 bytes, and 1000 are taken at most"),
        (packed(b"{" * 101), "more than 100 bytes in gzip"),
        (packed(b"{" * 60) * 2, "more than 100 bytes in gzip"),
        (zipped({"a": b"{" * 60, "b": b"{" * 60}), "more bytes in the zip archive"),
        (zipped({"a": b"x", "b": b"y"}), "no report in the zip archive"),
        (zipped({"__MACOSX/a": GOOD}), "no report in the zip archive"),
    ],
)
def test_refused(data: bytes, why: str) -> None:
    with pytest.raises(ReportInvalid) as refusal:
        unpack(data, SMALL)
    assert why in str(refusal.value)


@given(st.binary(max_size=300), st.integers(0, 2))
@relaxed
def test_round_trip(content: bytes, way: int) -> None:
    document = b"{" + content
    archive = (document, packed(document), zipped({"r.json": document}))[way]
    if document.startswith(b"{\0"):
        return  # taken for UTF-16
    assert unpack(archive).documents == (document,)


@given(st.binary(max_size=40), st.sampled_from([b"", b"\x1f\x8b\x08\0", b"PK\x03\x04", zlib.compress(GOOD)]))
@relaxed
def test_any_octets_are_survived(data: bytes, begin: bytes) -> None:
    try:
        found = unpack(begin + data, SMALL)
    except ReportInvalid:
        return
    assert sum(map(len, found.documents)) <= 3 * SMALL.max_decompressed
