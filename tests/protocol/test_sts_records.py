"""MTA-STS TXT records and sets of them (RFC 8461 §3.1): what counts, what does not, and why."""

import pytest

from stsguard.core.errors import RecordInvalid
from stsguard.core.mtasts import parse_record, select_record

GOOD = [
    ("v=STSv1; id=20300101T120000;", "20300101T120000"),  # as in the RFC's example
    ("v=STSv1;id=1", "1"),  # white space and the last delimiter are optional
    ("v=STSv1;id=1;", "1"),
    ("v=STSv1; id=Z", "Z"),  # one letter is enough
    ("v=STSv1; id=0", "0"),  # and so is one digit
    ("v=STSv1; id=" + "b2" * 16, "b2" * 16),  # 32 characters are the most
    ("v=STSv1;\tid=tab\t;\t", "tab"),  # WSP is SP or HTAB
    ("v=STSv1;      id=wide      ;      ", "wide"),  # any amount of it around a delimiter
    ("v=STSv1 ;id=early", "early"),  # ABNF: *WSP before ";" as well (decision 1, erratum 6285 not verified)
    ("v=STSv1\t \t;id=early", "early"),
    ("v=STSv1; flavour=plain; id=last", "last"),  # the order of the other fields is not significant
    ("v=STSv1; id=first; flavour=plain", "first"),  # unknown fields are ignored
    ("v=STSv1; id=x; a=1; b=2; c=3", "x"),
    ("v=STSv1; id=x; a.b_c-d=value", "x"),  # every character of sts-ext-name
    ("v=STSv1; id=x; 9=digit", "x"),  # a name may begin with a digit
    ("v=STSv1; id=x; " + "n" * 32 + "=1", "x"),  # 32 characters are the longest name
    ("v=STSv1; id=x; a=!\"#$%&'()*+,-./:<>?@[]^`{|}~\\", "x"),  # every sign of sts-ext-value
    ("v=STSv1; id=x; note=" + "y" * 400, "x"),  # no bound for a value
    ("v=STSv1; id=one; id=two", "one"),  # decision 3: the first of duplicates counts
    ("v=STSv1; id=one; id=bad-one", "one"),  # whatever the second says
    ("v=STSv1; id=one; note=a; note=b", "one"),  # so with unknown ones
    ("v=STSv1; v=STSv1; id=again", "again"),  # a second "v" is an extension
    ("v=STSv1; v=STSv9; id=again", "again"),
    ("v=STSv1; ID=upper; id=lower", "lower"),  # %s"id=": the upper-case one is an extension
    ("v=STSv1; id=space ", "space"),  # decision 9: white space at the end
    ("v=STSv1; id=space\t\t", "space"),
    ("v=STSv1; id=x; note=z  ", "x"),
]

BAD = [
    ("", "empty"),
    ("   ", "empty"),
    ("v=STSv1", "nothing follows"),  # 1*(sts-field-delim sts-field)
    ("v=STSv1;", "nothing follows"),
    ("v=STSv1 ; ", "nothing follows"),
    ("v=STSv1;;", "one ';' too many"),
    ("v=STSv1;;id=x", "one ';' too many"),  # an empty field matches nothing
    ("v=STSv1; id=x;;", "one ';' too many"),
    ("v=STSv1; id=x; ; a=1", "one ';' too many"),
    (" v=STSv1; id=x", "white space before it"),  # "MUST begin with the sts-version field"
    ("\tv=STSv1; id=x", "white space before it"),
    ("id=x; v=STSv1", "does not begin"),
    ("V=STSv1; id=x", "not spelled exactly"),  # %s: case counts
    ("v=stsv1; id=x", "not spelled exactly"),
    ("v=STSV1; id=x", "not spelled exactly"),
    ("v = STSv1; id=x", "not spelled exactly"),
    ("v= STSv1; id=x", "not spelled exactly"),
    ("v=STSv2; id=x", "does not begin"),  # only STSv1 is supported
    ("v=STSv11; id=x", "does not begin"),
    ("v=STSv; id=x", "does not begin"),
    ("v=STSv1, id=x", "does not begin"),
    ("v=STSv1 id=x", "no ';' follows"),
    ("v=STSv1 id=x; a=1", "no ';' follows"),
    ('"v=STSv1; id=x;"', "quotation mark"),  # pasted from a zone file
    ("v=STSv1\\; id=x\\;", "zone file"),
    ("v=spf1 mx -all", "does not begin"),  # what a wildcard TXT record gives
    ("v=STSv1; note=x", "no 'id'"),  # sts-id is required
    ("v=STSv1; ID=x", "no 'id'"),
    ("v=STSv1; v=STSv1", "no 'id'"),
    ("v=STSv1; idx=5", "no 'id'"),
    ("v=STSv1; id=", "no value"),
    ("v=STSv1; id=;", "no value"),
    ("v=STSv1; id", "no '='"),
    ("v=STSv1; id=x; rubbish", "no '='"),
    ("v=STSv1; id=x; =y", "not the name"),
    ("v=STSv1; id=x; -a=y", "not the name"),  # begins with a letter or a digit
    ("v=STSv1; id=x; _a=y", "not the name"),
    ("v=STSv1; id=x; .a=y", "not the name"),
    ("v=STSv1; id=x; a+b=y", "not the name"),
    ("v=STSv1; id=x; a b=y", "not the name"),
    ("v=STSv1; id =x", "not the name"),  # no white space around "="
    ("v=STSv1; id=x; " + "n" * 33 + "=1", "not the name"),
    ("v=STSv1; id= x", "may not hold"),
    ("v=STSv1; id=x y", "may not hold"),
    ("v=STSv1; id=x=y", "may not hold"),
    ("v=STSv1; id=x; a==", "may not hold"),
    ("v=STSv1; id=x; a=b c", "may not hold"),
    ("v=STSv1; id=x; a=b\tc", "may not hold"),
    ("v=STSv1; id=x; a=b\x00c", "may not hold"),
    ("v=STSv1; id=x; a=b\x7f", "may not hold"),
    ("v=STSv1; id=x\n", "may not hold"),  # LF is no WSP
    ("v=STSv1; id=x\r\n", "may not hold"),
    ("v=STSv1; id=x; a=", "no value"),
    ("v=STSv1; id=2030-01-01", "1 to 32 letters and digits"),
    ("v=STSv1; id=1.5", "1 to 32 letters and digits"),
    ("v=STSv1; id=a_b", "1 to 32 letters and digits"),
    ("v=STSv1; id=a+b/c", "1 to 32 letters and digits"),  # base64
    ("v=STSv1; id='x'", "1 to 32 letters and digits"),
    ("v=STSv1; id=" + "q" * 33, "1 to 32 letters and digits"),
    ("v=STSv1; id=bad-one; id=good", "1 to 32 letters and digits"),  # decision 3: the first counts
    ("v=STSv1; id=x; note=schön", "US-ASCII"),
    ("v=STSv1; id=ⅸ", "US-ASCII"),
    ("v=STSv1; id=٣", "US-ASCII"),  # a digit elsewhere
    ("v=STSv1;\xa0id=x", "US-ASCII"),
    ("\ufeffv=STSv1; id=x", "US-ASCII"),
]

