"""The resolver's failures: told from answers, bounded in time and size, tried elsewhere."""

import asyncio
import struct
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import pytest
import uvloop

from stsguard.adapters.resolver import DnsResolver
from stsguard.adapters.resolver.udp import AT_A_TIME
from stsguard.core.dane import Answer, AnswerStatus, MxRecord
from stsguard.core.errors import LookupFailed, LookupReason
from stsguard.names import Domain
from tests.lab.nameserver import Handler, Nameserver, refusing_port, respond, silent_port, zone
from tests.lab.resolving import NAME, ask, failure, lookup_mx

# Failures


@pytest.mark.parametrize(
    ("rcode", "extended_errors", "reason"),
    [
        (dns.rcode.SERVFAIL, [], LookupReason.SERVFAIL),
        (dns.rcode.SERVFAIL, [(22, "no reachable authority")], LookupReason.SERVFAIL),
        (dns.rcode.SERVFAIL, [(5, "")], LookupReason.BOGUS),  # RFC 7672 §2.1.1: indeterminate counts as bogus
        (dns.rcode.SERVFAIL, [(6, "bogus")], LookupReason.BOGUS),
        (dns.rcode.SERVFAIL, [(7, "signature expired")], LookupReason.BOGUS),
        (dns.rcode.SERVFAIL, [(8, "")], LookupReason.BOGUS),
        (dns.rcode.SERVFAIL, [(9, "")], LookupReason.BOGUS),
        (dns.rcode.SERVFAIL, [(22, ""), (10, "")], LookupReason.BOGUS),
        (dns.rcode.SERVFAIL, [(60000, "somebody's own")], LookupReason.SERVFAIL),
        (dns.rcode.REFUSED, [], LookupReason.REFUSED),
        (dns.rcode.REFUSED, [(6, "")], LookupReason.REFUSED),
        (dns.rcode.NOTIMP, [], LookupReason.REFUSED),
        (dns.rcode.FORMERR, [], LookupReason.REFUSED),
        (dns.rcode.YXDOMAIN, [], LookupReason.REFUSED),
        (dns.rcode.BADVERS, [], LookupReason.REFUSED),
    ],
)
async def test_failure_is_told_from_denial(
    rcode: dns.rcode.Rcode, extended_errors: list[tuple[int, str]], reason: LookupReason
) -> None:
    def handler(query: dns.message.Message, _over_tcp: bool) -> Sequence[bytes]:
        # With records, which no failure may turn into an answer.
        answer = "example.test. 300 IN MX 1 mx.test."
        return [respond(query, answer, rcode=rcode, extended_errors=extended_errors, authentic=True)]

    exc = await failure(handler)
    assert exc.reason is reason
    assert str(exc).startswith("example.test MX: ")


async def test_silence_ends_in_time() -> None:
    with silent_port() as address, pytest.raises(LookupFailed) as caught:
        await DnsResolver([address], timeout_seconds=0.2, try_timeout_seconds=0.05).lookup_mx(NAME)
    assert caught.value.reason is LookupReason.TIMEOUT


async def test_closed_port_is_unreachable_at_once() -> None:
    with refusing_port() as address, pytest.raises(LookupFailed) as caught:
        await DnsResolver([address], timeout_seconds=3600, try_timeout_seconds=3600).lookup_mx(NAME)
    assert caught.value.reason is LookupReason.UNREACHABLE


def garbage(query: dns.message.Message) -> list[bytes]:
    good = respond(query, "example.test. 300 IN MX 1 forged.test.")
    wrong_id = struct.pack("!H", query.id ^ 1) + good[2:]
    wrong_question = bytearray(good)
    wrong_question[13] ^= 1
    return [
        b"\0",
        b"\0" * 11,
        b"\xff" * 512,
        wrong_id,
        bytes(wrong_question),
        good[:-3],
        good + b"junk",
        query.to_wire(),  # a query is no response
        struct.pack("!6H", query.id, 0x8180, 1, 0xFFFF, 0, 0) + good[12:],
        struct.pack("!6H", query.id, 0x8180, 0xFFFF, 1, 0, 0) + good[12:],
        struct.pack("!6H", query.id, 0x8180, 0, 1, 0, 0) + good[12:],
    ]


async def test_rfc5452_9_1_garbage_is_passed_over_until_the_true_answer_comes() -> None:
    def handler(query: dns.message.Message, _over_tcp: bool) -> Sequence[bytes]:
        return [*garbage(query), respond(query, "example.test. 300 IN MX 1 true.test.")]

    answer = await ask(handler, lookup_mx)
    assert answer.records == (MxRecord(1, Domain("true.test")),)


