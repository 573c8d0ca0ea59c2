"""The TLSRPT record (RFC 8460 §3). The broad tables are in tests/protocol."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stsguard.core.errors import RecordInvalid
from stsguard.core.syntax import MAX_WARNINGS
from stsguard.core.tlsrpt_record import TlsrptRecord, is_uri, parse_tlsrpt_record, select_tlsrpt_record
from tests.strategies import host_names, nearly, relaxed, white_space

MAIL = "mailto:tls@example.com"
POST = "https://tls.example.com/v1"
HOSTILE_BYTES = 65_536


def test_rfc8460_3_record() -> None:
    assert parse_tlsrpt_record(f"v=TLSRPTv1; rua={MAIL}") == TlsrptRecord((MAIL,))


def test_rfc8460_3_list_of_uris() -> None:
    assert parse_tlsrpt_record(f"v=TLSRPTv1; rua={MAIL} ,\t{POST};") == TlsrptRecord((MAIL, POST))


def test_rfc8460_3_unknown_fields_are_ignored() -> None:
    record = parse_tlsrpt_record(f"v=TLSRPTv1; a=b; rua={MAIL}; RUA=x")
    assert record.ruas == (MAIL,)
    assert record.warnings == (
        "the unknown field 'a' is ignored",
        "the unknown field 'RUA' is ignored: 'rua' is written in lower case",
    )


def test_rfc8460_3_several_rua_fields_all_count_once() -> None:
    record = parse_tlsrpt_record(f"v=TLSRPTv1; rua={MAIL}; rua={POST},{MAIL}")
    assert record == TlsrptRecord((MAIL, POST), (f"rua '{MAIL}' is there more than once",))


def test_rfc8460_3_only_mailto_and_https_are_used() -> None:
    record = parse_tlsrpt_record(f"v=TLSRPTv1; rua=ftp://example.com/,{MAIL}")
    assert record == TlsrptRecord(
        (MAIL,), ("rua 'ftp://example.com/' is skipped: only mailto and https are supported",)
    )


def test_without_a_supported_scheme_there_is_nowhere_to_report() -> None:
    record = parse_tlsrpt_record("v=TLSRPTv1; rua=ftp://example.com/")
    assert record.ruas == ()
    assert record.warnings[-1] == "no rua can be used: there is nowhere to report to"


def test_destinations_of_no_use_are_kept_with_a_warning() -> None:
    record = parse_tlsrpt_record("v=TLSRPTv1; rua=mailto:nobody,https:///x")
    assert record == TlsrptRecord(
        ("mailto:nobody", "https:///x"),
        ("rua 'mailto:nobody' has no mail address", "rua 'https:///x' has no host"),
    )


def test_a_rua_that_is_no_list_of_uris_is_an_extension_by_its_form() -> None:
    record = parse_tlsrpt_record(f"v=TLSRPTv1; rua=tls@example.com; rua={MAIL}")
    assert record.ruas == (MAIL,)
    assert record.warnings == ("a rua is ignored: 'tls@example.com' is not a URI: it has no scheme, such as 'mailto:'",)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("v=TLSRPTv1; a=b", "there is no 'rua' field"),
        ("v=TLSRPTv1; rua=,x:y", "rua: a URI is missing"),
        ("v=TLSRPTv1; rua=", "rua: a URI is missing"),
        ("v=TLSRPTv1; rua=mailto:a!b@example.com", "'mailto:a!b@example.com' is not a URI here: '!' has to be .* %21"),
        ("v=TLSRPTv1; rua=tls@example.com", "'tls@example.com' is not a URI: it has no scheme"),
        ("v=TLSRPTv1; rua=a; rua=b", "rua: 'a' is not a URI: it has no scheme"),
        (f"v=TLSRPTv1; rua={MAIL} {POST}", "is not a URI$"),
        (f"v=TLSRPTv1; rua={MAIL}; x", "field 'x' has no '='"),
    ],
)
def test_message_tells_the_admin_what_is_wrong(text: str, why: str) -> None:
    with pytest.raises(RecordInvalid, match=why):
        parse_tlsrpt_record(text)


def test_rfc8460_3_other_txt_records_are_discarded() -> None:
    assert select_tlsrpt_record([b"v=spf1 -all", f"v=TLSRPTv1; rua={MAIL}".encode()]) == TlsrptRecord((MAIL,))
    record = select_tlsrpt_record([b"v=TLSRPTv1 ; rua=x:y", f"v=TLSRPTv1; rua={MAIL}".encode()])
    assert record == TlsrptRecord((MAIL,), ("1 more TXT records look like TLSRPT but do not begin with 'v=TLSRPTv1;'",))


def test_rfc8460_3_two_records_are_none() -> None:
    with pytest.raises(RecordInvalid, match="2 TXT records begin with 'v=TLSRPTv1;'"):
        select_tlsrpt_record([f"v=TLSRPTv1; rua={MAIL}".encode()] * 2)


def test_nothing_that_resembles_a_record_is_no_tlsrpt() -> None:
    assert select_tlsrpt_record([b"v=spf1 -all"]) is None


@pytest.mark.parametrize(
    ("text", "good"),
    [
        (MAIL, True),
        ("a:/b?c#d", True),
        ("a://u:p@host:25/b", True),
        ("a://[::1]/", True),
        ("a://[v7.x]/", True),
        ("no-scheme", False),
        ("1:a", False),
        ("a:b#c#d", False),
        ("a:b?c^", False),
        ("a:b^", False),
        ("a://b^/", False),
        ("a://b/^", False),
        ("a://u^@b/", False),
        ("a://b:port/", False),
        ("a://[::1%1]/", False),
        ("a://[localhost]/", False),
    ],
)
def test_rfc3986_uri(text: str, good: bool) -> None:
    assert is_uri(text) is good


uris = st.one_of(
    st.tuples(st.from_regex(r"[a-z0-9.+_]{1,9}", fullmatch=True), host_names).map(lambda at: f"mailto:{at[0]}@{at[1]}"),
    st.tuples(host_names, st.from_regex(r"(:[0-9]{1,5})?(/[A-Za-z0-9%]{0}[a-z~.=]*){0,3}", fullmatch=True)).map(
        lambda parts: f"https://{parts[0]}{parts[1]}"
    ),
)


@relaxed
@given(st.lists(st.lists(uris, min_size=1, max_size=3), min_size=1, max_size=3), st.data())
def test_a_record_survives_its_text(fields: list[list[str]], data: st.DataObject) -> None:
    space = white_space
    text = "v=TLSRPTv1"
    for field in fields:
        text += f"{data.draw(space)};{data.draw(space)}rua={field[0]}"
        text += "".join(f"{data.draw(space)},{data.draw(space)}{uri}" for uri in field[1:])
    expected = dict.fromkeys(uri for field in fields for uri in field)
    assert parse_tlsrpt_record(text).ruas == tuple(expected)


@relaxed
@given(st.one_of(nearly, st.text()))
def test_a_record_is_parsed_or_refused(text: str) -> None:
    try:
        record = parse_tlsrpt_record(text)
    except RecordInvalid as exc:
        why = str(exc)
    else:
        assert all(is_uri(uri) and uri.lower().startswith(("mailto:", "https:")) for uri in record.ruas)
        assert len(set(record.ruas)) == len(record.ruas)
        why = "".join(record.warnings)
    assert why.isprintable()


@relaxed
@given(st.one_of(nearly, st.text()))
def test_a_uri_or_not(text: str) -> None:
    if is_uri(text):
        assert text.isascii()
        assert not set(text) & set(' ,!;"<>\\^`{|}')


@pytest.mark.parametrize("unit", ["%41", "%", "a", ":", "@", "[", "[::", "/", "?", "#", ",", " ", "a:,"])
def test_a_hostile_rua_is_refused_with_a_short_message(unit: str) -> None:
    for start in ("", "https://", "mailto:", "a://["):
        with pytest.raises(RecordInvalid) as caught:
            parse_tlsrpt_record(f"v=TLSRPTv1; rua={start}{unit * (HOSTILE_BYTES // len(unit))}^")
        assert len(str(caught.value)) < 400


def test_a_hostile_record_gives_few_warnings() -> None:
    record = parse_tlsrpt_record("v=TLSRPTv1; rua=" + ",".join(["a:b"] * (HOSTILE_BYTES // 4)))
    assert record.ruas == ()
    assert len(record.warnings) == MAX_WARNINGS
