"""TLSRPT TXT records and sets of them (RFC 8460 §3), and their URIs (RFC 3986 appendix A)."""

import pytest

from stsguard.core.errors import RecordInvalid
from stsguard.core.tlsrpt_record import is_uri, parse_tlsrpt_record, select_tlsrpt_record

MAIL = "mailto:tls@example.com"
POST = "https://tls.example.com/v1"

GOOD = [
    (f"v=TLSRPTv1;rua={MAIL}", [MAIL]),
    (f"v=TLSRPTv1; rua={POST};", [POST]),
    (f"v=TLSRPTv1;\t rua={MAIL}\t;\t", [MAIL]),  # field-delim = *WSP ";" *WSP
    (f"v=TLSRPTv1 ;rua={MAIL}", [MAIL]),  # decision 1
    (f"v=TLSRPTv1; rua={MAIL},{POST}", [MAIL, POST]),
    (f"v=TLSRPTv1; rua={POST} ,\t{MAIL}", [POST, MAIL]),  # *WSP "," *WSP
    (f"v=TLSRPTv1; rua={MAIL}\t \t,{POST} ; ", [MAIL, POST]),
    (f"v=TLSRPTv1; rua={MAIL} ", [MAIL]),  # decision 9
    (f"v=TLSRPTv1; rua={MAIL}; rua={POST}", [MAIL, POST]),  # decision 10: all count
    (f"v=TLSRPTv1; rua={MAIL}; rua={MAIL},{POST}", [MAIL, POST]),  # duplicates once
    (f"v=TLSRPTv1; rua={MAIL},MAILTO:{MAIL[7:]}", [MAIL]),  # a scheme has no case
    (f"v=TLSRPTv1; rua={MAIL},mailto:TLS@example.com", [MAIL, "mailto:TLS@example.com"]),  # a local part has
    (f"v=TLSRPTv1; flavour=plain; rua={MAIL}; more=1", [MAIL]),  # unknown fields are ignored
    (f"v=TLSRPTv1; v=TLSRPTv1; rua={MAIL}", [MAIL]),
    (f"v=TLSRPTv1; RUA={POST}; rua={MAIL}", [MAIL]),  # %s"rua="
    ("v=TLSRPTv1; rua=MailTo:tls@example.com", ["MailTo:tls@example.com"]),
    ("v=TLSRPTv1; rua=HTTPS://TLS.EXAMPLE.COM/", ["HTTPS://TLS.EXAMPLE.COM/"]),
    ("v=TLSRPTv1; rua=mailto:tls%2Creports%21@example.com", ["mailto:tls%2Creports%21@example.com"]),
    ("v=TLSRPTv1; rua=mailto:tls@example.com?subject=x", ["mailto:tls@example.com?subject=x"]),  # "=" in a URI
    ("v=TLSRPTv1; rua=https://tls.example.com:8443/a?b=c&d#e", ["https://tls.example.com:8443/a?b=c&d#e"]),
    ("v=TLSRPTv1; rua=https://[2001:db8::1]/x", ["https://[2001:db8::1]/x"]),
    # decision 11: other schemes are skipped
    (f"v=TLSRPTv1; rua=http://tls.example.com/,{MAIL}", [MAIL]),
    (f"v=TLSRPTv1; rua=tel:+4930000,urn:example:x,{POST}", [POST]),
    ("v=TLSRPTv1; rua=ftp://tls.example.com/", []),  # with none left there is nowhere to report
    ("v=TLSRPTv1; rua=mailtoo:tls@example.com", []),
    # A list that is no list of URIs is an extension by its form, where it has neither "=" nor white space.
    (f"v=TLSRPTv1; rua=tls@example.com; rua={MAIL}", [MAIL]),
    (f"v=TLSRPTv1; rua={MAIL}; rua={POST},tls@example.com", [MAIL]),
    # Grammatical, if of no use: a warning says so.
    ("v=TLSRPTv1; rua=mailto:", ["mailto:"]),
    ("v=TLSRPTv1; rua=mailto:nobody", ["mailto:nobody"]),
    ("v=TLSRPTv1; rua=https:nowhere", ["https:nowhere"]),
]