async def test_garbage_alone_is_malformed() -> None:
    def sending(index: int) -> Handler:
        return lambda query, over_tcp: [garbage(query)[index]]

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(failure(sending(index), timeout_seconds=3)) for index in range(11)]
    assert [task.result().reason for task in tasks] == [LookupReason.MALFORMED] * 11


@pytest.mark.parametrize("index", range(11))
async def test_garbage_over_tcp_is_malformed(index: int) -> None:
    def handler(query: dns.message.Message, over_tcp: bool) -> Sequence[bytes]:
        return [garbage(query)[index]] if over_tcp else [respond(query, truncated=True)]

    assert (await failure(handler)).reason is LookupReason.MALFORMED


async def test_late_answer_of_the_second_try_is_taken() -> None:
    def handler(query: dns.message.Message, _over_tcp: bool) -> Sequence[bytes]:
        return [respond(query, "example.test. 300 IN MX 1 mx.test.")] if len(nameserver.queries) >= 3 else []

    async with Nameserver(handler) as nameserver:
        resolver = DnsResolver([nameserver.address], timeout_seconds=60, try_timeout_seconds=0.2)
        assert (await resolver.lookup_mx(NAME)).status is AnswerStatus.FOUND
        assert len(nameserver.queries) >= 3


async def test_name_that_the_dns_cannot_carry_fails() -> None:
    name = Domain("a" * 64 + ".test")  # not by Domain.parse, which refuses it
    with refusing_port() as address, pytest.raises(LookupFailed) as caught:
        await DnsResolver([address]).lookup_mx(name)
    assert caught.value.reason is LookupReason.MALFORMED


# TCP


async def test_rfc7766_5_truncated_answer_is_asked_for_over_tcp() -> None:
    records = [f"example.test. 300 IN MX {i} mx{i}.example.test." for i in range(100)]

    def handler(query: dns.message.Message, over_tcp: bool) -> Sequence[bytes]:
        return [respond(query, *records) if over_tcp else respond(query, *records)[:500]]

    def truncating(query: dns.message.Message, over_tcp: bool) -> Sequence[bytes]:
        (wire,) = handler(query, over_tcp)
        if over_tcp:
            return [wire]
        flags = struct.unpack("!H", wire[2:4])[0] | dns.flags.TC
        return [wire[:2] + struct.pack("!H", flags) + wire[4:]]  # cut within a record

    async with Nameserver(truncating) as nameserver:
        answer = await DnsResolver([nameserver.address]).lookup_mx(NAME)
        assert nameserver.tcp_queries == 1
    assert len(answer.records) == 100


async def test_truncated_answer_to_another_question_is_passed_over() -> None:
    def handler(query: dns.message.Message, over_tcp: bool) -> Sequence[bytes]:
        forged = respond(dns.message.make_query("other.test.", "MX", id=query.id), truncated=True)
        return [forged, respond(query, "example.test. 300 IN MX 1 mx.test.")]

    async with Nameserver(handler) as nameserver:
        assert (await DnsResolver([nameserver.address]).lookup_mx(NAME)).records
        assert nameserver.tcp_queries == 0


class Breaking(Nameserver):
    """Ends every TCP connection within the message."""

    async def serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(2)
        writer.write(b"\x01\x00only this")
        await writer.drain()
        writer.close()


async def test_connection_that_ends_early_is_malformed() -> None:
    async with Breaking(lambda query, over_tcp: [respond(query, truncated=True)]) as nameserver:
        with pytest.raises(LookupFailed) as caught:
            await DnsResolver([nameserver.address]).lookup_mx(NAME)
    assert caught.value.reason is LookupReason.MALFORMED


@pytest.mark.parametrize("replies", [0, 1])
async def test_tcp_that_stalls_or_truncates(replies: int) -> None:
    def handler(query: dns.message.Message, over_tcp: bool) -> Sequence[bytes]:
        return [respond(query, truncated=True)] * (replies if over_tcp else 1)

    exc = await failure(handler, timeout_seconds=30 if replies else 0.5)
    assert exc.reason is (LookupReason.MALFORMED if replies else LookupReason.TIMEOUT)


# Several nameservers


async def test_next_nameserver_is_asked_after_a_failure() -> None:
    def refuse(query: dns.message.Message, _over_tcp: bool) -> Sequence[bytes]:
        return [respond(query, rcode=dns.rcode.REFUSED)]

    def fail(query: dns.message.Message, _over_tcp: bool) -> Sequence[bytes]:
        return [respond(query, rcode=dns.rcode.SERVFAIL)]

    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(Nameserver(handler))
            for handler in (refuse, fail, zone("example.test. 300 IN MX 1 mx.test."))
        ]
        silent = stack.enter_context(silent_port())
        addresses = [stack.enter_context(refusing_port()), silent, *(server.address for server in servers)]
        resolver = DnsResolver(addresses, timeout_seconds=60, try_timeout_seconds=0.5)
        assert (await resolver.lookup_mx(NAME)).records == (MxRecord(1, Domain("mx.test")),)
        assert [len(server.queries) for server in servers[:2]] == [1, 1]


