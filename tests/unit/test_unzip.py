"""Zip archives against the standard library's, and broken in each place."""

import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stsguard.core.errors import ReportInvalid
from stsguard.core.unzip import unzip
from tests.strategies import relaxed
from tests.zips import zipped

CONTENT = b"{" + b"a" * 50
STORED = zipped({"a.json": CONTENT}, zipfile.ZIP_STORED)
DEFLATED = zipped({"a.json": CONTENT})
DIRECTORY = STORED.index(b"PK\x01\x02")
END = STORED.index(b"PK\x05\x06")


def changed(data: bytes, at: int, octets: bytes) -> bytes:
    return data[:at] + octets + data[at + len(octets) :]


def test_directories_are_left_out() -> None:
    archive = zipped({"d/": b"", "d/a.json": CONTENT, "b.json": b"{}"})
    assert unzip(archive, 100, 3) == [("d/a.json", CONTENT), ("b.json", b"{}")]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (STORED[:END], "broken zip: cut off"),
        (STORED[:-1], "broken zip"),  # the end record itself
        (changed(STORED, DIRECTORY, b"XX"), "broken zip: no directory"),
        (changed(STORED, DIRECTORY + 8, b"\1"), "an encrypted zip archive"),
        (changed(STORED, DIRECTORY + 10, b"\x0c"), "packed into zip by method 12"),
        (changed(STORED, DIRECTORY + 16, b"\1\2\3\4"), "broken zip: wrong checksum of entry 1"),
        (changed(STORED, DIRECTORY + 42, b"\5"), "broken zip: no entry where the directory says"),
        (changed(STORED, DIRECTORY + 42, b"\xff\xff\xff\x7f"), "broken zip"),
        (changed(DEFLATED, 36, b"\xff\xff"), "broken zip"),
        (changed(DEFLATED, DEFLATED.index(b"PK\x01\x02") + 20, b"\3"), "broken zip: cut off"),
        (zipped({"a": CONTENT * 3}, zipfile.ZIP_STORED), "more bytes in the zip archive than are taken"),
        (zipped({"a": CONTENT * 3}), "more bytes in the zip archive than are taken"),
        (zipped(dict.fromkeys("abcd", b"")), "4 entries in a zip archive, and 3 are taken at most"),
    ],
)
def test_refused(data: bytes, why: str) -> None:
    with pytest.raises(ReportInvalid) as refusal:
        unzip(data, 100, 3)
    assert why in str(refusal.value)


@given(
    st.dictionaries(st.from_regex(r"[a-zé]{1,9}\.json", fullmatch=True), st.binary(max_size=99), max_size=5),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
)
@relaxed
def test_reads_what_zipfile_writes(files: dict[str, bytes], method: int) -> None:
    assert dict(unzip(zipped(files, method), 1000, 5)) == files


@given(st.integers(0, len(DEFLATED) - 1), st.binary(min_size=1, max_size=4))
@relaxed
def test_any_change_is_survived(at: int, octets: bytes) -> None:
    try:
        found = unzip(changed(DEFLATED, at, octets), 100, 3)
    except ReportInvalid:
        return
    assert sum(len(content) for _, content in found) <= 100
