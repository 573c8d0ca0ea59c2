"""The resolver's answers, from a nameserver on loopback that does what each test says."""

import asyncio
import itertools
from collections.abc import Sequence
from ipaddress import ip_address

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import pytest

from stsguard.adapters.resolver import DnsResolver
from stsguard.core.dane import Answer, AnswerStatus, MxRecord, TlsaRecord
from stsguard.core.errors import LookupReason
from stsguard.names import Domain
from tests.lab.nameserver import Handler, Nameserver, respond, zone
from tests.lab.resolving import NAME, ask, failure, lookup_mx

SOA = "test. 300 IN SOA ns.test. hostmaster.test. 1 3600 600 86400 60"


# Records


async def test_rfc8461_3_1_strings_of_a_txt_record_are_joined_without_blanks() -> None:
    handler = zone('_mta-sts.example.test. 300 IN TXT "v=STSv1; " "id=1;"', '_mta-sts.example.test. 300 IN TXT "other"')
    answer = await ask(handler, lambda resolver: resolver.lookup_txt(Domain("_mta-sts.example.test")))
    assert answer.status is AnswerStatus.FOUND
    assert set(answer.records) == {b"v=STSv1; id=1;", b"other"}
    assert answer.canonical_name == "_mta-sts.example.test"
    assert answer.ttl == 300


async def test_mx_records_keep_preference_and_canonical_name() -> None:
    handler = zone("example.test. 300 IN MX 10 MX1.Example.Test.", "example.test. 300 IN MX 20 mx2.example.test.")
    answer = await ask(handler, lookup_mx)
    assert set(answer.records) == {MxRecord(10, Domain("mx1.example.test")), MxRecord(20, Domain("mx2.example.test"))}


@pytest.mark.parametrize(
    "target",
    [
        ".",  # RFC 7505 §3: null MX
        "192.0.2.1.",
        "mx\\.1.example.test.",  # a dot within a label
        "m\\195\\188x.example.test.",  # a U-label in UTF-8
        "*.example.test.",
        "mx1\\032mx2.example.test.",
    ],
)
async def test_mx_target_that_is_no_host_name_is_none(target: str) -> None:
    answer = await ask(zone(f"example.test. 300 IN MX 0 {target}"), lookup_mx)
    assert answer.records == (MxRecord(0, None),)


async def test_addresses_are_asked_for_in_both_families() -> None:
    handler = zone("example.test. 300 IN A 192.0.2.1", "example.test. 60 IN AAAA 2001:db8::1", authentic=True)
    answer = await ask(handler, lambda resolver: resolver.lookup_addresses(NAME))
    assert answer == Answer(
        AnswerStatus.FOUND, (ip_address("192.0.2.1"), ip_address("2001:db8::1")), NAME, ttl=60, secure=True
    )


async def test_tlsa_records() -> None:
    name = Domain("_25._tcp.mx.example.test")
    handler = zone(f"{name}. 300 IN TLSA 3 1 1 {'ab' * 32}", authentic=True)
    answer = await ask(handler, lambda resolver: resolver.lookup_tlsa(name))
    assert answer.records == (TlsaRecord(3, 1, 1, b"\xab" * 32),)
    assert answer.secure


async def test_repeated_records_count_once() -> None:
    def handler(query: dns.message.Message, _over_tcp: bool) -> Sequence[bytes]:
        line = "example.test. 300 IN MX 10 mx.example.test."
        return [respond(query, line, line)]

    answer = await ask(handler, lookup_mx)
    assert answer.records == (MxRecord(10, Domain("mx.example.test")),)


async def test_rfc2181_8_ttl_with_the_top_bit_set_is_zero() -> None:
    answer = await ask(zone("example.test. 4294967295 IN MX 1 mx.test."), lookup_mx)
    assert answer.ttl == 0


# The query


async def test_query_asks_for_recursion_and_validation() -> None:
    async with Nameserver(zone("example.test. 300 IN MX 1 mx.test.")) as nameserver:
        await DnsResolver([nameserver.address]).lookup_mx(NAME)
        query = nameserver.queries[0]
    assert query.flags & dns.flags.RD
    assert query.flags & dns.flags.AD
    assert not query.flags & dns.flags.CD
    assert query.ednsflags & dns.flags.DO
    assert query.payload == 1232
    assert query.question[0].name == dns.name.from_text("example.test.")


