"""Datagrams of libtlsrpt: every key and code, both versions, and whatever else a sender may pass on."""

import json
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stsguard.core.errors import EventInvalid, ResultType
from stsguard.core.session import FailureDetail, PolicyType, Seen, Session, Source
from stsguard.core.tlsrpt_event import (
    MAX_DATAGRAM_BYTES,
    MAX_DETAILS,
    MAX_HELO_LENGTH,
    MAX_INFORMATION_LENGTH,
    MAX_POLICIES,
    MAX_POLICY_STRING_LENGTH,
    MAX_POLICY_STRINGS,
    MAX_REASON_LENGTH,
    parse_datagram,
)
from stsguard.names import Domain
from tests.strategies import host_names, relaxed

AT = datetime(2026, 5, 4, 12, 30, tzinfo=UTC)
EHLO = "250-mx1.example.com at your service\r\n250-PIPELINING\r\n250 STARTTLS"
DETAIL: dict[str, object] = {"c": 202, "s": "192.0.2.10", "n": "mx1.example.com", "h": EHLO, "r": "198.51.100.7"}
OWN = {
    "sending_mta_ip": "192.0.2.10",
    "receiving_mx_hostname": Domain("mx1.example.com"),
    "receiving_mx_helo": "mx1.example.com",
    "receiving_ip": "198.51.100.7",
}


def datagram(*policies: object, **keys: object) -> bytes:
    content: dict[str, object] = {"d": "example.com", "pr": "v=TLSRPTv1; rua=mailto:tls@example.com"}
    return json.dumps({**content, "policies": list(policies), **keys}).encode()


def policy(final: object = 0, *details: object, **keys: object) -> dict[str, object]:
    content: dict[str, object] = {"policy-type": 2, "policy-domain": "example.com", "t": len(details), "f": final}
    if details:
        content["failure-details"] = list(details)
    return {**content, **{name.replace("_", "-"): value for name, value in keys.items()}}


def parse(octets: bytes) -> tuple[Session, ...]:
    return parse_datagram(octets, AT, "postfix")


def one(*details: object, final: int = 1, **keys: object) -> Session:
    (session,) = parse(datagram(policy(final, *details, **keys)))
    return session


def expected(seen: Seen, **fields: object) -> Session:
    whole: dict[str, object] = {
        "at": AT,
        "source": Source.DATAGRAM,
        "instance": "postfix",
        "seen": seen,
        "recipient_domain": Domain("example.com"),
        "policy_type": PolicyType.STS,
        "policy_domain": Domain("example.com"),
        **fields,
    }
    return Session(**whole)  # type: ignore[arg-type] # a table of fields


STS_SUCCESS = (
    '"d": "example.com","pr": "v=TLSRPTv1; rua=mailto:tls@example.com","policies":[{"policy-type":2,'
    '"policy-domain": "example.com","policy-string":["version: STSv1","mode: enforce","mx: *.example.com",'
    '"max_age: 86400"],"mx-host":["*.example.com"],"t":0,"f":0}]}'
)


@pytest.mark.parametrize("start", ["{", '{"dpv": "1",'], ids=["0.5.0rc1", "0.5.0"])
def test_success_under_mta_sts_with_and_without_version(start: str) -> None:
    strings = ("version: STSv1", "mode: enforce", "mx: *.example.com", "max_age: 86400")
    assert parse((start + STS_SUCCESS).encode()) == (expected(Seen.SUCCESS, policy_strings=strings),)


def test_failure_of_dane_as_libtlsrpt_writes_it() -> None:
    octets = (
        b'{"d": "example.com","pr": "v=TLSRPTv1; rua=https://example.com/","policies":[{"policy-type":1,"policy-domain"'
        b': "mx1.example.com","policy-string":["3 1 1 00FF"],"failure-details":[{"c":304,"s": "2001:db8::1","n": '
        b'"mx1.example.com","h": "250-mx1.example.com\\r\\n250 STARTTLS","r": "2001:DB8:0::2","a": '
        b'"https://example.com/why","f": "all-TLSA-records-unusable"}],"t":1,"f":1}]}'
    )
    assert parse(octets) == (
        expected(
            Seen.FAILURE,
            policy_type=PolicyType.TLSA,
            policy_domain=Domain("mx1.example.com"),
            policy_strings=("3 1 1 00FF",),
            result_type=ResultType.TLSA_INVALID,
            failure_reason_code="all-TLSA-records-unusable",
            sending_mta_ip="2001:db8::1",
            receiving_mx_hostname=Domain("mx1.example.com"),
            receiving_mx_helo="mx1.example.com",
            receiving_ip="2001:db8::2",
            additional_information="https://example.com/why",
        ),
    )


