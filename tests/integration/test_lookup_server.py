"""The socketmap server on real sockets: framing, order, limits, keys, observe mode, and clients that misbehave."""

import asyncio
import resource
from collections.abc import Coroutine
from datetime import date
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from stsguard.core import netstring
from stsguard.core.errors import FetchReason, LookupReason, RequestInvalid
from stsguard.core.overrides import parse_overrides
from stsguard.discovery import supervisor
from stsguard.names import Domain
from stsguard.outbound import lookup, replies
from tests.integration.lookup_client import NOTFOUND, SECURE, Client, ask, serving, until
from tests.strategies import relaxed

GOOD = SECURE % b"good.example"


@pytest.mark.parametrize("unix", [True, False])
async def test_a_lookup(tmp_path: Path, unix: bool) -> None:
    async with serving(tmp_path / "lookup.sock" if unix else None) as server:
        client = await server.connect()
        assert await client.lookup("good.example") == GOOD
        assert await client.lookup("none.example") == NOTFOUND
        assert (await client.lookup("good.example", "policy-tlsrpt")).startswith(GOOD + b" policy_type=sts ")


async def test_the_second_lookup_is_a_hit_without_a_task() -> None:
    async with serving() as server:
        client = await server.connect()
        await client.lookup("good.example")
        hits, misses = lookup.hits.value(), lookup.misses.value("domain")
        for _ in range(3):
            assert await client.lookup("good.example") == GOOD
        assert lookup.hits.value() == hits + 3
        assert lookup.misses.value("domain") == misses
        assert server.world.demands.destination(Domain("good.example"), 25).last_used == server.world.clock.monotonic()


async def test_pipelined_requests_in_one_segment_are_answered_in_order() -> None:
    async with serving() as server:
        client = await server.connect()
        names = ["good.example", "none.example", ".example", "[192.0.2.1]:25"] * 50
        await client.send(b"".join(ask(name) for name in names))
        assert await client.replies(200) == [GOOD, NOTFOUND, NOTFOUND, NOTFOUND] * 50


async def test_segments_split_at_every_byte() -> None:
    async with serving() as server:
        client = await server.connect()
        stream = ask("good.example") + ask("none.example") + ask("good.example", "policy-tlsrpt")
        for position in range(1, len(stream)):
            await client.send(stream[:position], stream[position:])
            found = await client.replies(3)
            assert found[:2] == [GOOD, NOTFOUND]
            assert found[2].startswith(GOOD)


async def test_one_byte_at_a_time() -> None:
    async with serving() as server:
        client = await server.connect()
        stream = ask("good.example") * 2
        await client.send(*(stream[at : at + 1] for at in range(len(stream))))
        assert await client.replies(2) == [GOOD, GOOD]


@given(
    keys=st.lists(
        st.sampled_from(
            ["good.example", "GOOD.example", "none.example", ".example", "[good.example]", "a b", "1.2.3.4"]
        ),
        min_size=1,
        max_size=6,
    ),
    cuts=st.lists(st.integers(0, 200), max_size=8),
)
@relaxed
def test_any_split_gives_the_same_replies(keys: list[str], cuts: list[int]) -> None:
    async def main() -> None:
        async with serving() as server:
            stream = b"".join(ask(key) for key in keys)
            whole, cut = await server.connect(), await server.connect()
            await whole.send(stream)
            expected = await whole.replies(len(keys))
            places = sorted({0, len(stream), *(place for place in cuts if place < len(stream))})
            await cut.send(*(stream[a:b] for a, b in pairwise(places)))
            assert await cut.replies(len(keys)) == expected

    asyncio.run(main())