async def test_rfc5452_9_2_every_query_has_an_id_of_its_own() -> None:
    async with Nameserver(zone("example.test. 300 IN MX 1 mx.test.")) as nameserver:
        resolver = DnsResolver([nameserver.address])
        for _ in range(8):
            await resolver.lookup_mx(NAME)
        assert len({query.id for query in nameserver.queries}) > 1


async def test_name_is_never_completed_from_a_search_list() -> None:
    async with Nameserver(zone()) as nameserver:
        await DnsResolver([nameserver.address]).lookup_mx(Domain("mailhost"))
        assert [query.question[0].name.to_text() for query in nameserver.queries] == ["mailhost."]


# Secure or not


@pytest.mark.parametrize(("authentic", "trust_ad"), [(True, True), (True, False), (False, True), (False, False)])
async def test_secure_needs_ad_and_trust_in_it(authentic: bool, trust_ad: bool) -> None:
    handler = zone("example.test. 300 IN MX 1 mx.test.", authentic=authentic)
    answer = await ask(handler, lookup_mx, trust_ad=trust_ad)
    assert answer.secure is (authentic and trust_ad)


async def test_trust_may_be_given_later() -> None:
    async with Nameserver(zone("example.test. 300 IN MX 1 mx.test.", authentic=True)) as nameserver:
        resolver = DnsResolver([nameserver.address])
        assert not (await resolver.lookup_mx(NAME)).secure
        resolver.trust_ad = True
        assert (await resolver.lookup_mx(NAME)).secure


@pytest.mark.parametrize(("cname_authentic", "secure"), [(True, True), (False, False)])
async def test_rfc7672_2_1_3_cname_record_itself_is_judged(cname_authentic: bool, secure: bool) -> None:
    def handler(query: dns.message.Message, _over_tcp: bool) -> Sequence[bytes]:
        assert query.question[0].rdtype == dns.rdatatype.CNAME
        return [respond(query, "example.test. 300 IN CNAME far.other.test.", authentic=cname_authentic)]

    assert await ask(handler, lambda resolver: resolver.lookup_cname_secure(NAME)) is secure


async def test_rfc7672_2_1_3_failed_look_up_of_the_cname_fails() -> None:
    def handler(query: dns.message.Message, _over_tcp: bool) -> Sequence[bytes]:
        return [respond(query, rcode=dns.rcode.SERVFAIL)]

    assert (await failure(handler, lambda resolver: resolver.lookup_cname_secure(NAME))).reason is LookupReason.SERVFAIL


# CNAMEs


async def test_cname_chain_in_one_answer() -> None:
    handler = zone(
        "example.test. 300 IN CNAME a.test.",
        "a.test. 40 IN CNAME b.test.",
        "b.test. 600 IN MX 1 mx.test.",
        authentic=True,
    )
    answer = await ask(handler, lookup_mx)
    assert answer == Answer(
        AnswerStatus.FOUND, (MxRecord(1, Domain("mx.test")),), Domain("b.test"), ttl=40, secure=True
    )


@pytest.mark.parametrize("insecure", [None, "example.test.", "a.test.", "b.test."])
async def test_rfc7672_2_1_3_alias_is_followed_and_one_insecure_step_makes_all_insecure(insecure: str | None) -> None:
    records = {
        "example.test.": "example.test. 300 IN CNAME A.test.",
        "a.test.": "A.TEST. 200 IN CNAME b.test.",
        "b.test.": "b.test. 250 IN MX 1 mx.test.",
    }

    def handler(query: dns.message.Message, _over_tcp: bool) -> Sequence[bytes]:
        owner = query.question[0].name.to_text().lower()
        return [respond(query, records[owner], authentic=owner != insecure)]

    answer = await ask(handler, lookup_mx)
    assert answer.records == (MxRecord(1, Domain("mx.test")),)
    assert answer.canonical_name == "b.test"
    assert answer.ttl == 200
    assert answer.secure is (insecure is None)


async def test_rfc7672_2_1_3_failure_at_any_alias_fails_the_look_up() -> None:
    def handler(query: dns.message.Message, _over_tcp: bool) -> Sequence[bytes]:
        if query.question[0].name.to_text() == "example.test.":
            return [respond(query, "example.test. 300 IN CNAME far.test.")]
        return [respond(query, rcode=dns.rcode.SERVFAIL)]

    assert (await failure(handler)).reason is LookupReason.SERVFAIL


