"""MTA-STS records, policies and MX matching (RFC 8461 §3.1, §3.2, §4.1). The broad tables are in tests/protocol."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stsguard.core.errors import PolicyInvalid, RecordInvalid, ResultType
from stsguard.core.mtasts import (
    MAX_MAX_AGE,
    Mode,
    MxPattern,
    Policy,
    Record,
    media_type_accepted,
    mx_matches,
    mx_permitted,
    parse_policy,
    parse_record,
    select_record,
)
from stsguard.core.syntax import MAX_WARNINGS
from stsguard.names import Domain
from tests.strategies import host_names, mx_texts, nearly, relaxed, white_space

BODY = b"version: STSv1\nmode: enforce\nmx: mx.example.com\nmx: *.example.net\nmax_age: 604800\n"
HOSTILE_BYTES = 65_536


def pattern(text: str) -> MxPattern:
    """A pattern by its text."""
    return MxPattern.parse(text)


# The TXT record, §3.1


def test_rfc8461_3_1_record() -> None:
    assert parse_record("v=STSv1; id=20300101;") == Record("20300101")


def test_rfc8461_3_1_unknown_fields_are_ignored() -> None:
    record = parse_record("v=STSv1; flavour=plain; id=a")
    assert record.record_id == "a"
    assert record.warnings == ("the unknown field 'flavour' is ignored",)


def test_rfc8461_3_2_first_of_duplicate_fields_wins_in_a_record() -> None:
    record = parse_record("v=STSv1; id=a; id=b; v=STSv1; ID=c")
    assert record.record_id == "a"
    assert record.warnings == (
        "'id' is there more than once: only the first counts",
        "'v' is there more than once: only the first counts",
        "the unknown field 'ID' is ignored: 'id' is written in lower case",
    )


def test_rfc8461_3_1_white_space_before_the_first_delimiter_counts_alone_only() -> None:
    early = b"v=STSv1 ; id=a"
    alone = select_record([early])
    assert alone == Record(
        "a", ("white space before the first ';': the record would not count beside other TXT records",)
    )
    with pytest.raises(RecordInvalid, match="there are 2 TXT records, and none of them begins with 'v=STSv1;'"):
        select_record([early, b"v=spf1 -all"])


def test_white_space_at_the_end_of_a_record_is_forgiven() -> None:
    assert parse_record("v=STSv1; id=a \t") == Record("a", ("white space at the end of the record",))


def test_rfc8461_3_1_other_txt_records_are_discarded() -> None:
    assert select_record([b"v=spf1 -all", b"v=STSv1; id=a"]) == Record("a")
    record = select_record([b"v=STSv2; id=b", b" v=STSv1; id=c", b"v=STSv1; id=a"])
    assert record == Record("a", ("2 more TXT records look like MTA-STS but do not begin with 'v=STSv1;'",))


def test_rfc8461_3_1_two_records_are_none() -> None:
    with pytest.raises(RecordInvalid, match="2 TXT records begin with 'v=STSv1;', and only one may be there"):
        select_record([b"v=STSv1; id=a", b"v=STSv1; id=b"])


def test_nothing_that_resembles_a_record_is_no_mta_sts() -> None:
    assert select_record([]) is None
    assert select_record([b"v=spf1 -all"]) is None


def test_rfc8461_3_1_record_is_us_ascii() -> None:
    with pytest.raises(RecordInvalid, match="not US-ASCII: byte 0xe9 at position 9"):
        select_record([b"v=STSv1;\xe9"])
    with pytest.raises(RecordInvalid, match="not US-ASCII"):
        parse_record("v=STSv1; id=é")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (" ", "the record is empty"),
        (" v=STSv1; id=a", "there is white space before it"),
        ('"v=STSv1; id=a"', "there is a quotation mark, which belongs to the zone file only"),
        ("v=STSv1\\; id=a", "there is a '\\', which belongs to the zone file only"),
        ("v=STSv1 id=a", "no ';' follows the version"),
        ("v=stsV1; id=a", "'v=stsV1' is not spelled exactly so"),
        ("v=STSv2; id=a", "the record does not begin with 'v=STSv1;' but with 'v=STSv2'"),
        ("v=STSv1", "nothing follows 'v=STSv1'"),
        ("v=STSv1; id=a;;", "field 2 is empty: there is one ';' too many"),
        ("v=STSv1; id", "field 'id' has no '='"),
        ("v=STSv1; i+d=a", "'i+d' is not the name of a field"),
        ("v=STSv1; id=", "field 'id' has no value"),
        ("v=STSv1; id=a b", "the value of 'id' may not hold white space, control characters or '=': 'a b'"),
        ("v=STSv1; id=a-b", "id 'a-b' is not 1 to 32 letters and digits"),
        ("v=STSv1; a=b", "there is no 'id' field"),
    ],
)
def test_message_tells_the_admin_what_is_wrong(text: str, why: str) -> None:
    with pytest.raises(RecordInvalid, match=re.escape(why)):
        parse_record(text)


# The policy, §3.2


def test_rfc8461_3_2_policy() -> None:
    assert parse_policy(BODY) == Policy(
        Mode.ENFORCE,
        604_800,
        (MxPattern(Domain("mx.example.com"), False), MxPattern(Domain("example.net"), True)),
        ("version: STSv1", "mode: enforce", "mx: mx.example.com", "mx: *.example.net", "max_age: 604800"),
    )


def test_policy_text_keeps_the_served_lines_without_their_ends() -> None:
    body = b"version:STSv1\r\nmode: none \n\nflavour:  a  {b}\r\n \t\nmax_age: 1"
    policy = parse_policy(body)
    assert policy.policy_text == ("version:STSv1", "mode: none ", "", "flavour:  a  {b}", " \t", "max_age: 1")
    assert policy.warnings == (
        "line 2: white space at the end",
        "line 3: blank line",
        "line 4: the unknown field 'flavour' is ignored",
        "line 5: blank line",
    )


def test_rfc8461_3_2_first_of_duplicate_fields_wins_in_a_policy() -> None:
    policy = parse_policy(BODY + b"mode: none\nmax_age: rubbish\nversion: STSv7\na: b\na: c\n")
    assert (policy.mode, policy.max_age) == (Mode.ENFORCE, 604_800)
    assert policy.warnings == (
        "line 6: 'mode' is there already; only the first counts",
        "line 7: 'max_age' is there already; only the first counts",
        "line 8: 'version' is there already; only the first counts",
        "line 9: the unknown field 'a' is ignored",
        "line 10: 'a' is there already; only the first counts",
    )


def test_rfc8461_3_2_max_age_above_the_maximum_counts_as_the_maximum() -> None:
    policy = parse_policy(BODY.replace(b"604800", b"31557601"))
    assert policy.max_age == MAX_MAX_AGE
    assert policy.warnings == ("line 5: max_age 31557601 is above 31557600 and counts as that",)
    assert parse_policy(BODY.replace(b"604800", b"31557600")).warnings == ()


def test_rfc8461_3_2_max_age_may_be_zero() -> None:
    policy = parse_policy(BODY.replace(b"604800", b"0"))
    assert policy.max_age == 0
    assert policy.warnings == ("line 5: max_age 0 keeps senders from caching the policy",)


def test_rfc8461_3_2_mode_none_needs_no_mx() -> None:
    policy = parse_policy(b"version: STSv1\nmode: none\nmax_age: 86400\n")
    assert policy.mode is Mode.NONE
    assert policy.mx_patterns == ()


@pytest.mark.parametrize("mode", ["enforce", "testing"])
def test_rfc8461_3_2_other_modes_need_an_mx(mode: str) -> None:
    with pytest.raises(PolicyInvalid, match="there is no 'mx'"):
        parse_policy(f"version: STSv1\nmode: {mode}\nmax_age: 86400\n".encode())


def test_an_mx_that_is_no_host_pattern_goes_when_a_good_one_stands_beside_it() -> None:
    policy = parse_policy(BODY + b"mx: 192.0.2.25\n")
    assert list(map(str, policy.mx_patterns)) == ["mx.example.com", "*.example.net"]
    assert policy.warnings == ("line 6: mx '192.0.2.25': this is an IPv4 address, not a name; the line is ignored",)


def test_a_policy_of_which_no_mx_is_left_is_invalid() -> None:
    body = b"version: STSv1\nmode: testing\nmx: 192.0.2.25\nmx: .example.com\nmax_age: 86400\n"
    with pytest.raises(PolicyInvalid, match=r"line 3: mx '192\.0\.2\.25': this is an IPv4 address.*; no mx is left"):
        parse_policy(body)
    assert parse_policy(body.replace(b"testing", b"none")).mx_patterns == ()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"\xef\xbb\xbf" + BODY, "line 1: the file begins with a byte order mark"),
        (BODY + b"a: \xff\n", "line 6: b'\\xff' is not UTF-8"),
        (b" \r\n", "the file is empty"),
        (BODY.replace(b"\n", b"\r"), "line 1: a CR without LF does not end a line: 'version: STSv1\\rmode: enforce"),
        (BODY + b"what is this", "line 6: 'what is this' is not of the form 'name: value'"),
        (BODY + b"-a: b", "line 6: '-a: b' is not of the form 'name: value'"),
        (BODY + b"a: ", "line 6: 'a' has no value"),
        (BODY + b"a: \x00", "line 6: the value of 'a' has a control character: '\\x00'"),
        (BODY.replace(b"STSv1", b"STSv2"), "line 1: version 'STSv2' is not 'STSv1'"),
        (BODY.replace(b"enforce", b"on"), "line 2: mode 'on' is none of 'enforce', 'testing', 'none'"),
        (BODY.replace(b"604800", b"7d"), "line 5: max_age '7d' is not 1 to 10 digits"),
        (BODY.replace(b"mode", b"Mode"), "there is no 'mode': line 2 has 'Mode', but names are in lower case"),
        (BODY.replace(b"mode", b"mood"), "there is no 'mode'"),
        (BODY.replace(b"mx:", b"MX:"), "there is no 'mx': line 3 has 'MX', but names are in lower case"),
    ],
)
def test_message_names_the_line(body: bytes, why: str) -> None:
    with pytest.raises(PolicyInvalid, match=re.escape(why)) as caught:
        parse_policy(body)
    assert caught.value.result_type is ResultType.STS_POLICY_INVALID


# MX matching, §4.1


def test_rfc8461_4_1_wildcard_stands_for_exactly_one_label() -> None:
    wildcard = pattern("*.example.com")
    assert mx_matches(wildcard, Domain("mail.example.com"))
    assert not mx_matches(wildcard, Domain("example.com"))
    assert not mx_matches(wildcard, Domain("foo.bar.example.com"))


def test_rfc8461_4_1_any_pattern_permits() -> None:
    patterns = [pattern("mx.example.com"), pattern("*.example.net")]
    assert mx_permitted(patterns, Domain("mx.example.com"))
    assert mx_permitted(patterns, Domain("mx.example.net"))
    assert not mx_permitted(patterns, Domain("mx.example.org"))
    assert not mx_permitted([], Domain("mx.example.com"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("bücher.example", "'bücher.example' is not in A-labels"),
        ("mx.example.com.", "ends with a dot"),
        ("mx_1.example.com", "has an underscore"),
        ("*.*.example.com", "has a '[*]' that is not the whole first label"),
        ("*.192.0.2.25", "this is an IPv4 address"),
        ("x" * 70, "'x{60}'\\.\\.\\.: 'x{64,70}' is not a label"),
    ],
)
def test_rfc8461_3_2_what_is_no_pattern(text: str, why: str) -> None:
    with pytest.raises(PolicyInvalid, match=why):
        pattern(text)


def test_rfc8461_3_2_media_type() -> None:
    assert media_type_accepted("text/plain; charset=utf-8")
    assert not media_type_accepted("text/html")


# Properties


def matches_by_rfc6125(pattern_text: str, host: str) -> bool:
    """A second formulation: the wildcard is replaced by the host's own first label, then the names are equal."""
    if pattern_text.startswith("*."):
        first_label = host.split(".", 1)[0]
        pattern_text = first_label + pattern_text[1:]
    return pattern_text == host


