"""The answers that are read straight from the octets are those that dnspython reads."""

import struct
from collections.abc import Sequence
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stsguard.adapters.resolver.answer import check_rcode, read_response
from stsguard.adapters.resolver.interpreted import parse_response, question_of
from stsguard.adapters.resolver.plain import (
    PlainAnswer,
    PlainFailure,
    is_truncated,
    make_question,
    make_root_question,
    make_wire_query,
    read_plain,
    type_name,
)
from stsguard.adapters.resolver.records import to_address, to_mx, to_tlsa, to_txt, to_wire_name
from stsguard.adapters.resolver.udp import Malformed
from stsguard.core.dane import AnswerStatus, MxRecord, TlsaRecord
from stsguard.core.errors import LookupFailed, LookupReason
from stsguard.names import Domain
from tests.lab.nameserver import respond

NAME = Domain("example.test")
CONVERT: dict[str, Any] = {
    "TXT": to_txt,
    "MX": to_mx,
    "A": to_address,
    "AAAA": to_address,
    "TLSA": to_tlsa,
    "DNSKEY": lambda rdata: rdata.to_wire(),
}
FAILURES = {2: LookupReason.SERVFAIL, 5: LookupReason.REFUSED}
SOA = "test. 300 IN SOA ns.test. hostmaster.test. 1 3600 600 86400 60"
RECORDS = {
    "TXT": ('"v=STSv1; id=1;"', '"a" "b" ""', '"ab"', '""', "\\255\\000"),
    "MX": ("10 mx.test.", "0 .", "65535 MX.other.example.", "5 odd\\032name.test.", "5 192.0.2.1."),
    "A": ("192.0.2.1", "127.0.0.1"),
    "AAAA": ("2001:db8::1", "::ffff:192.0.2.1"),
    "TLSA": ("3 1 1 " + "ab" * 32, "0 0 0 00", "255 255 255 ffff"),
    "DNSKEY": ("257 3 15 AAAA", "256 3 8 AwEAAQ=="),
}
OTHERS = (
    "example.test. 60 IN RRSIG A 8 2 60 20300101000000 20200101000000 1 test. AAAA",
    "other.test. 5 IN A 192.0.2.9",
)


def by_dnspython(wire: bytes, rdtype: str) -> tuple[object, ...] | LookupReason | None:
    """Status, records, TTL and AD, or how it fails; None where dnspython's reading is no answer."""
    name = to_wire_name(NAME, "")
    number = dns.rdatatype.from_text(rdtype)
    try:
        message = parse_response(wire, question_of(name, number))
        if message is None:
            return None
        check_rcode(message, "", "")
        step = read_response(message, name, number, "")
    except LookupFailed as exc:
        return exc.reason
    except Malformed:
        return None
    return step.status, tuple(map(CONVERT[rdtype], step.records)), step.ttl_seconds, step.authentic


def plain(wire: bytes, rdtype: str) -> PlainAnswer | PlainFailure | None:
    question = make_question(NAME, dns.rdatatype.from_text(rdtype))
    assert question is not None
    return read_plain(wire, question)


def response(rdtype: str, answers: Sequence[str], authority: Sequence[str], **how: Any) -> bytes:
    query = dns.message.make_query(NAME, rdtype, use_edns=0, want_dnssec=True)
    return respond(query, *answers, authority=authority, **how)


@st.composite
def responses(draw: st.DrawFn) -> tuple[str, bytes]:
    rdtype = draw(st.sampled_from(sorted(RECORDS)))
    owners = st.sampled_from([f"{NAME}.", "EXAMPLE.test.", "other.test."])
    ttls = st.sampled_from([0, 1, 300, 2**31 - 1])
    lines = st.builds(
        lambda owner, ttl, data: f"{owner} {ttl} IN {rdtype} {data}", owners, ttls, st.sampled_from(RECORDS[rdtype])
    )
    answers = draw(st.lists(lines | st.sampled_from(OTHERS), max_size=5))
    authority = draw(
        st.lists(st.sampled_from([SOA, "example.test. 9 IN NS ns.test.", OTHERS[0]]), max_size=2, unique=True)
    )
    rcode = draw(st.sampled_from([dns.rcode.NOERROR, dns.rcode.NXDOMAIN, dns.rcode.SERVFAIL, dns.rcode.REFUSED]))
    if draw(st.booleans()):
        answers = authority = []
    return rdtype, response(rdtype, answers, authority, rcode=rcode, authentic=draw(st.booleans()))


@settings(deadline=None)  # the machine may be busy
@given(responses(), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=3), st.integers(-3, 3))
def test_what_is_read_the_short_way_is_what_dnspython_reads(
    made: tuple[str, bytes], changes: Sequence[tuple[int, int]], longer: int
) -> None:
    rdtype, wire = made
    changed = bytearray(wire)
    for position, octet in changes:
        if position < len(changed):
            changed[position] = octet
    octets = bytes(changed[:longer]) if longer < 0 else bytes(changed) + b"\0" * longer
    short = plain(octets, rdtype)
    full = by_dnspython(octets, rdtype)
    if isinstance(short, PlainFailure):
        assert full in (None, FAILURES[short.rcode])
    elif short is not None and full is not None:
        assert (short.status, short.records, short.ttl, short.authentic) == full


@settings(deadline=None)  # the machine may be busy
@given(responses())
def test_every_answer_of_hosts_names_alone_is_read_the_short_way(made: tuple[str, bytes]) -> None:
    rdtype, wire = made
    full = by_dnspython(wire, rdtype)
    odd = b"odd name" in wire or b"\x03192\x01" in wire
    if isinstance(full, tuple) and not odd and full[2] != 0:
        assert plain(wire, rdtype) is not None, wire