SETS_GOOD = [
    ([b"v=STSv1; id=one"], "one"),
    ([b"v=STSv1 ; id=one"], "one"),  # decision 1: alone, white space before the first ";" does no harm
    ([b"v=STSv1; id=one", b"site-verification=42"], "one"),  # others are discarded
    ([b"site-verification=42", b"v=spf1 -all", b"v=STSv1;id=one"], "one"),
    ([b"\xff\xfe", b"v=STSv1; id=one"], "one"),  # whatever they hold
    ([b"", b"v=STSv1; id=one"], "one"),
    ([b"v=STSv2; id=new", b"v=STSv1; id=one"], "one"),
    ([b" v=STSv1; id=two", b"v=STSv1; id=one"], "one"),  # does not begin with it
    ([b"V=STSV1; id=two", b"v=STSv1; id=one"], "one"),
    ([b"v=STSv1 ; id=two", b"v=STSv1; id=one"], "one"),  # decision 1: discarded among several
]

SETS_NONE = [
    [],
    [b""],
    [b"v=spf1 -all"],
    [b"v=spf1 -all", b"site-verification=42"],
    [b"v=TLSRPTv1; rua=mailto:reports@example.com"],  # at the wrong name
    [b"\xff\xfe\x00"],
]

SETS_BAD = [
    ([b"v=STSv1; id=one", b"v=STSv1; id=two"], "2 TXT records begin with 'v=STSv1;'"),
    ([b"v=STSv1; id=one", b"v=STSv1;id=one"], "2 TXT records"),  # saying the same does not help
    ([b"v=STSv1; id=one", b"v=STSv1; broken"], "2 TXT records"),  # counted before they are parsed
    ([b"v=STSv1;"] * 3, "3 TXT records"),
    ([b"site-verification=42", b"v=STSv1 ; id=one"], "none of them begins with"),  # decision 1
    ([b"v=stsv1; id=one", b"x"], "none of them begins with"),
    ([b"v=STSv1 ; id=one", b"v=STSv1 ; id=two"], "none of them begins with"),
    ([b"v=STSv1; id=not-good"], "1 to 32"),
    ([b"v=STSv2; id=one"], "does not begin"),
    ([b"v=STSv1; id=one; note=\xe4"], "byte 0xe4 at position 23"),
    ([b"v=STSv1; id=\xef\xbc\x91"], "not US-ASCII"),  # a full-width digit
]


@pytest.mark.parametrize(("text", "record_id"), GOOD)
def test_good_record(text: str, record_id: str) -> None:
    assert parse_record(text).record_id == record_id
    alone = select_record([text.encode()])
    assert alone is not None
    assert alone.record_id == record_id


@pytest.mark.parametrize(("text", "why"), BAD)
def test_bad_record(text: str, why: str) -> None:
    with pytest.raises(RecordInvalid, match=why.replace("'", "['\"]")):
        parse_record(text)


@pytest.mark.parametrize(("records", "record_id"), SETS_GOOD)
def test_good_set(records: list[bytes], record_id: str) -> None:
    for order in (records, records[::-1]):
        record = select_record(order)
        assert record is not None
        assert record.record_id == record_id


@pytest.mark.parametrize("records", SETS_NONE)
def test_set_without_a_candidate(records: list[bytes]) -> None:
    assert select_record(records) is None


@pytest.mark.parametrize(("records", "why"), SETS_BAD)
def test_set_whose_candidates_are_not_usable(records: list[bytes], why: str) -> None:
    for order in (records, records[::-1]):
        with pytest.raises(RecordInvalid, match=why):
            select_record(order)
