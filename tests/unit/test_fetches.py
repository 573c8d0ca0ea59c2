"""Counting who fetches: by domain, UTC day, User-Agent and network, bounded, and kept while it can't be stored."""

import asyncio
from datetime import date

import pytest

from stsguard.core.hosted import PolicyFetchRow
from stsguard.inbound import fetches
from stsguard.inbound.fetches import FetchCounts
from stsguard.names import Domain
from tests.unit.fakes import DAY, Clock, World, virtual
from tests.unit.hosting import HostingStore

A = Domain("a.example")


def row(day: str, user_agent: str, network: str, count: int) -> PolicyFetchRow:
    return PolicyFetchRow(day, A, user_agent, network, count)


async def test_clients_of_one_network_are_one_row() -> None:
    store, clock = HostingStore(), Clock()
    counts = FetchCounts(store, clock)
    for address in ("192.0.2.1", "192.0.2.2", "::ffff:192.0.2.3", "2001:db8::1", "2001:db8:0:ffff::1", ""):
        counts.count(A, b"agent/1", address)
    await counts.flush()
    assert store.fetches == [
        row("2026-03-01", "agent/1", "192.0.2.0/24", 3),
        row("2026-03-01", "agent/1", "2001:db8::/48", 2),
        row("2026-03-01", "agent/1", "local", 1),
    ]
    await counts.flush()
    assert len(store.fetches) == 3


async def test_a_day_is_a_utc_day() -> None:
    store, clock = HostingStore(), Clock()
    counts = FetchCounts(store, clock)
    counts.count(A, b"x", "192.0.2.1")
    await counts.flush()
    clock.advance(DAY)
    counts.count(A, b"x", "192.0.2.1")
    await counts.flush()
    assert [each.day for each in store.fetches] == ["2026-03-01", "2026-03-02"]


async def test_what_cannot_be_stored_waits(caplog: pytest.LogCaptureFixture) -> None:
    store, clock = HostingStore(), Clock()
    counts = FetchCounts(store, clock)
    store.problem = "no"
    for _ in range(3):
        counts.count(A, b"x", "192.0.2.1")
        await counts.flush()
    assert caplog.text.count("policy fetches can't be stored yet") == 1
    store.problem = None
    clock.advance(DAY)  # what was counted yesterday stays yesterday's
    await counts.flush()
    assert store.fetches == [row("2026-03-01", "x", "192.0.2.0/24", 3)]


async def test_made_up_clients_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetches, "PENDING", 10)
    monkeypatch.setattr(fetches, "ROWS_A_DAY", 15)
    store = HostingStore()
    counts = FetchCounts(store, Clock())
    for number in range(30):
        counts.count(A, b"made up %d" % number, "192.0.2.1")
    await counts.flush()
    assert len(store.fetches) == 11
    assert row("2026-03-01", "other", "other", 20) in store.fetches
    store.fetches.clear()
    for number in range(10):
        counts.count(A, b"more %d" % number, "192.0.2.1")
    await counts.flush()
    assert sum(each.fetches for each in store.fetches) == 10
    assert row("2026-03-01", "other", "other", 6) in store.fetches


async def test_a_long_user_agent_takes_no_memory() -> None:
    store = HostingStore()
    counts = FetchCounts(store, Clock())
    counts.count(A, b"x" * 15_000, "192.0.2.1")
    counts.count(A, b"x" * 14_000, "192.0.2.1")
    await counts.flush()
    assert store.fetches == [row("2026-03-01", "x" * 120, "192.0.2.0/24", 2)]


@virtual
async def test_ninety_days_are_kept(world: World) -> None:
    store = HostingStore()
    store.problem = "no"
    task = asyncio.create_task(FetchCounts(store, world.clock).run_deletion())
    await asyncio.sleep(1)
    store.problem = None
    await asyncio.sleep(2 * DAY)
    task.cancel()
    assert store.deleted_before[0] == date(2025, 12, 1)
    assert store.deleted_before[-1] == date(2025, 12, 3)