@given(
    kept=st.sets(st.sampled_from(["good.example", "none.example", "a,b", "1:a,", ",", "x,5:y"]), min_size=1),
    stream=st.lists(
        st.sampled_from([ask("good.example"), ask("none.example"), ask("a,b"), ask("1:a,"), ask(","), ask("x,5:y")])
        | st.sampled_from([b",", b"1:a,", b"13:", b"policy ", ask("good.example")[:-1]]),
        max_size=6,
    ).map(b"".join),
)
@relaxed
def test_the_hot_path_finds_what_the_parser_finds(kept: set[str], stream: bytes) -> None:
    def cells(requests: set[bytes]) -> SimpleNamespace:
        found = {
            request: SimpleNamespace(reply=b"<%b>" % request, expires_at=1.0, last_used=0.0) for request in requests
        }
        return SimpleNamespace(cells=found, now=lambda: 0.0)

    hot = lookup.LookupProtocol(cells({ask(key) for key in kept}))  # type: ignore[arg-type]  # all that it reads there
    try:
        requests, rest = netstring.split(stream)
    except RequestInvalid:
        requests, rest = [], stream
    plain = [hot._find(request) for request in requests]
    expected = None if rest or None in plain or not plain else b"".join(cell.reply for cell in plain if cell)
    found = hot._cached(stream)
    # A comma inside a request is left to the parser; else both find the same.
    assert found == expected or (found is None and any(b"," in request[:-1] for request in requests))


