"""Faults of ours: reported once, counted, and kept where they are."""

import asyncio

import pytest

from stsguard.discovery import supervisor
from stsguard.discovery.supervisor import RESTART_SECONDS, contained, kept_up, report, supervised
from tests.unit.fakes import Clock, VirtualLoop


def crash() -> None:
    raise ZeroDivisionError("a bug")


def test_a_fault_is_reported_once_with_its_stack(caplog: pytest.LogCaptureFixture) -> None:
    before = supervisor.crashes.value("test")
    fault = ZeroDivisionError("a bug")
    report("test", fault)
    report("test", fault)
    report("test", ZeroDivisionError("a bug"))
    assert supervisor.crashes.value("test") == before + 2
    assert [record.exc_info is not None for record in caplog.records] == [True, True]


def test_contained_tells_whether_it_went_well() -> None:
    assert contained("test", lambda: None)
    assert not contained("test", crash)


async def test_supervised_lets_cancellation_pass_and_nothing_else() -> None:
    async def fail() -> None:
        crash()

    assert not await supervised("test", fail())
    assert await supervised("test", asyncio.sleep(0))
    task = asyncio.create_task(supervised("test", asyncio.Event().wait()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_kept_up_begins_anew_after_a_while_and_ends_with_its_work() -> None:
    clock = Clock()
    begun: list[float] = []

    async def work() -> None:
        begun.append(clock.elapsed)
        if len(begun) < 4:
            crash()

    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        runner.run(kept_up("test", work))
    assert begun == pytest.approx([0, RESTART_SECONDS, 2 * RESTART_SECONDS, 3 * RESTART_SECONDS])
