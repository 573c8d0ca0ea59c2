"""Datagrams between socket and counters: tally, what is refused, and handing on in slices."""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stsguard.core.session import Seen, Session
from stsguard.outbound import datagrams as module
from stsguard.outbound.datagrams import (
    MAX_KEPT,
    MAX_KEPT_BYTES,
    MAX_MERGED,
    SLICE,
    STEP,
    DatagramPump,
    DatagramTally,
    RefusedDatagrams,
    read_datagrams,
)
from tests.strategies import relaxed
from tests.unit.fakes import Clock

AT = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
GOOD = b'{"d":"example.com","policies":[{"f":0},{"f":1}]}'


@given(st.lists(st.sampled_from([b"", b"a", b"b", b"c"])))
def test_tally_counts_each_as_often_as_it_came(arrived: list[bytes]) -> None:
    tally = DatagramTally()
    assert tally.add(arrived)
    assert tally.take() == list(Counter(arrived).items())
    assert tally.take() == []


def test_tally_is_bounded_in_number_and_in_bytes() -> None:
    full: list[None] = []
    tally = DatagramTally(max_distinct=3, max_bytes=100)
    tally.on_full = lambda: full.append(None)
    assert [tally.add([each]) for each in (b"a", b"b", b"a", b"c")] == [True, True, True, False]
    assert len(full) == 1
    assert tally.add([b"b", b"a"])  # equal ones need no room
    assert tally.take() == [(b"a", 3), (b"b", 2), (b"c", 1)]
    assert [tally.add([each]) for each in (b"x" * 99, b"y")] == [True, False]
    assert tally.take() == [(b"x" * 99, 1), (b"y", 1)]
    assert tally.add([b"z" * 99])  # what was taken counts no more


def test_tally_needs_nobody_to_wait_for_it() -> None:
    assert not DatagramTally(max_distinct=1).add([b"a"])


def test_sessions_of_each_datagram_with_its_count() -> None:
    refused = RefusedDatagrams()
    before = module.heard.value("read"), module.heard.value("refused")
    found = list(read_datagrams([(GOOD, 3), (b"rubbish", 2), (GOOD + b" ", 1)], AT, "mx", refused))
    assert [(session.seen, session.instance, session.at, count) for session, count in found] == [
        (seen, "mx", AT, count) for count in (3, 1) for seen in (Seen.SUCCESS, Seen.FAILURE)
    ]
    assert (module.heard.value("read"), module.heard.value("refused")) == (before[0] + 4, before[1] + 2)
    (kept,) = refused.kept()
    assert (kept.at, kept.instance, kept.start, kept.size, kept.count) == (AT, "mx", b"rubbish", 7, 2)
    assert kept.reason.startswith("not JSON: ")


def test_what_is_kept_of_the_refused_is_bounded() -> None:
    refused = RefusedDatagrams()
    rubbish = [(b"%d" % number + b"x" * 10_000, 1) for number in range(MAX_KEPT + 50)]
    assert list(read_datagrams(rubbish, AT, "", refused)) == []
    kept = refused.kept()
    assert len(kept) == MAX_KEPT
    assert kept[-1].start.startswith(b"%d" % (MAX_KEPT + 49))
    assert {(len(each.start), each.size > 10_000) for each in kept} == {(MAX_KEPT_BYTES, True)}


def test_refused_ones_are_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    refused = RefusedDatagrams()
    with caplog.at_level(logging.WARNING, logger="stsguard"):
        for seconds, count in ((0, 1), (1, 5), (59, 2), (60, 1), (61, 9), (-100, 3)):
            refused.keep(b"x", count, at=AT + timedelta(seconds=seconds), instance="mx", reason="not JSON")
    logged = [record.fields for record in caplog.records]  # type: ignore[attr-defined] # stsguard.log puts it there
    assert [fields["count"] for fields in logged] == [1, 8, 12]
    assert logged[0] == {"instance": "mx", "count": 1, "reason": "not JSON"}


def event(number: int, **unused: object) -> bytes:
    """A datagram of a domain of its own, with something in it that nobody reads."""
    return json.dumps({"d": f"d{number}.example", "policies": [{"f": 0}], **unused}).encode()