@relaxed
@given(mx_texts, host_names)
def test_matching_agrees_with_a_second_formulation(pattern_text: str, host: str) -> None:
    expected = matches_by_rfc6125(pattern_text, host)
    assert mx_matches(pattern(pattern_text), Domain(host)) is expected


@relaxed
@given(mx_texts, st.sampled_from(["", "a.", "b.a.", "x"]))
def test_matching_near_misses_agree_with_a_second_formulation(pattern_text: str, before: str) -> None:
    host = before + pattern_text.removeprefix("*.")
    assert mx_matches(pattern(pattern_text), Domain(host)) is matches_by_rfc6125(pattern_text, host)


@relaxed
@given(mx_texts)
def test_a_pattern_survives_its_text(pattern_text: str) -> None:
    assert str(pattern(pattern_text)) == pattern_text


record_ids = st.from_regex(r"[A-Za-z0-9]{1,32}", fullmatch=True)
extensions = st.tuples(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}", fullmatch=True).filter(lambda name: name != "id"),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=";="), min_size=1, max_size=9),
).map("=".join)


@relaxed
@given(record_ids, st.lists(extensions, max_size=4), st.data())
def test_a_record_survives_its_text(record_id: str, others: list[str], data: st.DataObject) -> None:
    fields = data.draw(st.permutations([f"id={record_id}", *others]))
    text = "v=STSv1" + "".join(f"{data.draw(white_space)};{data.draw(white_space)}{field}" for field in fields)
    assert parse_record(text).record_id == record_id
    assert parse_record(f"{text};").record_id == record_id


