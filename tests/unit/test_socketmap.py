"""Socketmap requests, keys and the text of replies; keys as facts of real Postfix versions show them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stsguard.core.errors import RequestInvalid
from stsguard.core.mtasts import Mode, MxPattern, Policy, parse_policy
from stsguard.core.socketmap import (
    MAX_REPLY_BYTES,
    Dialect,
    KeyKind,
    NextHop,
    Request,
    UnknownMap,
    parse_next_hop,
    parse_request,
    render_reply,
)
from stsguard.core.tlspolicy import NO_PERMITTED_HOST, Decision, Reply, Row
from stsguard.names import Domain

EXAMPLE = Domain("example.com")
MX = (Domain("mx1.example.com"), Domain("mx2.example.com"))
POLICY = parse_policy(b"version: STSv1\nmode: enforce\nmx: *.example.com\nmax_age: 86400\n")


@pytest.mark.parametrize(
    ("name", "dialect"),
    [
        (b"policy", Dialect.POLICY),
        (b"postfix", Dialect.POLICY),  # the name in postfix-mta-sts-resolver's documentation
        (b"QUERY", Dialect.POLICY),  # postfix-tlspol
        (b"policy-tlsrpt", Dialect.POLICY_TLSRPT),
        (b"QUERYwithTLSRPT", Dialect.POLICY_TLSRPT),  # postfix-tlspol
    ],
)
def test_map_names(name: bytes, dialect: Dialect) -> None:
    assert parse_request(name + b" example.com") == Request(dialect, b"example.com")


def test_unknown_map_is_told_apart_from_rubbish() -> None:
    with pytest.raises(UnknownMap, match="policy-tlsrpt"):
        parse_request(b"Policy example.com")
    for payload in (b"", b"policy", b"policy "):
        with pytest.raises(RequestInvalid) as raised:
            parse_request(payload)
        assert not isinstance(raised.value, UnknownMap)


KEYS = [
    ("example.com", KeyKind.DOMAIN, "example.com", 25),
    ("EXAMPLE.Com", KeyKind.DOMAIN, "example.com", 25),  # Postfix does not fold
    ("example.com.", KeyKind.DOMAIN, "example.com", 25),
    ("bücher.example", KeyKind.DOMAIN, "xn--bcher-kva.example", 25),  # nor convert
    ("xn--bcher-kva.example", KeyKind.DOMAIN, "xn--bcher-kva.example", 25),
    ("example.com:587", KeyKind.DOMAIN, "example.com", 587),
    ("example.com:submission", KeyKind.DOMAIN, "example.com", 587),
    ("example.com:0", KeyKind.INVALID, None, 25),
    ("example.com:65536", KeyKind.INVALID, None, 25),
    ("example.com:x", KeyKind.INVALID, None, 25),
    (".example.com", KeyKind.PARENT, None, 25),
    (".", KeyKind.PARENT, None, 25),
    ("[mx.example.com]", KeyKind.BRACKETED, "mx.example.com", 25),
    ("[mx.example.com]:2525", KeyKind.BRACKETED, "mx.example.com", 2525),
    ("[MX.example.com.]:smtp", KeyKind.BRACKETED, "mx.example.com", 25),
    ("[mx.example.com", KeyKind.INVALID, None, 25),
    ("[mx.example.com]x", KeyKind.INVALID, None, 25),
    ("[mx.example.com]:", KeyKind.INVALID, None, 25),
    ("[-]", KeyKind.INVALID, None, 25),
    ("192.0.2.1", KeyKind.ADDRESS, None, 25),
    ("192.0.2.1:25", KeyKind.ADDRESS, None, 25),
    ("[192.0.2.1]", KeyKind.ADDRESS, None, 25),
    ("[192.0.2.1]:26", KeyKind.ADDRESS, None, 26),
    ("[IPv6:2001:db8::1]", KeyKind.ADDRESS, None, 25),
    ("[ipv6:2001:db8::1]:25", KeyKind.ADDRESS, None, 25),
    ("2001:db8::1", KeyKind.ADDRESS, None, 25),
    ("[IPv6:192.0.2.1]", KeyKind.INVALID, None, 25),  # IPv6 it is not
    ("not a host!", KeyKind.INVALID, None, 25),
    ("a..b", KeyKind.INVALID, None, 25),
    ("{ x=y }", KeyKind.INVALID, None, 25),
]


@pytest.mark.parametrize(("key", "kind", "host", "port"), KEYS)
def test_keys(key: str, kind: KeyKind, host: str | None, port: int) -> None:
    assert parse_next_hop(key.encode()) == NextHop(kind, Domain(host) if host else None, port)


def test_key_that_is_no_utf_8() -> None:
    assert parse_next_hop(b"b\xfccher.example").kind is KeyKind.INVALID


@given(st.binary(max_size=80))
def test_any_key_is_taken_apart(key: bytes) -> None:
    found = parse_next_hop(key)
    assert (found.host is None) is (found.kind not in (KeyKind.DOMAIN, KeyKind.BRACKETED))
    assert 0 < found.port < 65536


def decision(reply: Reply, **more: object) -> Decision:
    return Decision(reply, Row.NO_TLSA_ENFORCE, "a reason", **more)  # type: ignore[arg-type]  # a test's shorthand


def secure(policy: Policy | None = POLICY) -> Decision:
    return decision(Reply.SECURE, match_names=MX, mx_host_patterns=MX, policy=policy)


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize(
    ("made", "reply"),
    [
        (decision(Reply.NOTFOUND), b"NOTFOUND "),
        (decision(Reply.TEMP), b"TEMP a reason"),
        (decision(Reply.DANE), b"OK dane"),  # never an sts attribute: Postfix reports DANE by itself
        (decision(Reply.DANE_ONLY), b"OK dane-only"),
        (decision(Reply.VERBATIM, verbatim="may ciphers=high"), b"OK may ciphers=high"),
    ],
)
def test_short_replies_are_the_same_in_both_dialects(made: Decision, reply: bytes, dialect: Dialect) -> None:
    assert render_reply(made, dialect, EXAMPLE) == reply


def test_rfc8461_7_1_secure_asks_for_sni_and_names_the_hosts_exactly() -> None:
    expected = b"OK secure match=mx1.example.com:mx2.example.com servername=hostname"
    assert render_reply(secure(), Dialect.POLICY, EXAMPLE) == expected


def test_policy_tlsrpt_adds_what_the_report_needs() -> None:
    assert render_reply(secure(), Dialect.POLICY_TLSRPT, EXAMPLE) == (
        b"OK secure match=mx1.example.com:mx2.example.com servername=hostname"
        b" policy_type=sts policy_domain=example.com"
        b" mx_host_pattern=mx1.example.com mx_host_pattern=mx2.example.com"
        b" { policy_string = version: STSv1 } { policy_string = mode: enforce }"
        b" { policy_string = mx: *.example.com } { policy_string = max_age: 86400 }"
    )


def test_policy_type_never_goes_without_a_policy() -> None:
    assert b"policy_type" not in render_reply(secure(None), Dialect.POLICY_TLSRPT, EXAMPLE)


@pytest.mark.parametrize(
    "line",
    ["comment: a } policy_type=none {", "comment: {", "comment: }", "comment: }{", "comment: {nested}"],
)
def test_no_text_of_a_policy_can_add_an_attribute(line: str) -> None:
    policy = parse_policy(f"version: STSv1\nmode: enforce\nmx: *.example.com\nmax_age: 60\n{line}\n".encode())
    reply = render_reply(secure(policy), Dialect.POLICY_TLSRPT, EXAMPLE)
    assert b"comment" not in reply
    assert reply.count(b"{") == reply.count(b"}") == 4


def test_policy_lines_keep_their_text_but_not_their_ends() -> None:
    policy = parse_policy("version: STSv1 \r\nmode: enforce\r\nmx: *.example.com\r\nmax_age: 60\r\nx: né\r\n".encode())
    reply = render_reply(secure(policy), Dialect.POLICY_TLSRPT, EXAMPLE)
    assert b"{ policy_string = version: STSv1 }" in reply
    assert "{ policy_string = x: né }".encode() in reply


def test_blank_lines_are_no_policy_string() -> None:
    policy = parse_policy(b"version: STSv1\n\nmode: enforce\nmx: *.example.com\nmax_age: 60\n")
    assert render_reply(secure(policy), Dialect.POLICY_TLSRPT, EXAMPLE).count(b"policy_string") == 4


def test_a_reply_too_long_keeps_version_and_mode() -> None:
    lines = [f"mx: mx{number}.{'x' * 60}.example.com" for number in range(1100)]
    policy = parse_policy("\n".join(["version: STSv1", "mode: enforce", *lines, "max_age: 60"]).encode())
    reply = render_reply(secure(policy), Dialect.POLICY_TLSRPT, EXAMPLE)
    assert len(reply) <= MAX_REPLY_BYTES
    assert reply.endswith(b"{ policy_string = version: STSv1 } { policy_string = mode: enforce }")


def test_the_longest_mx_set_fits() -> None:
    names = tuple(Domain(f"{'x' * 60}.{'y' * 60}.{'z' * 60}.mx{number}.example.com") for number in range(50))
    made = decision(Reply.SECURE, match_names=names, mx_host_patterns=names, policy=POLICY)
    assert len(render_reply(made, Dialect.POLICY_TLSRPT, EXAMPLE)) <= MAX_REPLY_BYTES


def test_nothing_permitted_stands_in_both() -> None:
    none = (NO_PERMITTED_HOST,)
    reply = render_reply(
        decision(Reply.SECURE, match_names=none, mx_host_patterns=none, policy=POLICY), Dialect.POLICY_TLSRPT, EXAMPLE
    )
    assert b"match=no-permitted-mx-host.invalid " in reply
    assert b"mx_host_pattern=no-permitted-mx-host.invalid " in reply


@given(st.text(min_size=1, max_size=40))
def test_verbatim_and_reasons_stay_one_ascii_line(text: str) -> None:
    reply = render_reply(Decision(Reply.TEMP, Row.NO_MX_LEFT, text), Dialect.POLICY, EXAMPLE)
    assert reply.isascii()
    assert b"\n" not in reply


def test_pinned_mx_gives_a_policy_with_its_own_lines() -> None:
    pinned = Policy(
        Mode.ENFORCE, 0, (MxPattern(EXAMPLE, False),), ("version: STSv1", "mode: enforce", "mx: example.com")
    )
    assert b"{ policy_string = mx: example.com }" in render_reply(secure(pinned), Dialect.POLICY_TLSRPT, EXAMPLE)


def test_equal_policy_lines_are_all_kept_until_the_reply_is_too_long() -> None:
    policy = parse_policy(b"version: STSv1\nmode: enforce\nmx: *.example.com\nmx: *.example.com\nmax_age: 60\n")
    assert render_reply(secure(policy), Dialect.POLICY_TLSRPT, EXAMPLE).count(b"mx: *.example.com") == 2
    policy = parse_policy(b"version: STSv1\nmode: enforce\nmx: *.example.com\nmax_age: 60\n" + b"mode: none\n" * 5000)
    reply = render_reply(secure(policy), Dialect.POLICY_TLSRPT, EXAMPLE)
    assert len(reply) <= MAX_REPLY_BYTES
    assert b"{ policy_string = mode: enforce }" in reply


@given(
    st.from_regex(r"[a-z0-9:.\[_-]{1,30}", fullmatch=True) | st.sampled_from(["192.0.2.1", "a.b", "ipv6:a.b", "a.1"])
)
def test_plain_names_are_read_faster_and_alike(text: str) -> None:
    fast = parse_next_hop(text.encode())
    if Domain.if_canonical(text) is not None:
        # With a port, or in capitals, it takes the longer way.
        assert fast == parse_next_hop(text.upper().encode())
        assert fast == parse_next_hop(f"{text}:25".encode())