@pytest.mark.parametrize(
    "records",
    [
        ["example.test. 300 IN CNAME example.test."],
        ["example.test. 300 IN CNAME a.test.", "a.test. 300 IN CNAME example.test."],
        ["example.test. 300 IN CNAME a.test.", "a.test. 300 IN CNAME b.test.", "b.test. 300 IN CNAME A.test."],
        [
            f"{owner}.test. 300 IN CNAME n{i}.test."
            for i, owner in enumerate(["example", *(f"n{i}" for i in range(17))])
        ],
    ],
)
@pytest.mark.parametrize("together", [True, False])
async def test_cname_loop_ends(records: list[str], together: bool) -> None:
    def handler(query: dns.message.Message, _over_tcp: bool) -> Sequence[bytes]:
        owner = query.question[0].name.to_text().lower()
        return [respond(query, *(r for r in records if together or r.split()[0].lower() == owner))]

    assert (await failure(handler)).reason is LookupReason.CNAME_LOOP


async def test_sixteen_aliases_are_followed() -> None:
    owners = ["example", *(f"n{i}" for i in range(16))]
    records = [f"{owner}.test. 300 IN CNAME {target}.test." for owner, target in itertools.pairwise(owners)]
    answer = await ask(zone(*records, "n15.test. 300 IN MX 1 mx.test."), lookup_mx)
    assert answer.canonical_name == "n15.test"


async def test_rfc2181_10_1_two_cnames_at_one_name_fail() -> None:
    def handler(query: dns.message.Message, _over_tcp: bool) -> Sequence[bytes]:
        cnames = ["example.test. 300 IN CNAME a.test.", "example.test. 300 IN CNAME b.test."]
        return [respond(query, *cnames, "b.test. 300 IN MX 1 mx.test.")]

    assert (await failure(handler)).reason is LookupReason.MALFORMED


@pytest.mark.parametrize("target", [".", "with\\032blank.test."])
async def test_alias_to_what_is_no_host_name_fails(target: str) -> None:
    def handler(query: dns.message.Message, _over_tcp: bool) -> Sequence[bytes]:
        return [respond(query, f"example.test. 300 IN CNAME {target}", f"{target} 300 IN MX 1 mx.test.")]

    assert (await failure(handler)).reason is LookupReason.MALFORMED


async def test_dname_is_served_by_the_cname_that_comes_with_it() -> None:
    def handler(query: dns.message.Message, _over_tcp: bool) -> Sequence[bytes]:
        dname = "old.test. 300 IN DNAME new.test."
        return [respond(query, dname, "mx.old.test. 0 IN CNAME mx.new.test.", "mx.new.test. 300 IN A 192.0.2.1")]

    answer = await ask(handler, lambda resolver: resolver.lookup_addresses(Domain("mx.old.test")))
    assert answer.canonical_name == "mx.new.test"


# Denials


@pytest.mark.parametrize(
    ("records", "status"),
    [([], AnswerStatus.NXDOMAIN), (["example.test. 300 IN A 192.0.2.1"], AnswerStatus.NODATA)],
)
async def test_denial_is_an_answer(records: list[str], status: AnswerStatus) -> None:
    answer = await ask(zone(*records, authentic=True), lookup_mx)
    assert answer == Answer(status, (), NAME, ttl=60, secure=True)


@pytest.mark.parametrize(("ttl", "minimum", "expected"), [(300, 60, 60), (30, 3600, 30), (0, 60, 0)])
@pytest.mark.parametrize("rcode", [dns.rcode.NOERROR, dns.rcode.NXDOMAIN])
async def test_rfc2308_5_negative_ttl_is_the_lesser_of_soa_ttl_and_minimum(
    ttl: int, minimum: int, expected: int, rcode: dns.rcode.Rcode
) -> None:
    def handler(query: dns.message.Message, _over_tcp: bool) -> Sequence[bytes]:
        soa = f"test. {ttl} IN SOA ns.test. hostmaster.test. 1 3600 600 86400 {minimum}"
        return [respond(query, authority=[soa], rcode=rcode)]

    assert (await ask(handler, lookup_mx)).ttl == expected


