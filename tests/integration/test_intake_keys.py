"""Reports whose DKIM key can't be looked up yet: they wait, are kept in the end, and hold no others up."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stsguard.inbound import intake as intake_module
from stsguard.store.received_schema import received_daily, received_intakes, received_reports
from tests.integration.intake_desk import (
    LIMIT_SECONDS,
    PASS,
    WAITS,
    Desk,
    SomeWait,
    TellingStore,
    opened_desk,
    reports,
)
from tests.integration.intake_site import IntakeSite


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with opened_desk(tmp_path) as made:
        yield made


async def test_report_waits_for_its_key_for_a_day_and_is_kept_then(desk: Desk, tmp_path: Path) -> None:
    desk.verifier.verdict = WAITS
    name = desk.add(1)
    for _ in range(3):
        assert await desk.empty()
        assert desk.spool.pending() == [name]
    told = "1 received report waits in the spool; 1 of them until the DKIM key can be looked up, for a day at most"
    assert desk.drain.health().detail == told
    desk.verifier.verdict = PASS
    assert await desk.empty()
    assert desk.spool.pending() == [name]  # it is not tried again at once
    desk.clock.advance(intake_module.KEY_RETRY_SECONDS)
    desk.verifier.verdict = WAITS
    assert await desk.empty()
    desk.clock.advance(86_400)
    assert await desk.empty()
    assert desk.spool.pending() == []
    site = IntakeSite(tmp_path, f"sqlite:///{tmp_path}/stsguard.db")
    assert [row["standing"] for row in site.rows(received_reports)] == ["unsigned"]
    assert [row["dkim_status"] for row in site.rows(received_intakes)] == ["temperror"]


async def test_key_that_is_found_in_time_makes_it_count(desk: Desk, tmp_path: Path) -> None:
    desk.verifier.verdict = WAITS
    desk.add(1)
    await desk.empty()
    desk.verifier.verdict = PASS
    desk.clock.advance(intake_module.KEY_RETRY_SECONDS)
    await desk.empty()
    site = IntakeSite(tmp_path, f"sqlite:///{tmp_path}/stsguard.db")
    assert [row["reports"] for row in site.rows(received_daily)] == [1]


async def test_mails_that_wait_for_their_keys_keep_no_others_out(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "LISTED", 5)
    monkeypatch.setattr("stsguard.inbound.spool.LISTED", 5)
    desk.drain = desk.build(desk.stores.received.open)
    desk.reader._verifier = SomeWait()
    monkeypatch.setattr("stsguard.inbound.spool.time.time", lambda: 1.0)
    waiting = [desk.add(number, field=b"X-Waits: 1\r\n") for number in range(12)]
    monkeypatch.setattr("stsguard.inbound.spool.time.time", lambda: 2.0)
    desk.add(99)
    site = IntakeSite(tmp_path, f"sqlite:///{tmp_path}/stsguard.db")
    assert await desk.empty()
    assert reports(site) == ["r99"]
    desk.clock.advance(intake_module.KEY_RETRY_SECONDS)
    desk.add(100)
    with desk.spool.reading() as spool:
        due = await desk.drain._due(spool)
    assert due[0] not in waiting  # what has not been tried is first
    assert set(due[1:]) == set(waiting)
    assert len(desk.spool.pending(None)) == 13


async def test_what_is_read_is_stored_before_a_slow_answer(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "SAVE_SECONDS", 0.01)
    verifier = SomeWait()
    desk.reader._verifier = verifier
    desk.add(1, field=b"X-Slow: 1\r\n")
    desk.add(2)
    site = IntakeSite(tmp_path, f"sqlite:///{tmp_path}/stsguard.db")
    store = TellingStore(desk.stores, "nothing")
    emptying = asyncio.create_task(desk.empty(desk.build(desk.stores.received.open, store)))
    await asyncio.wait_for(store.saved.wait(), LIMIT_SECONDS)
    assert reports(site) == ["r2"]
    assert not emptying.done()
    verifier.answered.set()
    assert await emptying
    assert reports(site) == ["r1", "r2"]


async def test_ending_leaves_no_look_up_behind(desk: Desk) -> None:
    desk.reader._verifier = verifier = SomeWait()
    name = desk.add(1, field=b"X-Slow: 1\r\n")
    emptying = asyncio.create_task(desk.empty())
    await asyncio.wait_for(verifier.asked.wait(), LIMIT_SECONDS)
    emptying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await emptying
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert desk.spool.pending() == [name]


async def test_clock_that_steps_back_or_ahead_ends_no_wait_for_ever(desk: Desk) -> None:
    desk.verifier.verdict = WAITS
    desk.add(1)
    desk.clock.jump(-3000 * 86_400.0)
    for _ in range(intake_module.KEY_TRIES + 1):
        await desk.empty()
        desk.clock.advance(intake_module.KEY_RETRY_SECONDS)
    assert desk.spool.pending() == []