@pytest.mark.parametrize(
    ("code", "policy_type"),
    [(1, "tlsa"), (2, "sts"), (9, "no-policy-found"), (3, None), ("2", None), (True, None), (None, None)],
)
def test_policy_types(code: object, policy_type: str | None) -> None:
    assert one(final=0, policy_type=code).policy_type == policy_type


@pytest.mark.parametrize(
    ("code", "result_type"),
    [
        (201, "starttls-not-supported"),
        (202, "certificate-host-mismatch"),
        (203, "certificate-not-trusted"),
        (204, "certificate-expired"),
        (205, "validation-failure"),
        (301, "sts-policy-fetch-error"),
        (302, "sts-policy-invalid"),
        (303, "sts-webpki-invalid"),
        (304, "tlsa-invalid"),
        (305, "dnssec-invalid"),
        (306, "dane-required"),
    ],
)
def test_rfc8460_4_3_result_types(code: int, result_type: str) -> None:
    session = one({**DETAIL, "c": code, "f": "a-reason"})
    assert (session.result_type, session.failure_reason_code) == (result_type, "a-reason")


@pytest.mark.parametrize(
    ("code", "reason", "reported"),
    [
        (901, "internal", "tlsrpt-code-901 internal"),
        (207, None, "tlsrpt-code-207"),
        (0, None, "tlsrpt-code-0"),
        (None, None, "tlsrpt-code-missing"),
        ("202", None, "tlsrpt-code-'202'"),
        (True, None, "tlsrpt-code-True"),
        ([202], None, "tlsrpt-code-a list"),
        ({}, None, "tlsrpt-code-an object"),
        (10**100, "x", f"tlsrpt-code-{str(10**100)[:40]} x"),
    ],
)
def test_rfc8460_4_3_3_unknown_code_is_validation_failure_with_the_code(
    code: object, reason: str | None, reported: str
) -> None:
    session = one({**DETAIL, "c": code, "f": reason})
    assert (session.result_type, session.failure_reason_code) == (ResultType.VALIDATION_FAILURE, reported)


def test_several_policies_are_a_session_each_in_their_order() -> None:
    found = parse(
        datagram(policy(1, DETAIL), policy(0, policy_domain="mx2.example.com", policy_type=1), policy(0), policy(0))
    )
    assert found == (
        expected(Seen.FAILURE, result_type=ResultType.CERTIFICATE_HOST_MISMATCH, **OWN),
        expected(Seen.SUCCESS, policy_type=PolicyType.TLSA, policy_domain=Domain("mx2.example.com")),
        expected(Seen.SUCCESS),
        expected(Seen.SUCCESS),  # equal ones are sessions all the same
    )
    assert parse(datagram()) == ()


def test_rfc8460_4_4_a_failed_session_is_one_whatever_its_details() -> None:
    session = one(DETAIL, {"c": 204, "r": "198.51.100.8"}, DETAIL)
    further = (
        FailureDetail("certificate-expired", receiving_ip="198.51.100.8"),
        FailureDetail(
            "certificate-host-mismatch", "192.0.2.10", "mx1.example.com", "mx1.example.com", "198.51.100.7", "", ""
        ),
    )
    assert session == expected(
        Seen.FAILURE, result_type=ResultType.CERTIFICATE_HOST_MISMATCH, further_details=further, **OWN
    )


def test_success_after_failures_is_a_success_with_details() -> None:
    session = one({"c": 201, "n": "mx2.example.com"}, {"c": 901}, final=0)
    assert session == expected(
        Seen.SUCCESS,
        further_details=(
            FailureDetail("starttls-not-supported", receiving_mx_hostname="mx2.example.com"),
            FailureDetail("validation-failure", failure_reason_code="tlsrpt-code-901"),
        ),
    )