@pytest.mark.parametrize("rcode", [dns.rcode.NOERROR, dns.rcode.NXDOMAIN])
@pytest.mark.parametrize("authority", [[], [SOA.replace("test.", "elsewhere.", 1)]])
async def test_rfc2308_5_denial_without_soa_has_no_ttl(rcode: dns.rcode.Rcode, authority: list[str]) -> None:
    def handler(query: dns.message.Message, _over_tcp: bool) -> Sequence[bytes]:
        return [respond(query, rcode=rcode, authority=authority)]

    answer = await ask(handler, lookup_mx)
    assert answer.status is (AnswerStatus.NXDOMAIN if rcode else AnswerStatus.NODATA)
    assert answer.ttl == 0


@pytest.mark.parametrize(("rcode", "status"), [(0, AnswerStatus.NODATA), (3, AnswerStatus.NXDOMAIN)])
async def test_rfc2308_2_1_denial_at_the_end_of_a_chain(rcode: int, status: AnswerStatus) -> None:
    def handler(query: dns.message.Message, _over_tcp: bool) -> Sequence[bytes]:
        alias = "example.test. 30 IN CNAME gone.test."
        return [respond(query, alias, authority=[SOA], rcode=dns.rcode.Rcode(rcode))]

    answer = await ask(handler, lookup_mx)
    assert answer.status is status
    assert answer.canonical_name == "gone.test"
    assert answer.ttl == 30


async def test_rfc2308_2_2_referral_is_no_denial() -> None:
    def handler(query: dns.message.Message, _over_tcp: bool) -> Sequence[bytes]:
        return [respond(query, authority=["test. 300 IN NS ns.elsewhere.test."])]

    assert (await failure(handler)).reason is LookupReason.MALFORMED


async def test_answer_to_something_else_is_no_denial() -> None:
    def handler(query: dns.message.Message, _over_tcp: bool) -> Sequence[bytes]:
        return [respond(query, "other.test. 300 IN MX 1 mx.test.")]

    assert (await failure(handler)).reason is LookupReason.MALFORMED


async def test_nxdomain_with_records_contradicts_itself() -> None:
    def handler(query: dns.message.Message, _over_tcp: bool) -> Sequence[bytes]:
        return [respond(query, "example.test. 300 IN MX 1 mx.test.", rcode=dns.rcode.NXDOMAIN)]

    assert (await failure(handler)).reason is LookupReason.MALFORMED


# Addresses


def by_type(**handlers: Handler) -> Handler:
    def handle(query: dns.message.Message, over_tcp: bool) -> Sequence[bytes]:
        return handlers[dns.rdatatype.to_text(query.question[0].rdtype)](query, over_tcp)

    return handle


def servfail(query: dns.message.Message, _over_tcp: bool) -> Sequence[bytes]:
    return [respond(query, rcode=dns.rcode.SERVFAIL)]


A = zone("example.test. 300 IN A 192.0.2.1", authentic=True)
AAAA = zone("example.test. 300 IN AAAA 2001:db8::1", authentic=True)
INSECURE_AAAA = zone("example.test. 300 IN AAAA 2001:db8::1")
NXDOMAIN = zone(authentic=True)


@pytest.mark.parametrize(
    ("a", "aaaa", "status", "secure"),
    [
        (A, AAAA, AnswerStatus.FOUND, True),
        (A, INSECURE_AAAA, AnswerStatus.FOUND, False),
        (A, A, AnswerStatus.FOUND, True),  # NODATA for AAAA
        (A, NXDOMAIN, AnswerStatus.FOUND, True),
        (AAAA, NXDOMAIN, AnswerStatus.NODATA, True),  # RFC 8020 §2: NODATA says that the name exists
        (NXDOMAIN, NXDOMAIN, AnswerStatus.NXDOMAIN, True),
        (zone(), NXDOMAIN, AnswerStatus.NXDOMAIN, False),
        (servfail, AAAA, AnswerStatus.FOUND, True),
        (A, servfail, AnswerStatus.FOUND, True),  # RFC 7672 §2.2.2: suppressing AAAA must not switch DANE off
        (servfail, INSECURE_AAAA, AnswerStatus.FOUND, False),
        (servfail, NXDOMAIN, None, False),
        (NXDOMAIN, servfail, None, False),
        (AAAA, servfail, None, False),
        (servfail, servfail, None, False),
    ],
)
async def test_address_look_ups_together(a: Handler, aaaa: Handler, status: AnswerStatus | None, secure: bool) -> None:
    handler = by_type(A=a, AAAA=aaaa)
    if status is None:
        exc = await failure(handler, lambda resolver: resolver.lookup_addresses(NAME))
        assert exc.reason is LookupReason.SERVFAIL
        return
    answer = await ask(handler, lambda resolver: resolver.lookup_addresses(NAME))
    assert answer.status is status
    assert answer.secure is secure
    assert bool(answer.records) is (status is AnswerStatus.FOUND)