async def test_the_order_is_kept_when_the_first_is_slow() -> None:
    async with serving() as server:
        server.world.publish("slow.example")
        server.world.resolver.held["MX"] = asyncio.Event()
        client = await server.connect()
        await client.send(ask("slow.example") + ask(".example") + ask("[good.example]"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.reader.read(1)
        server.world.resolver.held["MX"].set()
        assert await client.replies(3) == [SECURE % b"slow.example", NOTFOUND, NOTFOUND]


async def test_a_hit_behind_a_slow_request_waits_for_it() -> None:
    async with serving() as server:
        client = await server.connect()
        await client.lookup("good.example")
        server.world.publish("slow.example", "")
        server.world.resolver.held["MX"] = asyncio.Event()
        await client.send(ask("slow.example"), ask("good.example"))
        await until(lambda: server.world.resolver.count("MX", "slow.example") == 1)
        server.world.resolver.held["MX"].set()
        assert await client.replies(2) == [NOTFOUND, GOOD]


@pytest.mark.parametrize(
    "rubbish",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"\x16\x03\x01\x00",
        b"06:policy,",
        b"5:abcdeX",
        b"-1:",
        b":,",
        b"999999999",
        b"3:abc,",
    ],
)
async def test_rubbish_closes_its_own_connection_only(rubbish: bytes) -> None:
    async with serving() as server:
        bystander, client = await server.connect(), await server.connect()
        await client.send(rubbish)
        assert await client.closed() == b""
        assert await bystander.lookup("good.example") == GOOD
        assert await (await server.connect()).lookup("good.example") == GOOD


async def test_rubbish_behind_an_answered_request() -> None:
    async with serving() as server:
        client = await server.connect()
        assert await client.lookup("good.example") == GOOD
        await client.send(b"rubbish")
        assert await client.closed() == b""


@pytest.mark.parametrize(("size", "answered"), [(9_999, True), (10_000, True), (10_001, False)])
async def test_the_query_limit_of_10000_bytes(size: int, answered: bool) -> None:
    async with serving() as server:
        client = await server.connect()
        request = ask("x" * (size - len("policy ")))
        assert request.startswith(b"%d:" % size)
        await client.send(request)
        if answered:
            assert (await client.reply()).startswith(b"TEMP ")
            assert await client.lookup("good.example") == GOOD
        else:
            assert await client.closed() == b""


async def test_an_idle_client_is_kept() -> None:
    async with serving() as server:
        client = await server.connect()
        assert await client.lookup("good.example") == GOOD
        server.world.clock.advance(86_400)
        assert await client.lookup("good.example") == GOOD
        assert len(server.service.open_connections) == 1


async def test_a_client_that_goes_away_is_forgotten_and_its_decision_kept() -> None:
    async with serving() as server:
        server.world.publish("slow.example")
        server.world.resolver.held["MX"] = asyncio.Event()
        client = await server.connect()
        await client.send(ask("slow.example"))
        await until(lambda: server.world.resolver.count("MX", "slow.example") == 1)
        await client.close()
        await until(lambda: not server.service.open_connections)
        server.world.resolver.held["MX"].set()
        await until(lambda: ask("slow.example") in server.service.cells)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_client_that_does_not_read_stops_being_read(loop: str) -> None:
    """Neither replies nor requests pile up; once it reads it gets everything, in order."""

    async def main() -> None:
        async with serving() as server:
            mx = [f"{'m' * 60}{number:03}.{'n' * 60}.{'o' * 60}.good.example" for number in range(120)]
            server.world.publish("big.example", mx=["mx.big.example", *mx])
            client = await server.connect(receive_bytes=4096)
            size = len(await client.lookup("big.example", "policy-tlsrpt"))
            assert size > 20_000
            count = 4000
            client.writer.write(ask("big.example", "policy-tlsrpt") * count)
            (protocol,) = server.service.open_connections
            await until(lambda: not protocol._writable)
            transport = protocol._transport
            assert transport is not None
            await until(lambda: not transport.is_reading())
            assert transport.get_write_buffer_size() < 10 * 65_536
            assert len(protocol._waiting) <= lookup.MAX_WAITING
            bystander = await server.connect()
            assert await bystander.lookup("good.example") == GOOD
            for _ in range(count):
                assert len(await client.reply()) == size
            assert await client.lookup("good.example") == GOOD

    run(main(), loop)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_client_that_asks_for_what_is_cached_and_does_not_read_stops_being_read(loop: str) -> None:
    """Each request comes in a segment of its own, so that each takes the hot path."""

    async def main() -> None:
        async with serving() as server:
            mx = [f"{'m' * 60}{number:03}.{'n' * 60}.{'o' * 60}.good.example" for number in range(120)]
            server.world.publish("big.example", mx=["mx.big.example", *mx])
            client = await server.connect(receive_bytes=4096)
            size = len(await client.lookup("big.example", "policy-tlsrpt"))
            (protocol,) = server.service.open_connections
            transport = protocol._transport
            assert transport is not None
            count = 0
            while transport.is_reading():
                assert count < 1000
                client.writer.write(ask("big.example", "policy-tlsrpt"))
                count += 1
                answered = lookup.hits.value() + 1
                await until(lambda least=answered: lookup.hits.value() >= least or not transport.is_reading())
            assert transport.get_write_buffer_size() < 10 * 65_536
            for _ in range(count):
                assert len(await client.reply()) == size
            assert await client.lookup("good.example") == GOOD

    run(main(), loop)


def run(main: Coroutine[Any, Any, None], loop: str) -> None:
    with asyncio.Runner(
        loop_factory=uvloop.new_event_loop if loop == "uvloop" else asyncio.SelectorEventLoop
    ) as runner:
        runner.run(main)


async def test_no_more_requests_are_worked_on_than_the_limit() -> None:
    async with serving() as server:
        server.world.resolver.held["MX"] = asyncio.Event()
        client = await server.connect()
        count = 3 * lookup.MAX_WAITING
        await client.send(b"".join(ask(f"d{number}.test") for number in range(count)))
        await until(lambda: server.world.resolver.count("MX") >= lookup.MAX_WAITING)
        await client.send(ask("good.example"))
        await asyncio.sleep(0)
        assert server.world.resolver.count("MX") == lookup.MAX_WAITING
        server.world.resolver.held["MX"].set()
        found = await client.replies(count + 1)
        assert set(found[:-1]) == {b"TEMP no MX host has an address"}
        assert found[-1] == GOOD


async def test_1000_connections() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # both ends are in this process
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    async with serving() as server:
        clients = [await server.connect() for _ in range(1000)]

        async def talk(client: Client) -> None:
            assert await client.lookup("good.example") == GOOD
            assert await client.lookup("none.example") == NOTFOUND

        await asyncio.gather(*(talk(client) for client in clients))
        assert len(server.service.open_connections) == 1000
        assert server.world.fetcher.fetched == ["good.example"]


async def test_too_many_connections_are_refused_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "MAX_CONNECTIONS", 2)
    async with serving() as server:
        first, second = await server.connect(), await server.connect()
        assert await second.lookup("good.example") == GOOD
        third = await server.connect()
        assert await third.closed() == b""
        assert await first.lookup("good.example") == GOOD
        await second.close()
        await until(lambda: len(server.service.open_connections) == 1)
        assert await (await server.connect()).lookup("good.example") == GOOD