async def test_nameserver_that_was_silent_is_asked_last() -> None:
    async with (
        Nameserver(lambda query, over_tcp: []) as silent,
        Nameserver(zone("example.test. 300 IN MX 1 mx.test.")) as nameserver,
    ):
        resolver = DnsResolver([silent.address, nameserver.address], timeout_seconds=60, try_timeout_seconds=2)
        await resolver.lookup_mx(NAME)
        asked = len(silent.queries)
        await resolver.lookup_mx(NAME)
        assert (asked, len(silent.queries)) == (1, 1)


async def test_bogus_is_final() -> None:
    def bogus(query: dns.message.Message, _over_tcp: bool) -> Sequence[bytes]:
        return [respond(query, rcode=dns.rcode.SERVFAIL, extended_errors=[(6, "")])]

    async with Nameserver(bogus) as first, Nameserver(zone("example.test. 300 IN MX 1 mx.test.")) as second:
        with pytest.raises(LookupFailed) as caught:
            await DnsResolver([first.address, second.address]).lookup_mx(NAME)
        assert caught.value.reason is LookupReason.BOGUS
        assert second.queries == []


@pytest.mark.parametrize(
    ("with_cd", "reason"),
    [(dns.rcode.NOERROR, LookupReason.BOGUS), (dns.rcode.SERVFAIL, LookupReason.SERVFAIL)],
)
async def test_rfc4035_3_2_2_tlsa_that_is_withheld_unless_cd_is_set_is_bogus(
    with_cd: dns.rcode.Rcode, reason: LookupReason
) -> None:
    """As Unbound answers by default, without an extended error."""

    def withhold(query: dns.message.Message, _over_tcp: bool) -> Sequence[bytes]:
        return [respond(query, rcode=with_cd if query.flags & dns.flags.CD else dns.rcode.SERVFAIL)]

    assert (await failure(withhold, lambda resolver: resolver.lookup_tlsa(NAME))).reason is reason


async def test_most_telling_failure_is_raised() -> None:
    def fail(query: dns.message.Message, _over_tcp: bool) -> Sequence[bytes]:
        return [respond(query, rcode=dns.rcode.SERVFAIL)]

    async with Nameserver(fail) as nameserver:
        with silent_port() as silent, refusing_port() as refusing:
            addresses = [nameserver.address, silent, refusing]
            resolver = DnsResolver(addresses, timeout_seconds=0.5, try_timeout_seconds=0.1)
            with pytest.raises(LookupFailed) as caught:
                await resolver.lookup_mx(NAME)
    assert caught.value.reason is LookupReason.SERVFAIL


# Bounds


@pytest.mark.parametrize(("count", "accepted"), [(100, True), (101, False)])
@pytest.mark.parametrize("kind", ["MX", "TLSA"])
async def test_record_set_that_is_too_large_fails_and_is_not_cut(count: int, accepted: bool, kind: str) -> None:
    rdata = "{0} mx{0}.test." if kind == "MX" else "3 1 1 {0:064x}"
    handler = zone(*(f"example.test. 300 IN {kind} {rdata.format(i)}" for i in range(count)))

    def lookup(resolver: DnsResolver) -> Awaitable[Answer[Any]]:
        return resolver.lookup_mx(NAME) if kind == "MX" else resolver.lookup_tlsa(NAME)

    if accepted:
        assert len((await ask(handler, lookup)).records) == count
    else:
        assert (await failure(handler, lookup)).reason is LookupReason.MALFORMED


@pytest.mark.parametrize(
    ("texts", "accepted"),
    [
        ([f'"{i}"' for i in range(20)], True),
        ([f'"{i}"' for i in range(21)], False),
        (['"' + '" "'.join(["x" * 255] * 16) + '" "' + "y" * 16 + '"'], True),  # 4096 octets
        (['"' + '" "'.join(["x" * 255] * 16) + '" "' + "y" * 17 + '"'], False),
    ],
)
async def test_text_that_is_too_large_fails_and_is_not_cut(texts: list[str], accepted: bool) -> None:
    handler = zone(*(f"example.test. 300 IN TXT {text}" for text in texts))
    if accepted:
        assert len((await ask(handler, lambda resolver: resolver.lookup_txt(NAME))).records) == len(texts)
    else:
        exc = await failure(handler, lambda resolver: resolver.lookup_txt(NAME))
        assert exc.reason is LookupReason.MALFORMED


