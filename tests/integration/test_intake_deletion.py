"""Old reports are deleted by `stsguard inbound`, and no clock that is wrong deletes any."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from stsguard.inbound import intake as intake_module
from stsguard.store.received_schema import received_daily, received_intakes
from tests.integration.intake_desk import (
    LIMIT_SECONDS,
    NOW,
    CountingStore,
    Desk,
    opened_desk,
)
from tests.integration.intake_site import IntakeSite
from tests.received import document, intake, report_json


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with opened_desk(tmp_path) as made:
        yield made


async def test_old_reports_go_by_the_clock_that_has_not_jumped(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "DELETE_SECONDS", 0.01)
    site = IntakeSite(tmp_path, f"sqlite:///{tmp_path}/stsguard.db")
    await desk.stores.received.open()
    desk.stores.received.now = lambda: NOW - timedelta(days=390)
    await desk.stores.received.save_intakes([intake(document())])
    desk.stores.received.now = lambda: NOW
    await desk.stores.received.save_intakes([intake(document(report_json(report_id="r2")), octets=b"2")])
    store = CountingStore(desk.stores)
    deletion = asyncio.create_task(desk.build(desk.stores.received.open, store).run_deletion())

    async def looked(times: int) -> None:
        limit = time.monotonic() + LIMIT_SECONDS
        wanted = store.looked + times
        while store.looked < wanted:
            assert time.monotonic() < limit
            await asyncio.sleep(0.01)

    await looked(2)
    desk.clock.jump(3000 * 86_400.0)
    await looked(2)
    assert len(site.rows(received_intakes)) == 2
    desk.clock.advance(11 * 86_400)
    await looked(2)
    assert len(site.rows(received_intakes)) == 1
    deletion.cancel()
    assert [row["reports"] for row in site.rows(received_daily)] == [2]


async def test_where_everything_at_once_would_be_old_the_clock_is_doubted(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "DELETE_SECONDS", 0.01)
    site = IntakeSite(tmp_path, f"sqlite:///{tmp_path}/stsguard.db")
    await desk.stores.received.open()
    desk.stores.received.now = lambda: NOW - timedelta(days=800)  # or it is now that is 800 days ahead
    await desk.stores.received.save_intakes([intake(document())])
    asked = asyncio.Semaphore(0)

    class Store(CountingStore):
        async def newest_intake(self) -> datetime | None:
            asked.release()
            return await super().newest_intake()

    deletion = asyncio.create_task(desk.build(desk.stores.received.open, Store(desk.stores)).run_deletion())
    async with asyncio.timeout(LIMIT_SECONDS):
        for _ in range(3):
            await asked.acquire()
    deletion.cancel()
    assert len(site.rows(received_intakes)) == 1