@pytest.mark.parametrize("details", [None, []])
def test_failure_without_details_says_not_how(details: object) -> None:
    assert one(failure_details=details) == expected(Seen.FAILURE)


def test_unknown_keys_are_passed_over_at_every_level() -> None:
    plain = parse(datagram(policy(1, DETAIL)))
    assert parse(datagram(policy(1, {**DETAIL, "z": [{}]}, x=None), dpv="1", new={"a": [1]})) == plain


def test_the_last_of_a_repeated_key_counts() -> None:
    assert parse(b'{"d":"a.example","policies":3,"d":"b.example","policies":[]}') == ()
    (session,) = parse(b'{"d":"a.example","d":"b.example","policies":[{"f":1,"f":0}]}')
    assert (session.recipient_domain, session.seen) == ("b.example", Seen.SUCCESS)


def test_bytes_that_are_no_utf8_are_replaced_and_the_event_is_not_lost() -> None:
    octets = datagram(policy(1, {**DETAIL, "h": "250-mx1 caf?", "f": "gr?n", "n": "mx?.example"}))
    (session,) = parse(octets.replace(b"?", b"\xe9"))
    assert (session.receiving_mx_helo, session.failure_reason_code) == ("mx1", "gr\ufffdn")
    assert session.receiving_mx_hostname is None
    (session,) = parse(datagram(policy(0, policy_string=["mx: ?"])).replace(b"?", b"\xc3\x28"))
    assert session.policy_strings == ("mx: \ufffd(",)


def test_rfc8460_4_4_names_are_a_labels() -> None:
    detail = {**DETAIL, "n": "MX.Bücher.Example."}
    for given_name in ("BÜCHER.Example", "xn--bcher-kva.EXAMPLE", "bücher.example."):
        (session,) = parse(datagram(policy(1, detail, policy_domain=given_name), d=given_name))
        assert session.recipient_domain == session.policy_domain == "xn--bcher-kva.example"
        assert session.receiving_mx_hostname == "mx.xn--bcher-kva.example"
        assert isinstance(session.policy_domain, Domain)


def test_policy_domain_that_is_no_name_or_missing_is_unknown() -> None:
    assert one(final=0, policy_domain="a b").policy_domain is None
    assert one(final=0, policy_domain=None).policy_domain is None
    assert one(final=0, policy_domain=["example.com"]).policy_domain is None


@pytest.mark.parametrize(
    ("reply", "name"),
    [
        (EHLO, "mx1.example.com"),
        ("250 mx1.example.com", "mx1.example.com"),
        ("250-mx1.example.com\r\n250 SIZE", "mx1.example.com"),
        ("250-mx1.example.com\n250 SIZE", "mx1.example.com"),
        ("mx1.example.com Hello", "mx1.example.com"),  # another MTA may take the code off
        ("250-  mx1.example.com", "mx1.example.com"),
        ("250-[192.0.2.1] hi", "[192.0.2.1]"),
        ("250mx.example.com", "250mx.example.com"),
        ("2500.example.com", "2500.example.com"),
        ("250-MX1.Example.COM", "MX1.Example.COM"),
        ("250-\x1b[2Jmx", "\ufffd[2Jmx"),
        ("250-\ud800", "\ufffd"),
        ("250-\r\n250 SIZE", ""),  # no name: not the first extension
        ("250\r\n250 SIZE", ""),
        ("\r\n250 SIZE", ""),
        ("250-", ""),
        ("250", ""),
        ("", ""),
        (None, ""),
        (250, ""),
        ("250-" + "x" * 100_000, "x" * MAX_HELO_LENGTH),
    ],
)
def test_rfc8460_4_4_receiving_mx_helo_is_the_name_alone(reply: object, name: str) -> None:
    assert one({**DETAIL, "h": reply}).receiving_mx_helo == name


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("255.255.255.255", "255.255.255.255"),
        ("2001:0DB8::0001", "2001:db8::1"),  # RFC 5952 §4
        ("::ffff:192.0.2.1", "192.0.2.1"),  # how an IPv6 socket sees an IPv4 peer
        ("::FFFF:c000:201", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("256.0.0.1", ""),
        ("192.0.2.01", ""),
        ("192.0.2.1\n", ""),
        ("٣.0.0.1", ""),
        ("[2001:db8::1]", ""),
        ("mx1.example.com", ""),
        ("", ""),
        (None, ""),
        (3221225985, ""),
    ],
)
def test_rfc8460_4_4_addresses(text: object, address: str) -> None:
    session = one({**DETAIL, "s": text, "r": text})
    assert (session.sending_mta_ip, session.receiving_ip) == (address, address)