async def test_ttl_of_addresses_is_not_that_of_the_missing_family() -> None:
    answer = await ask(by_type(A=A, AAAA=A), lambda resolver: resolver.lookup_addresses(NAME))
    assert answer.ttl == 300


PLAIN_A = zone("example.test. 300 IN A 192.0.2.1")


@pytest.mark.parametrize(
    ("a", "asked", "status"),
    [
        (PLAIN_A, ["A"], AnswerStatus.FOUND),
        (A, ["A", "AAAA"], AnswerStatus.FOUND),  # secure: so must be the other
        (zone(), ["A", "AAAA"], AnswerStatus.FOUND),
        (zone("example.test. 9 IN TXT a"), ["A", "AAAA"], AnswerStatus.FOUND),
        (servfail, ["A", "AAAA"], AnswerStatus.FOUND),
        (zone("example.test. 300 IN CNAME b.test.", "b.test. 300 IN A 192.0.2.1"), ["A"], AnswerStatus.FOUND),
    ],
)
async def test_one_family_is_enough_where_it_has_an_insecure_address(
    a: Handler, asked: list[str], status: AnswerStatus
) -> None:
    async with Nameserver(by_type(A=a, AAAA=INSECURE_AAAA)) as nameserver:
        resolver = DnsResolver([nameserver.address], trust_ad=True)
        answer = await resolver.lookup_some_addresses(NAME)
        assert [dns.rdatatype.to_text(query.question[0].rdtype) for query in nameserver.queries] == asked
    assert (answer.status, answer.secure) == (status, False)


async def test_one_family_is_cut_like_both() -> None:
    records = [f"example.test. 300 IN A 192.0.2.{number}" for number in range(30)]
    answer = await ask(zone(*records), lambda resolver: resolver.lookup_some_addresses(NAME))
    assert len(answer.records) == 25


async def test_a_look_up_is_under_way_before_it_is_awaited() -> None:
    asked = asyncio.Event()

    def handler(query: dns.message.Message, over_tcp: bool) -> Sequence[bytes]:
        asked.set()
        return A(query, over_tcp)

    async with Nameserver(handler) as nameserver:
        under_way = DnsResolver([nameserver.address]).lookup_mx(NAME)
        await asyncio.wait_for(asked.wait(), 30)
        await under_way


async def test_a_fault_of_ours_reaches_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("stsguard.adapters.resolver.interpreted.read_response", broken)
    with pytest.raises(ZeroDivisionError):
        await ask(zone("example.test. 300 IN CNAME b.test.", "b.test. 300 IN MX 1 mx.test."), lookup_mx)


async def test_who_waits_is_told_as_soon_as_the_answer_is_there() -> None:
    told: list[object] = []
    async with Nameserver(zone("example.test. 300 IN MX 1 mx.test.")) as nameserver:
        lookup = DnsResolver([nameserver.address]).lookup_mx(NAME)
        lookup.then(told.append)
        while not told:  # noqa: ASYNC110 (it is a call that is waited for)
            await asyncio.sleep(0.001)
        lookup.then(told.append)
        assert told == [await lookup] * 2


async def test_a_look_up_that_nobody_waits_for_tells_nobody() -> None:
    told: list[object] = []
    async with Nameserver(zone("example.test. 300 IN MX 1 mx.test.")) as nameserver:
        resolver = DnsResolver([nameserver.address])
        lookup = resolver.lookup_mx(NAME)
        lookup.then(told.append)
        lookup.cancel()
        await resolver.lookup_mx(NAME)
        with pytest.raises(asyncio.CancelledError):
            await lookup
    assert told == []