BAD = [
    ("", "empty"),
    ("v=TLSRPTv1", "nothing follows"),
    ("v=TLSRPTv1;", "nothing follows"),
    ("v=TLSRPTv1; flavour=plain", "there is no 'rua'"),  # tlsrpt-rua is required
    (f"v=TLSRPTv1; RUA={MAIL}", "there is no 'rua'"),
    (f"v=TLSRPTv1; ruaf={MAIL}", "there is no 'rua'"),
    (f" v=TLSRPTv1; rua={MAIL}", "white space before it"),
    (f"v=TLSRPTv2; rua={MAIL}", "does not begin"),
    (f"v=TLSRPTv10; rua={MAIL}", "does not begin"),
    (f"v=TLSRPT1; rua={MAIL}", "does not begin"),
    (f"v=tlsrptv1; rua={MAIL}", "not spelled exactly"),
    (f"V=TLSRPTv1; rua={MAIL}", "not spelled exactly"),
    (f"v=TLSRPTv1 rua={MAIL}", "no ';' follows"),
    (f"rua={MAIL}; v=TLSRPTv1", "does not begin"),
    (f"v=TLSRPTv1; rua={MAIL};;", "one ';' too many"),
    (f"v=TLSRPTv1; rua={MAIL}; rubbish", "no '='"),
    (f"v=TLSRPTv1; rua={MAIL}; a=", "no value"),
    (f"v=TLSRPTv1; rua={MAIL}; a=b c", "may not hold"),
    (f"v=TLSRPTv1; rua={MAIL}; a=b=c", "may not hold"),
    (f"v=TLSRPTv1; rua={MAIL}; +a=b", "not the name"),
    ("v=TLSRPTv1; rua", "no '='"),
    ("v=TLSRPTv1; rua=", "a URI is missing"),
    ("v=TLSRPTv1; rua=,", "a URI is missing"),
    (f"v=TLSRPTv1; rua={MAIL},", "a URI is missing"),
    (f"v=TLSRPTv1; rua=,{MAIL}", "a URI is missing"),
    (f"v=TLSRPTv1; rua={MAIL},,{POST}", "a URI is missing"),
    ("v=TLSRPTv1; rua=tls@example.com", "no scheme"),  # seen in the wild (2025)
    ("v=TLSRPTv1; rua=example.com", "no scheme"),
    (f"v=TLSRPTv1; rua={MAIL},reports@example.com", "no scheme"),  # a comma within an address looks so
    ("v=TLSRPTv1; rua=mailto:tls!10m@example.com", "%21"),  # the size limit that DMARC has
    (f"v=TLSRPTv1; rua= {MAIL}", "is not a URI"),  # no white space after "="
    (f"v=TLSRPTv1; rua ={MAIL}", "not the name"),
    (f"v=TLSRPTv1; rua={MAIL} {POST}", "is not a URI"),  # a blank is no comma
    (f"v=TLSRPTv1; rua={MAIL} more", "is not a URI"),
    ("v=TLSRPTv1; rua=mailto:tls@example.com?a=b=c%", "is not a URI"),
    ("v=TLSRPTv1; rua=https://tls.example.com/<x>", "is not a URI"),
    ("v=TLSRPTv1; rua=mailto:tls@exämple.com", "US-ASCII"),
]

URIS = [
    ("mailto:a@example.com", True),
    ("a:", True),  # path-empty
    ("a+b-c.d9:x", True),
    ("a:b:c@d", True),  # path-rootless
    ("a:/b", True),
    ("a:/", True),
    ("a:b//c", True),
    ("a:?", True),
    ("a:#", True),
    ("a:?b/c?d#e/f?g", True),
    ("a://", True),  # an empty reg-name
    ("a:///b//c/", True),
    ("a://b", True),
    ("a://b:", True),  # port = *DIGIT
    ("a://b:80/c", True),
    ("a://u:p@b/c", True),
    ("a://%41/%62", True),
    ("a:-._~%20$&'()*+=:@/", True),
    ("a://127.0.0.1/", True),
    ("a://[::]", True),
    ("a://[::1]:443/", True),
    ("a://[2001:db8:0:1:2:3:4:5]", True),
    ("a://[::ffff:192.0.2.1]/", True),
    ("a://[v1.x:y]/", True),  # IPvFuture
    ("", False),
    ("a", False),
    (":a", False),
    ("1a:b", False),  # a scheme begins with a letter
    ("-a:b", False),
    ("a_b:c", False),
    ("a b:c", False),
    ("/a:b", False),
    ("a:b,c", False),  # RFC 8460 §3: MUST be encoded
    ("a:b!c", False),
    ("a:b;c", False),
    ("a:?b,c", False),
    ("a:?b!c", False),
    ("a:#b;c", False),
    ("a://b,c/", False),
    ("a://u!@b/", False),
    ("a:b c", False),
    ("a:b\tc", False),
    ("a:b\n", False),
    ("a:<b>", False),
    ('a:"b"', False),
    ("a:b\\c", False),
    ("a:b^c", False),
    ("a:b`c", False),
    ("a:{b}", False),
    ("a:b|c", False),
    ("a:[b]", False),  # gen-delims belong to an authority
    ("a:b#c#d", False),
    ("a:%", False),
    ("a:%4", False),
    ("a:%4g", False),
    ("a:?%", False),
    ("a:#%zz", False),
    ("a:é", False),
    ("a://b:80x/", False),
    ("a://b:c/", False),
    ("a://b:1:2/", False),
    ("a://u@v@b/", False),
    ("a://[::1", False),
    ("a://::1]/", False),
    ("a://[::1]x/", False),
    ("a://[]/", False),
    ("a://[::1%25lo]/", False),  # RFC 3986 knows no zone
    ("a://[::1%lo]/", False),
    ("a://[1.2.3.4]/", False),
    ("a://[v1.]/", False),
    ("a://[v.x]/", False),
    ("a://[:::]/", False),
    ("a://[12345::]/", False),
    ("a://[::256.0.0.1]/", False),
]