async def test_addresses_are_cut_at_twenty_five_of_each_family() -> None:
    records = [f"example.test. 300 IN A 192.0.2.{i}" for i in range(30)]
    records += [f"example.test. 300 IN AAAA 2001:db8::{i}" for i in range(30)]
    answer = await ask(zone(*records), lambda resolver: resolver.lookup_addresses(NAME))
    assert [address.version for address in answer.records] == [4] * 25 + [6] * 25


async def test_message_with_very_many_records_is_refused_unread() -> None:
    records = [f"example.test. 300 IN A 192.0.{i // 250}.{i % 250}" for i in range(301)]

    def handler(query: dns.message.Message, over_tcp: bool) -> Sequence[bytes]:
        return [respond(query, *records) if over_tcp else respond(query, truncated=True)]

    exc = await failure(handler, lambda resolver: resolver.lookup_addresses(NAME))
    assert exc.reason is LookupReason.MALFORMED
    assert "302 records" in str(exc)  # with OPT


async def test_queries_under_way_are_bounded() -> None:
    enough = asyncio.Event()

    def handler(_query: dns.message.Message, _over_tcp: bool) -> Sequence[bytes]:
        if len(nameserver.queries) == 3:
            enough.set()
        return []

    async with Nameserver(handler) as nameserver:
        resolver = DnsResolver([nameserver.address], timeout_seconds=60, try_timeout_seconds=60, concurrency=3)
        tasks = [resolver.lookup_mx(NAME) for _ in range(3)]
        await asyncio.wait_for(enough.wait(), 30)
        with pytest.raises(TimeoutError):  # no slot is free for a fourth
            await asyncio.wait_for(resolver.lookup_mx(NAME), 0.1)
        assert len(nameserver.queries) == 3
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_wait_for_a_slot_ends_in_time() -> None:
    with refusing_port() as address, pytest.raises(LookupFailed) as caught:
        await DnsResolver([address], timeout_seconds=0.1, concurrency=0).lookup_mx(NAME)
    assert caught.value.reason is LookupReason.TIMEOUT
    assert "too many queries" in str(caught.value)


async def test_refusal_ends_every_query_sent_in_the_same_turn() -> None:
    with refusing_port() as address:
        resolver = DnsResolver([address], timeout_seconds=3600, try_timeout_seconds=3600)
        lookups = [resolver.lookup_mx(Domain(f"d{number}.test")) for number in range(2)]
        async with asyncio.timeout(30):
            outcomes = await asyncio.gather(*lookups, return_exceptions=True)
    assert [getattr(each, "reason", each) for each in outcomes] == [LookupReason.UNREACHABLE] * 2


async def test_more_queries_than_are_sent_at_a_time() -> None:
    def handler(query: dns.message.Message, _over_tcp: bool) -> Sequence[bytes]:
        name = query.question[0].name
        return [respond(query, f"{name} 300 IN MX 1 mx.{name}")]

    async with Nameserver(handler) as nameserver:
        resolver = DnsResolver([nameserver.address], timeout_seconds=60)
        names = [Domain(f"d{number}.test") for number in range(2 * AT_A_TIME + 1)]
        found = await asyncio.gather(*[resolver.lookup_mx(name) for name in names])
    assert [answer.records for answer in found] == [(MxRecord(1, Domain(f"mx.{name}")),) for name in names]


async def test_cancelled_look_up_leaves_no_socket_behind() -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with silent_port() as address:
        before = descriptors()
        task = asyncio.create_task(DnsResolver([address], try_timeout_seconds=0.05).lookup_addresses(NAME))
        while descriptors() == before:  # noqa: ASYNC110 (as below)
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # What was asked is waited for until its time is over, by nobody.
        while descriptors() > before:  # noqa: ASYNC110 (it is the system that is asked)
            await asyncio.sleep(0.01)


def test_under_uvloop() -> None:
    async def run() -> None:
        records = [f"example.test. 300 IN MX {i} mx{i}.example.test." for i in range(50)]

        def handler(query: dns.message.Message, over_tcp: bool) -> Sequence[bytes]:
            return [respond(query, *records) if over_tcp else respond(query, truncated=True)]

        assert len((await ask(handler, lookup_mx)).records) == 50
        with silent_port() as silent, pytest.raises(LookupFailed) as caught:
            await DnsResolver([silent], timeout_seconds=0.2).lookup_mx(NAME)
        assert caught.value.reason is LookupReason.TIMEOUT
        with refusing_port() as refusing, pytest.raises(LookupFailed) as caught:
            await DnsResolver([refusing], timeout_seconds=3600).lookup_mx(NAME)
        assert caught.value.reason is LookupReason.UNREACHABLE

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