@given(st.ip_addresses().map(str))
def test_every_address_is_read_in_the_form_that_reports_have(text: str) -> None:
    found = one({**DETAIL, "s": text, "r": text.upper()})
    assert found.sending_mta_ip == found.receiving_ip
    address = ip_address(text)
    assert ip_address(found.receiving_ip) in {address, getattr(address, "ipv4_mapped", None)}


@pytest.mark.parametrize(("key", "field"), [("f", "failure_reason_code"), ("a", "additional_information")])
def test_texts_are_printable_text_or_nothing(key: str, field: str) -> None:
    for value, shown in (("ok é", "ok é"), ("a\x00b\n\u202ec", "a\ufffdb\ufffd\ufffdc"), (None, ""), (5, ""), ({}, "")):
        assert getattr(one({**DETAIL, key: value}), field) == shown


def test_everything_is_bounded() -> None:
    long = "x" * 5000
    session = one({**DETAIL, "f": long, "a": long}, policy_string=[long] * (MAX_POLICY_STRINGS // 40))
    assert len(session.failure_reason_code) == MAX_REASON_LENGTH
    assert len(session.additional_information) == MAX_INFORMATION_LENGTH
    assert {len(text) for text in session.policy_strings} == {MAX_POLICY_STRING_LENGTH}
    assert len(one({**DETAIL, "c": 999, "f": long}).failure_reason_code) == MAX_REASON_LENGTH
    assert len(one(policy_string=["x"] * (MAX_POLICY_STRINGS + 1)).policy_strings) == MAX_POLICY_STRINGS
    assert len(one(*[DETAIL] * (MAX_DETAILS + 1)).further_details) == MAX_DETAILS - 1
    assert len(parse(datagram(*[policy()] * MAX_POLICIES))) == MAX_POLICIES


def test_policy_strings_keep_order_and_leave_out_what_is_no_text() -> None:
    assert one(policy_string=["b", 1, "a\tc", None, ["d"], "b"]).policy_strings == ("b", "a\ufffdc", "b")
    assert one(policy_string="version: STSv1").policy_strings == ()
    assert one(policy_string=[]).policy_strings == ()
    assert one(policy_string=[7]).policy_strings == ()


@pytest.mark.parametrize(
    ("octets", "message"),
    [
        (b"", "not JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"{", "not JSON: "),
        (b"\xef\xbb\xbf{}", "not JSON: "),
        (b'{"d":' + b"9" * 5000 + b"}", "not JSON: Exceeds the limit"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"d":"a.example","policies":' + b'[{"":' * 40_000, "nested too deeply"),
        (b" " * (MAX_DATAGRAM_BYTES + 1), f"{MAX_DATAGRAM_BYTES + 1} bytes, more than {MAX_DATAGRAM_BYTES}"),
        (b"[1]", "no JSON object: a list"),
        (b"null", "no JSON object: missing"),
        (b'"\\ud800\\u001b"', r"no JSON object: '\ud800\x1b'"),
        (datagram(dpv="2"), "version (dpv) '2', and only '1' is known"),
        (datagram(dpv=1), "version (dpv) 1, and only '1' is known"),
        (datagram(d=None), "the domain (d) is missing"),
        (datagram(d=["example.com"]), "the domain (d) is a list"),
        (datagram(d=1.5), "the domain (d) is 1.5"),
        (datagram(d=""), "the domain (d) '': the name is empty"),
        (datagram(d="[192.0.2.1]"), "the domain (d) '[192.0.2.1]': "),
        (datagram(d="192.0.2.1"), "the domain (d) '192.0.2.1': this is an IPv4 address, not a name"),
        (datagram(policies=None), "policies is no list: missing"),
        (datagram(policies={}), "policies is no list: an object"),
        (datagram(*[policy()] * (MAX_POLICIES + 1)), f"{MAX_POLICIES + 1} policies, more than {MAX_POLICIES}"),
        (datagram("x"), "a policy is no object: 'x'"),
        (datagram(policy(None)), "the final result (f) of a policy is missing"),
        (datagram(policy(2)), "the final result (f) of a policy is 2"),
        (datagram(policy(-1)), "the final result (f) of a policy is -1"),
        (datagram(policy(1.0)), "the final result (f) of a policy is 1.0"),
        (datagram(policy("1")), "the final result (f) of a policy is '1'"),
        (datagram(policy(0), policy(2)), "the final result (f) of a policy is 2"),  # all or nothing
        (datagram(policy(1, failure_details={"c": 202})), "failure-details is no list: an object"),
        (datagram(policy(1, 202)), "a failure detail is no object: 202"),
        (datagram(policy(0, DETAIL, "x")), "a failure detail is no object: 'x'"),
    ],
)
def test_refused(octets: bytes, message: str) -> None:
    with pytest.raises(EventInvalid) as caught:
        parse(octets)
    assert str(caught.value).startswith(message)
    assert str(caught.value).isprintable()
    assert not caught.value.temporary


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("cdfnhrstz"), inner, max_size=4),
    max_leaves=12,
)
details = st.fixed_dictionaries({}, optional={key: json_values | st.just(DETAIL.get(key)) for key in "csnhraf"})
policies = st.fixed_dictionaries(
    {"f": st.sampled_from([0, 1])},
    optional={
        **dict.fromkeys(("policy-type", "policy-domain", "policy-string", "mx-host", "t", "x"), json_values),
        "failure-details": st.lists(details, max_size=4),
    },
)


@relaxed
@given(host_names, st.lists(policies, max_size=4))
def test_every_policy_with_a_result_is_a_session(name: str, given_policies: list[dict[str, object]]) -> None:
    sessions = parse(datagram(*given_policies, d=name))
    assert [session.seen is Seen.FAILURE for session in sessions] == [bool(each["f"]) for each in given_policies]
    for session, each in zip(sessions, given_policies, strict=True):
        given_details = each.get("failure-details", [])
        assert isinstance(given_details, list)
        own = session.result_type is not None
        assert own is bool(given_details and each["f"])
        assert len(session.further_details) + own == len(given_details)


@relaxed
@given(json_values | st.fixed_dictionaries({"d": host_names | json_values, "policies": json_values}))
def test_any_json_is_read_or_refused(value: object) -> None:
    with suppress(EventInvalid):  # any other exception fails the test
        assert all(session.at == AT for session in parse(json.dumps(value).encode()))


@relaxed
@given(st.binary())
def test_any_bytes_are_read_or_refused(octets: bytes) -> None:
    with pytest.raises(EventInvalid):  # hypothesis does not find a datagram by chance
        parse(octets)


def test_sessions_are_equal_whatever_differs_in_what_is_not_used() -> None:
    plain = parse(datagram(policy(1, DETAIL)))
    other_reply = {**DETAIL, "h": "250-mx1.example.com hi\r\n250 HELP"}
    assert parse(datagram(policy(1, other_reply), pr="v=TLSRPTv1;rua=mailto:x@example.net", new=[1])) == plain
    assert parse(datagram(policy(1, DETAIL), dpv="1")) == plain
    for other in (
        datagram(policy(1, {**DETAIL, "h": "250-mx2.example.com"})),
        datagram(policy(1, {**DETAIL, "r": "198.51.100.8"})),
        datagram(policy(0, DETAIL)),
        datagram(policy(1, DETAIL), d="example.net"),
    ):
        assert parse(other) != plain
        assert len({*plain, *parse(other)}) == 2  # they serve as keys


@pytest.mark.parametrize("around", [b" %s", b"%s\r\n", b"\t%s "])
def test_white_space_around_a_datagram_is_json(around: bytes) -> None:
    plain = datagram(policy(1, DETAIL))
    assert parse(around % plain) == parse(plain)


@pytest.mark.parametrize("rubbish", [b"", b" ", b"{", b'{"d":}', b"[] []", b"\xff", datagram(policy()) + b"x"])
def test_what_is_not_json_is_refused(rubbish: bytes) -> None:
    with pytest.raises(EventInvalid, match="not JSON"):
        parse(rubbish)