@pytest.mark.parametrize(
    ("rdtype", "answers", "records"),
    [
        ("TXT", ['example.test. 300 IN TXT "v=STSv1; " "id=1;"'], (b"v=STSv1; id=1;",)),
        ("TXT", ['example.test. 300 IN TXT "a" "b"', 'example.test. 300 IN TXT "ab"'], (b"ab", b"ab")),
        ("TXT", ['example.test. 300 IN TXT "ab"', 'EXAMPLE.test. 300 IN TXT "ab"'], (b"ab",)),
        ("MX", ["example.test. 300 IN MX 0 ."], (MxRecord(0, None),)),
        ("MX", ["example.test. 300 IN MX 5 A.test.", "example.test. 300 IN MX 5 a.test."], (MxRecord(5, "a.test"),)),
        ("TLSA", ["example.test. 300 IN TLSA 3 1 1 " + "ab" * 32], (TlsaRecord(3, 1, 1, b"\xab" * 32),)),
    ],
)
def test_plain_answers(rdtype: str, answers: list[str], records: tuple[object, ...]) -> None:
    wire = response(rdtype, answers, [], authentic=True)
    assert plain(wire, rdtype) == PlainAnswer(AnswerStatus.FOUND, records, 300, True)


def test_rfc2308_5_plain_denial() -> None:
    assert plain(response("A", [], [SOA]), "A") == PlainAnswer(AnswerStatus.NODATA, (), 60, False)
    denied = response("A", [], [SOA], rcode=dns.rcode.NXDOMAIN)
    assert plain(denied, "A") == PlainAnswer(AnswerStatus.NXDOMAIN, (), 60, False)


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED])
def test_failure_that_says_nothing_else_is_read_the_short_way(rcode: dns.rcode.Rcode) -> None:
    wire = response("A", [], [], rcode=rcode)
    assert plain(wire, "A") == PlainFailure(rcode)
    assert by_dnspython(wire, "A") is FAILURES[rcode]
    # RFC 8914: the extended error, which dnspython reads, may say that it is bogus.
    assert plain(response("A", [], [], rcode=rcode, extended_errors=[(6, "bogus")]), "A") is None
    assert plain(wire + b"\0", "A") is None
    assert plain(response("A", [], [], rcode=dns.rcode.NOTIMP), "A") is None


def test_keys_of_the_root_are_read_the_short_way() -> None:
    query = dns.message.make_query(".", "DNSKEY", use_edns=0, want_dnssec=True)
    wire = respond(query, ". 300 IN DNSKEY 257 3 15 AAAA", authentic=True)
    question = make_root_question(dns.rdatatype.DNSKEY)
    assert question.wire == question_of(dns.name.root, dns.rdatatype.DNSKEY).wire
    assert read_plain(wire, question) == PlainAnswer(AnswerStatus.FOUND, (b"\1\1\3\x0f\0\0\0",), 300, True)


@settings(deadline=None)  # as above
@given(responses(), st.booleans(), st.integers(0, 60), st.integers(0, 255))
def test_rfc2181_9_truncation_is_told_as_dnspython_tells_it(
    made: tuple[str, bytes], truncated: bool, position: int, octet: int
) -> None:
    rdtype, wire = made
    changed = bytearray(wire)
    changed[2] |= 2 if truncated else 0
    if position < len(changed):
        changed[position] = octet
    question = make_question(NAME, dns.rdatatype.from_text(rdtype))
    assert question is not None
    if is_truncated(bytes(changed), question):
        assert parse_response(bytes(changed), question) is None
    assert not is_truncated(bytes(changed)[:11], question)


def test_types_are_named_as_dnspython_names_them() -> None:
    assert {type_name(number) for number in range(258)} == {
        name if name in ("A", "CNAME", "SOA", "MX", "TXT", "AAAA", "DNSKEY", "TLSA", "CAA") else f"TYPE{number}"
        for number in range(258)
        for name in (dns.rdatatype.to_text(dns.rdatatype.RdataType.make(number)),)
    }


@pytest.mark.parametrize(
    "how",
    [
        {"truncated": True},
        {"rcode": dns.rcode.SERVFAIL},
        {"extended_errors": [(6, "bogus")]},
        {"rcode": dns.rcode.BADVERS},
    ],
)
def test_what_has_to_be_interpreted_is_left_to_dnspython(how: dict[str, Any]) -> None:
    assert plain(response("A", [], [SOA], **how), "A") is None


def test_alias_and_denial_without_soa_are_left_to_dnspython() -> None:
    assert plain(response("A", ["example.test. 300 IN CNAME other.test.", OTHERS[1]], []), "A") is None
    assert plain(response("A", [], []), "A") is None


def test_query_asks_for_validation() -> None:
    question = make_question(NAME, dns.rdatatype.MX)
    assert question is not None
    query = dns.message.from_wire(make_wire_query(question, (4711).to_bytes(2, "big")))
    made = dns.message.make_query(NAME, "MX", use_edns=0, want_dnssec=True, payload=1232, id=4711)
    made.flags = dns.flags.RD | dns.flags.AD
    assert query == made
    assert (query.id, query.flags, query.ednsflags, query.payload) == (4711, made.flags, made.ednsflags, 1232)


@pytest.mark.parametrize("name", ["a" * 64 + ".test", "a..test", ".".join(["a" * 63] * 4)])
def test_name_that_the_dns_cannot_carry(name: str) -> None:
    assert make_question(Domain(name), 1) is None


def test_pointer_loop_is_left_alone() -> None:
    wire = bytearray(response("MX", ["example.test. 300 IN MX 10 mx.other.example."], []))
    position = wire.index(b"\x02mx\x05other")
    wire[position : position + 2] = struct.pack("!H", 0xC000 | position)
    assert plain(bytes(wire), "MX") is None