policy_names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}", fullmatch=True).filter(
    lambda name: name not in {"version", "mode", "max_age", "mx"}
)
policy_values = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x7f" + "".join(map(chr, range(0x20)))), min_size=1
).filter(lambda value: value == value.strip(" "))


@relaxed
@given(
    st.sampled_from(list(Mode)),
    st.integers(0, MAX_MAX_AGE),
    st.lists(mx_texts, min_size=1, max_size=4),
    st.lists(st.tuples(policy_names, policy_values), max_size=3),
    st.data(),
)
def test_a_policy_survives_its_text(
    mode: Mode, max_age: int, mx: list[str], others: list[tuple[str, str]], data: st.DataObject
) -> None:
    pairs = [("version", "STSv1"), ("mode", mode.value), ("max_age", str(max_age))]
    pairs += [*(("mx", value) for value in mx), *others]
    pairs = data.draw(st.permutations(pairs))
    lines = [f"{name}:{data.draw(white_space)}{value}{data.draw(white_space)}" for name, value in pairs]
    ends = [data.draw(st.sampled_from(["\n", "\r\n"])) for _ in lines]
    policy = parse_policy("".join(line + end for line, end in zip(lines, ends, strict=True)).encode())
    assert policy.mode is mode
    assert policy.max_age == max_age
    assert [("mx", str(found)) for found in policy.mx_patterns] == [pair for pair in pairs if pair[0] == "mx"]
    assert list(policy.policy_text) == lines