SETS_GOOD = [
    ([f"v=TLSRPTv1; rua={MAIL}".encode()], [MAIL]),
    ([f"v=TLSRPTv1 ; rua={MAIL}".encode()], [MAIL]),  # decision 1
    ([b"v=spf1 -all", f"v=TLSRPTv1; rua={MAIL}".encode()], [MAIL]),
    ([b"v=TLSRPTv2; x=y", f"v=TLSRPTv1; rua={MAIL}".encode()], [MAIL]),
    ([f"v=TLSRPTv1 ; rua={POST}".encode(), f"v=TLSRPTv1; rua={MAIL}".encode()], [MAIL]),
]

SETS_NONE = [[], [b"v=spf1 -all"], [b"v=STSv1; id=x"], [b"", b"\xff"]]

SETS_BAD = [
    ([f"v=TLSRPTv1; rua={MAIL}".encode(), f"v=TLSRPTv1; rua={POST}".encode()], "2 TXT records"),
    ([b"x", f"v=TLSRPTv1 ; rua={MAIL}".encode()], "none of them begins with"),
    ([b"v=TLSRPTv1; rua=tls@example.com"], "no scheme"),
    ([b"v=TLSRPTv1; rua=mailto:tls@ex\xc3\xa4mple.com"], "byte 0xc3 at position 30"),
]


@pytest.mark.parametrize(("text", "ruas"), GOOD)
def test_good_record(text: str, ruas: list[str]) -> None:
    assert list(parse_tlsrpt_record(text).ruas) == ruas
    alone = select_tlsrpt_record([text.encode()])
    assert alone is not None
    assert list(alone.ruas) == ruas


@pytest.mark.parametrize(("text", "why"), BAD)
def test_bad_record(text: str, why: str) -> None:
    with pytest.raises(RecordInvalid, match=why):
        parse_tlsrpt_record(text)


@pytest.mark.parametrize(("text", "good"), URIS)
def test_rfc8460_3_uri(text: str, good: bool) -> None:
    assert is_uri(text) is good


@pytest.mark.parametrize(("records", "ruas"), SETS_GOOD)
def test_good_set(records: list[bytes], ruas: list[str]) -> None:
    for order in (records, records[::-1]):
        record = select_tlsrpt_record(order)
        assert record is not None
        assert list(record.ruas) == ruas


@pytest.mark.parametrize("records", SETS_NONE)
def test_set_without_a_candidate(records: list[bytes]) -> None:
    assert select_tlsrpt_record(records) is None


@pytest.mark.parametrize(("records", "why"), SETS_BAD)
def test_set_whose_candidates_are_not_usable(records: list[bytes], why: str) -> None:
    for order in (records, records[::-1]):
        with pytest.raises(RecordInvalid, match=why):
            select_tlsrpt_record(order)


@pytest.mark.parametrize("ruas", [ruas for _, ruas in GOOD if ruas])
def test_round_trip(ruas: list[str]) -> None:
    assert list(parse_tlsrpt_record("v=TLSRPTv1; rua=" + ",".join(ruas)).ruas) == ruas
