"""The thread of the store: order, limits, and calls that hang."""

import asyncio
import logging
import threading
from functools import partial
from pathlib import Path

import pytest

from stsguard.core.errors import StoreUnavailable
from stsguard.store.policies import PolicyStoreSql
from stsguard.store.worker import MAX_WAITING, StoreThread
from tests.integration.store.examples import stored


async def test_calls_are_made_in_order_on_one_thread() -> None:
    thread = StoreThread("test")
    made: list[tuple[int, str]] = []

    def note(number: int) -> None:
        made.append((number, threading.current_thread().name))

    await asyncio.gather(*(thread.run(partial(note, number), timeout_seconds=60) for number in range(100)))
    assert made == [(n, "test") for n in range(100)]
    await thread.stop(60)


async def test_result_and_error_reach_the_caller() -> None:
    thread = StoreThread("test")
    assert await thread.run(lambda: 7, timeout_seconds=60) == 7
    for error in (StoreUnavailable("full"), TimeoutError("its own"), KeyError("a bug")):

        def fail(error: BaseException = error) -> None:
            raise error

        with pytest.raises(type(error)) as caught:
            await thread.run(fail, timeout_seconds=60)
        assert caught.value.args == error.args
    assert await thread.run(lambda: 8, timeout_seconds=60) == 8
    await thread.stop(60)


async def test_call_that_hangs_holds_nobody_up_and_others_go_on_after_it() -> None:
    thread = StoreThread("test")
    release, made = threading.Event(), []
    with pytest.raises(StoreUnavailable, match=r"^the database does not answer within 0\.05 s$"):
        await thread.run(release.wait, timeout_seconds=0.05)
    with pytest.raises(StoreUnavailable, match=r"^the database still does not answer$"):
        await thread.run(lambda: made.append("refused"), timeout_seconds=60)
    release.set()
    while True:
        try:
            await thread.run(lambda: made.append("made"), timeout_seconds=60)
            break
        except StoreUnavailable:
            await asyncio.sleep(0)
    assert made == ["made"]
    await thread.stop(60)


async def test_call_whose_time_is_over_before_its_turn_is_not_made() -> None:
    thread = StoreThread("test")
    begun, release, made = threading.Event(), threading.Event(), []

    def hold() -> None:
        begun.set()
        release.wait()

    first = asyncio.create_task(thread.run(hold, timeout_seconds=60))
    await asyncio.to_thread(begun.wait)
    with pytest.raises(StoreUnavailable, match=r"^the database does not answer within 0\.05 s$"):
        await thread.run(lambda: made.append("late"), timeout_seconds=0.05)
    release.set()
    await first
    await thread.run(lambda: made.append("next"), timeout_seconds=60)
    assert made == ["next"]
    await thread.stop(60)


async def test_flood_is_refused_at_once() -> None:
    thread = StoreThread("test")
    begun, release = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        release.wait()

    first = asyncio.create_task(thread.run(hold, timeout_seconds=60))
    await asyncio.to_thread(begun.wait)
    waiting = [asyncio.create_task(thread.run(lambda: None, timeout_seconds=60)) for _ in range(MAX_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable, match=r"^the database can't keep up$"):
        await thread.run(lambda: None, timeout_seconds=60)
    release.set()
    await asyncio.gather(first, *waiting)
    await thread.stop(60)


async def test_stop_ends_the_thread_and_it_may_begin_anew() -> None:
    thread = StoreThread("test stopped")
    for _ in range(2):
        await thread.run(lambda: None, timeout_seconds=60)
        assert "test stopped" in [each.name for each in threading.enumerate()]
        await thread.stop(60)
        assert "test stopped" not in [each.name for each in threading.enumerate()]
    await thread.stop(60)  # no effect


async def test_store_that_hangs_is_left_behind_when_it_is_closed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = PolicyStoreSql(f"sqlite:///{tmp_path}/stsguard.db")
    await store.open()
    release = threading.Event()
    with pytest.raises(StoreUnavailable):
        await store._access._writer.run(release.wait, timeout_seconds=0.05)
    asyncio.get_running_loop().call_later(0.2, release.set)
    with caplog.at_level(logging.ERROR, "stsguard"):
        await store.close()
    (record,) = caplog.records
    assert record.message == "store not closed in order"
    assert str(record.__dict__["fields"]["reason"]) == "the database still does not answer"
    await store.close()  # now it can be


async def test_write_under_way_is_done_before_the_store_closes(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/stsguard.db"
    store, policies = PolicyStoreSql(url), [stored(f"d{number}.example") for number in range(2000)]
    await store.open()
    saving = asyncio.create_task(store.save_policies(policies))
    await asyncio.sleep(0)
    await store.close()
    await saving
    again = PolicyStoreSql(url)
    await again.open()
    assert len(await again.load_policies(None, 10_000)) == 2000
    await again.close()
