"""The policies in memory: what is read when, and what is served while the database can't be read."""

import logging

import pytest

from stsguard.core.hosted import Stage
from stsguard.core.mtasts import Mode
from stsguard.discovery.health import PartState
from stsguard.inbound.hosting import Hosting
from tests.unit.hosting import HostingStore, hosted

HOST = b"mta-sts.a.example"


def of(store: HostingStore) -> Hosting:
    return Hosting(store, store.open)


async def test_only_what_has_changed_is_read() -> None:
    store = HostingStore(hosted("a.example"), hosted("b.example"))
    hosting = of(store)
    assert await hosting.refresh()
    assert await hosting.refresh()
    assert store.loads == [0]
    before = hosting.pages[b"mta-sts.b.example"]
    store.put(hosted("a.example", mode=Mode.ENFORCE))
    assert await hosting.refresh()
    assert store.loads == [0, 2]
    assert b"mode: enforce\r\n" in hosting.pages[HOST].body["body"]
    assert hosting.pages[b"mta-sts.b.example"] is before
    assert sorted(hosting.policy_hosts()) == ["mta-sts.a.example", "mta-sts.b.example"]


async def test_a_retired_domain_is_served_no_more() -> None:
    store = HostingStore(hosted("a.example", stage=Stage.RETIRING, mode=Mode.NONE))
    hosting = of(store)
    await hosting.refresh()
    assert b"mode: none\r\n" in hosting.pages[HOST].body["body"]
    store.put(hosted("a.example", stage=Stage.RETIRED, mode=Mode.NONE))
    await hosting.refresh()
    assert HOST not in hosting.pages


async def test_what_was_read_is_served_while_the_database_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    store = HostingStore(hosted("a.example"))
    hosting = of(store)
    await hosting.refresh()
    store.problem = "disk on fire"
    assert not await hosting.refresh()
    assert not await hosting.refresh()
    assert HOST in hosting.pages
    assert hosting.health().state is PartState.FAILED
    assert "disk on fire" in hosting.health().detail
    store.problem = None
    assert await hosting.refresh()
    assert hosting.health().state is PartState.OK
    said = [record.getMessage() for record in caplog.records if record.levelno != logging.INFO]
    assert said == ["our domains can't be read, serving what was read before"]
    assert caplog.records[-1].getMessage() == "our domains can be read again"


async def test_a_start_without_database_is_told_and_tried_again() -> None:
    store = HostingStore(hosted("a.example"))
    store.problem = "no such directory"
    hosting = of(store)
    assert hosting.health().detail == "being read"
    assert not await hosting.refresh()
    assert not hosting.loaded.is_set()
    assert hosting.health().state is PartState.FAILED
    store.problem = None
    assert await hosting.refresh()
    assert hosting.loaded.is_set()
    assert HOST in hosting.pages


async def test_a_database_restored_from_a_copy_is_read_anew() -> None:
    store = HostingStore(hosted("a.example"), hosted("b.example"))
    hosting = of(store)
    await hosting.refresh()
    store.domains.clear()
    store.at = 0
    store.put(hosted("c.example"))
    await hosting.refresh()
    assert hosting.policy_hosts() == ["mta-sts.c.example"]


async def test_a_domain_whose_policy_host_has_no_name_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    long = ".".join(["a" * 60] * 4) + ".example"
    store = HostingStore(hosted(long), hosted("a.example"))
    hosting = of(store)
    await hosting.refresh()
    assert hosting.policy_hosts() == ["mta-sts.a.example"]
    assert "domain not served" in caplog.text


async def test_ten_thousand_domains_leave_the_loop_its_turns() -> None:
    hosting = of(HostingStore(*(hosted(f"d{number}.example") for number in range(10_000))))
    assert await hosting.refresh()
    assert len(hosting.pages) == 10_000
    assert hosting.pages[b"mta-sts.d77.example"].policy_domain == "d77.example"