KEYS = [
    ("good.example", GOOD),
    ("GOOD.Example", GOOD),
    ("good.example.", GOOD),
    ("bücher.example", SECURE % b"xn--bcher-kva.example"),
    ("BÜCHER.example", SECURE % b"xn--bcher-kva.example"),
    ("xn--bcher-kva.example", SECURE % b"xn--bcher-kva.example"),
    ("good.example:25", GOOD),
    ("good.example:587", GOOD),
    (".good.example", NOTFOUND),
    (".example", NOTFOUND),
    ("[good.example]", NOTFOUND),
    ("[good.example]:25", NOTFOUND),
    ("[192.0.2.1]:25", NOTFOUND),
    ("[ipv6:2001:db8::1]:587", NOTFOUND),
    ("192.0.2.1", NOTFOUND),
]


@pytest.mark.parametrize(("key", "expected"), KEYS)
async def test_keys(key: str, expected: bytes) -> None:
    async with serving() as server:
        server.world.publish("xn--bcher-kva.example")
        client = await server.connect()
        assert await client.lookup(key) == expected
        assert await client.lookup(key) == expected


@pytest.mark.parametrize("key", [".good.example", "[good.example]", "[192.0.2.1]:25"])
async def test_such_keys_cost_no_lookup(key: str) -> None:
    async with serving() as server:
        await (await server.connect()).lookup(key)
        assert server.world.resolver.asked == []
        assert len(server.world.demands) == 0


@pytest.mark.parametrize("key", ["a b", "-", "x..y", b"\xff\xfe", "good.example:0", "good.example:99999", "a" * 300])
async def test_a_key_that_is_no_name_waits(key: str | bytes) -> None:
    async with serving() as server:
        assert (await (await server.connect()).lookup(key)).startswith(b"TEMP ")


async def test_an_unknown_map_is_told_and_the_connection_goes_on() -> None:
    async with serving() as server:
        client = await server.connect()
        assert (await client.lookup("good.example", "polisy")).startswith(b"PERM ")
        assert await client.lookup("good.example") == GOOD


@pytest.mark.parametrize("name", ["policy", "postfix", "QUERY"])
async def test_the_names_of_other_programs_mean_policy(name: str) -> None:
    async with serving() as server:
        assert await (await server.connect()).lookup("good.example", name) == GOOD


async def test_observe_mode_answers_notfound_to_everything() -> None:
    async with serving(observe=True) as server:
        client = await server.connect()
        server.world.resolver.fail("MX", "broken.example")
        server.world.publish("crash.example")
        server.world.resolver.crash("MX", "crash.example")
        for key in ("good.example", "good.example", "broken.example", "crash.example", "a b", ".x", "[x]"):
            assert await client.lookup(key) == NOTFOUND
        demand = await server.world.ask("good.example")
        assert demand.decision.reply == "secure"  # what enforcement would have answered