class Pumped:
    """A pump with the calls that it made."""

    def __init__(self, max_distinct: int = 100_000) -> None:
        self.calls: list[str | int] = []
        self.taken: Counter[Session] = Counter()
        self.clock = Clock()
        self.tally = DatagramTally(max_distinct=max_distinct)
        self.drained = 0
        self.refused = RefusedDatagrams()
        self.pump = DatagramPump(self.tally, self.deliver, self, clock=self.clock, instance="mx", refused=self.refused)

    def resume(self) -> None:
        self.calls.append("resume")

    def drain(self) -> None:
        self.drained += 1

    def deliver(self, sessions: Iterable[tuple[Session, int]]) -> None:
        given = list(sessions)
        self.calls.append(len(given))
        for session, count in given:
            self.taken[session] += count

    def by_domain(self) -> dict[str, int]:
        return {str(session.recipient_domain): count for session, count in self.taken.items()}

    async def run_until(self, total: int) -> None:
        task = asyncio.create_task(self.pump.run())
        async with asyncio.timeout(20):
            while self.taken.total() < total:  # noqa: ASYNC110 (a count has no event)
                await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_pump_hands_on_in_slices_after_the_reader_may_go_on() -> None:
    pumped = Pumped()
    others = 0

    async def somebody_else() -> None:
        nonlocal others
        while True:
            others += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(somebody_else())
    pumped.tally.add([event(number) for number in range(2 * SLICE + 1)])
    await pumped.pump.flush()
    task.cancel()
    assert pumped.calls == ["resume", *[STEP] * (2 * SLICE // STEP), 1]
    assert pumped.drained == 2 * (len(pumped.calls) - 1)  # the socket is looked at after each read and each handed on
    assert {(session.at, session.instance) for session in pumped.taken} == {(pumped.clock.now(), "mx")}
    assert others >= 6
    pumped.calls.clear()
    await pumped.pump.flush()
    assert pumped.calls == ["resume"]


async def test_pump_flushes_without_being_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.001)
    pumped = Pumped()
    pumped.tally.add([event(1)])
    await pumped.run_until(1)
    assert pumped.by_domain() == {"d1.example": 1}


async def test_full_tally_is_flushed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FLUSH_SECONDS", 3600.0)
    pumped = Pumped(max_distinct=2)
    pumped.tally.add([event(1), event(2)])
    await pumped.run_until(2)
    assert pumped.by_domain() == {"d1.example": 1, "d2.example": 1}


@relaxed
@given(st.lists(st.integers(0, 9), max_size=200))
def test_nothing_is_lost_or_counted_twice_on_the_way(arrived: list[int]) -> None:
    async def work() -> dict[str, int]:
        pumped = Pumped(max_distinct=5)
        for number in arrived:
            if not pumped.tally.add([event(number)]):
                await pumped.pump.flush()
        await pumped.pump.flush()
        return pumped.by_domain()

    assert asyncio.run(work()) == Counter(f"d{number}.example" for number in arrived)


async def test_flood_of_one_kind_is_merged_before_it_is_counted() -> None:
    pumped = Pumped()
    pumped.tally.add([event(kind, x=number) for kind in (1, 2) for number in range(1000)])
    pumped.tally.add([b"rubbish", b"rubbish"])
    await pumped.pump.flush()
    assert pumped.by_domain() == {"d1.example": 1000, "d2.example": 1000}
    assert pumped.calls == ["resume", 2]
    assert [(each.start, each.count) for each in pumped.refused.kept()] == [(b"rubbish", 2)]


async def test_kinds_held_to_be_merged_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MERGED", SLICE)
    pumped = Pumped()
    pumped.tally.add([event(number) for number in range(3 * SLICE)])
    held = 0
    deliver = pumped.deliver

    def note(sessions: Iterable[tuple[Session, int]]) -> None:
        nonlocal held
        held = max(held, len(pumped.pump._merged))
        deliver(sessions)

    monkeypatch.setattr(pumped.pump, "_deliver", note)
    await pumped.pump.flush()
    assert held <= SLICE <= MAX_MERGED
    assert len(pumped.taken) == 3 * SLICE


@pytest.mark.parametrize("turns", [1, 2, 3, 4, 5])
async def test_nothing_is_lost_when_the_pump_is_stopped_in_the_middle(turns: int) -> None:
    pumped = Pumped()
    count = 3 * SLICE
    pumped.tally.add([event(number) for number in range(count)])
    task = asyncio.create_task(pumped.pump.flush())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert pumped.taken.total() < count
    await pumped.pump.flush()
    assert pumped.taken.total() == len(pumped.taken) == count
