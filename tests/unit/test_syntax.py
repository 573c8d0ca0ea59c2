"""What the parsers of published text share; the grammars as a whole are in the tests of those parsers."""

import pytest

from stsguard.core.errors import RecordInvalid
from stsguard.core.syntax import (
    MAX_WARNINGS,
    Candidate,
    Warnings,
    is_extension,
    note_unused,
    parse_extension,
    quoted,
    select_candidate,
    split_record,
)


def test_a_quotation_is_escaped_and_cut() -> None:
    assert quoted("a\x1b[2J\n\u202e") == r"'a\x1b[2J\n\u202e'"
    assert quoted("x" * 60) == repr("x" * 60)
    assert quoted("x" * 61) == repr("x" * 60) + "..."
    assert len(quoted("\U000e0001" * 65536)) < 700


def test_warnings_are_bounded() -> None:
    warnings = Warnings()
    for number in range(MAX_WARNINGS):
        warnings.add(str(number))
    assert warnings.kept() == tuple(map(str, range(MAX_WARNINGS)))
    for number in range(3):
        warnings.add(str(number))
    kept = warnings.kept()
    assert len(kept) == MAX_WARNINGS
    assert kept[:-1] == tuple(map(str, range(MAX_WARNINGS - 1)))
    assert kept[-1] == "and 4 more warnings"


def test_candidate() -> None:
    assert select_candidate([b"other"], "v=Xv1") is None
    assert select_candidate([b"v=xV9"], "v=Xv1") == Candidate("v=xV9", 0)
    assert select_candidate([b"v=Xv1;a", b"v=xv1;b", b"other"], "v=Xv1") == Candidate("v=Xv1;a", 1)


@pytest.mark.parametrize(
    ("records", "why"),
    [
        ([b"v=Xv1 ;", b"other"], "there are 2 TXT records, and none"),
        ([b"v=Xv1;", b"v=Xv1;"], "2 TXT records begin"),
        ([b"v=Xv1;\x80"], "byte 0x80 at position 7"),
    ],
)
def test_no_candidate_of_use(records: list[bytes], why: str) -> None:
    with pytest.raises(RecordInvalid, match=why):
        select_candidate(records, "v=Xv1")


@pytest.mark.parametrize(
    ("text", "fields", "warned"),
    [
        ("v=Xv1;a", ["a"], 0),
        ("v=Xv1;a;", ["a"], 0),
        ("v=Xv1;\ta b ; c;", ["a b", "c"], 0),
        ("v=Xv1 ;a", ["a"], 1),
        ("v=Xv1;a ", ["a"], 1),
        ("v=Xv1\t;a; ", ["a"], 2),
    ],
)
def test_fields(text: str, fields: list[str], warned: int) -> None:
    warnings = Warnings()
    assert list(split_record(text, "v=Xv1", warnings)) == fields
    assert len(warnings.kept()) == warned


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("é", "US-ASCII"),
        ("", "the record is empty"),
        (" v=Xv1;a", "white space before"),
        ("'v=Xv1;a'", "quotation mark"),
        ("v=Xv1\\;a", "zone file"),
        ("v=Xv1 a", "no ';' follows"),
        ("v=XV1;a", "not spelled exactly"),
        ("v=Xv12;a", "but with 'v=Xv12'"),
        ("v=Xv1", "nothing follows"),
        ("v=Xv1; ", "nothing follows"),
        ("v=Xv1;;a", "field 1 is empty"),
    ],
)
def test_no_fields(text: str, why: str) -> None:
    with pytest.raises(RecordInvalid, match=why):
        list(split_record(text, "v=Xv1", Warnings()))


@pytest.mark.parametrize("field", ["a=b", "0=~", "a._-=!\\", "n" * 32 + "=x"])
def test_extension(field: str) -> None:
    assert is_extension(field)
    assert "=".join(parse_extension(field)) == field


@pytest.mark.parametrize(
    ("field", "why"),
    [
        ("a", "no '='"),
        ("=b", "not the name"),
        ("-a=b", "not the name"),
        ("n" * 33 + "=x", "not the name"),
        ("a=", "no value"),
        ("a=b=", "may not hold"),
        ("a=b c", "may not hold"),
        ("a=b;c", "may not hold"),
    ],
)
def test_no_extension(field: str, why: str) -> None:
    assert not is_extension(field)
    with pytest.raises(RecordInvalid, match=why):
        parse_extension(field)


@pytest.mark.parametrize(
    ("name", "why"),
    [("id", "more than once"), ("Id", "lower case"), ("v", "more than once"), ("x", "unknown field 'x'")],
)
def test_unused_fields_are_named(name: str, why: str) -> None:
    warnings = Warnings()
    note_unused(name, "id", warnings)
    assert why in warnings.kept()[0]