@relaxed
@given(st.one_of(nearly, st.text()))
def test_a_record_is_parsed_or_refused(text: str) -> None:
    try:
        record = parse_record(text)
    except RecordInvalid as exc:
        why = str(exc)
    else:
        assert re.fullmatch("[A-Za-z0-9]{1,32}", record.record_id)
        why = "".join(record.warnings)
    assert why.isprintable()


@relaxed
@given(st.lists(st.one_of(nearly.map(lambda text: text.encode("utf-8", "surrogatepass")), st.binary()), max_size=4))
def test_a_set_of_records_is_chosen_from_or_refused(records: list[bytes]) -> None:
    def outcome(order: list[bytes]) -> str | None:
        try:
            record = select_record(order)
        except RecordInvalid:
            return "refused"
        return None if record is None else f"id {record.record_id}"

    assert outcome(records) == outcome(records[::-1])


@relaxed
@given(st.one_of(nearly.map(lambda text: text.encode("utf-8", "surrogatepass")), st.binary()))
def test_a_policy_is_parsed_or_refused(body: bytes) -> None:
    try:
        policy = parse_policy(body)
    except PolicyInvalid as exc:
        why = str(exc)
    else:
        assert policy.mx_patterns or policy.mode is Mode.NONE
        assert 0 <= policy.max_age <= MAX_MAX_AGE
        assert parse_policy("\n".join((*policy.policy_text, "")).encode()) == policy
        why = "".join(policy.warnings)
    assert why.isprintable()


@relaxed
@given(st.one_of(nearly, st.text()))
def test_a_media_type_is_accepted_or_not(text: str) -> None:
    assert media_type_accepted(f"text/plain;{text}")
    assert not media_type_accepted(f"text/plainer{text}")


# Hostile input of the size that a fetch lets through, for which a bad regular expression would take for ever


@pytest.mark.parametrize("unit", [b"\n", b" \n", b"mx: *\n", b"a: b\n", b"mode: none\n", b"mx: 192.0.2.25\n"])
def test_a_hostile_policy_gives_few_warnings(unit: bytes) -> None:
    body = BODY + unit * (HOSTILE_BYTES // len(unit))
    policy = parse_policy(body)
    assert len(policy.warnings) == MAX_WARNINGS
    assert policy.warnings[-1].endswith("more warnings")


@pytest.mark.parametrize("unit", [b" ", b"\r", b":", b"*.", b"a", b"a.", b"\t \t:", b"\xff", b"a: b"])
def test_a_hostile_line_is_refused_with_a_short_message(unit: bytes) -> None:
    for start in (b"", b"mx:", b"x: y\t"):
        with pytest.raises(PolicyInvalid) as caught:
            parse_policy(start + unit * (HOSTILE_BYTES // len(unit)))
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("unit", [" ", ";", "; ", "a=b;", "=", "id=a", " ;\t"])
def test_a_hostile_record_is_refused_with_a_short_message(unit: str) -> None:
    with pytest.raises(RecordInvalid) as caught:
        parse_record("v=STSv1;" + unit * (HOSTILE_BYTES // len(unit)))
    assert len(str(caught.value)) < 400


def test_a_hostile_record_gives_few_warnings() -> None:
    record = parse_record("v=STSv1;id=a;" + "a=b;" * (HOSTILE_BYTES // 4))
    assert len(record.warnings) == MAX_WARNINGS