async def test_an_answer_that_takes_too_long_is_temp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "ANSWER_SECONDS", 0.05)
    async with serving() as server:
        server.world.publish("slow.example")
        server.world.resolver.held["MX"] = asyncio.Event()
        client = await server.connect()
        assert (await client.lookup("slow.example")).startswith(b"TEMP ")
        server.world.resolver.held["MX"].set()
        await until(lambda: bool(server.world.demands.destination(Domain("slow.example"), 25).packed))
        assert await client.lookup("slow.example") == SECURE % b"slow.example"


async def test_a_fault_of_ours_is_temp_for_that_domain_alone() -> None:
    async with serving() as server:
        server.world.publish("crash.example")
        server.world.fetcher.policies["crash.example"] = ZeroDivisionError("a bug")
        client = await server.connect()
        before = sum(supervisor.crashes.values.values())
        assert (await client.lookup("crash.example")).startswith(b"TEMP ")
        assert sum(supervisor.crashes.values.values()) == before + 1
        assert await client.lookup("good.example") == GOOD


async def test_a_fault_while_a_reply_is_rendered_leaves_no_old_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as server:
        client = await server.connect()
        assert await client.lookup("none.example") == NOTFOUND

        def crash(*_arguments: object, **_more: object) -> bytes:
            raise ZeroDivisionError

        monkeypatch.setattr(replies, "render", crash)
        server.world.publish("none.example")
        server.world.clock.advance(3600)
        for _ in range(3):
            assert (await client.lookup("none.example")).startswith(b"TEMP ")


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        ("mx", b"TEMP MX look-up failed: servfail"),
        ("fetch", NOTFOUND),
        ("addresses", b"TEMP the address or TLSA look-ups of all MX hosts failed"),
    ],
)
async def test_failures(break_it: str, expected: bytes) -> None:
    async with serving() as server:
        world = server.world
        match break_it:
            case "mx":
                world.resolver.fail("MX", "good.example")
            case "fetch":
                world.fetcher.policies["good.example"] = FetchReason.HTTP_STATUS
            case "addresses":
                world.resolver.fail("A", "mx.good.example", LookupReason.TIMEOUT)
        assert await (await server.connect()).lookup("good.example") == expected


async def test_the_hot_spelling_is_kept_whatever_others_are_asked_for() -> None:
    async with serving() as server:
        client = await server.connect()
        for number in range(40):
            spelling = "".join(c.upper() if number >> at & 1 else c for at, c in enumerate("good.example"))
            assert await client.lookup(spelling) == GOOD
        assert await client.lookup("good.example") == GOOD
        assert ask("good.example") in server.service.cells
        assert len(server.service.cells) <= replies.SPELLINGS


async def test_an_evicted_destination_takes_its_replies_with_it() -> None:
    async with serving() as server:
        client = await server.connect()
        await client.lookup("good.example")
        server.world.demands.forget(server.world.demands.destination(Domain("good.example"), 25))
        assert not server.service.cells
        assert await client.lookup("good.example") == GOOD


async def test_an_override_for_a_bracketed_key_ends_with_the_override() -> None:
    async with serving() as server:
        client = await server.connect()
        server.world.demands.overrides = parse_overrides({"good.example": {"policy": "encrypt"}})
        server.world.demands.redecide_all()
        for key in ("good.example", "[good.example]:25"):
            assert await client.lookup(key) == b"OK encrypt"
        server.world.demands.overrides = parse_overrides({})
        server.world.demands.redecide_all()
        assert await client.lookup("good.example") == GOOD
        assert await client.lookup("[good.example]:25") == NOTFOUND


async def test_an_override_that_expires_ends_with_the_reply() -> None:
    async with serving() as server:
        client = await server.connect()
        tables = {"good.example": {"exempt": True, "expires": date(2026, 3, 2)}}
        server.world.demands.overrides = parse_overrides(tables)
        assert await client.lookup("good.example") == NOTFOUND
        server.world.clock.advance(86_400)
        assert await client.lookup("good.example") == GOOD
