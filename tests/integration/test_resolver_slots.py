"""Queries under way are bounded, and each slot that comes free has one taker."""

import asyncio

import pytest

from stsguard.adapters.resolver.slots import Slots


async def test_whoever_waits_longest_has_the_next_slot() -> None:
    slots = Slots(1)
    assert slots.take()
    assert not slots.take()
    waiting = [asyncio.create_task(slots.wait(60)) for _ in range(2)]
    await asyncio.sleep(0)
    slots.release()
    await waiting[0]
    assert not waiting[1].done()
    slots.release()
    await waiting[1]
    slots.release()
    assert slots.take()


async def test_a_slot_that_nobody_wants_any_longer_is_free_again() -> None:
    slots = Slots(1)
    assert slots.take()
    waiting = [asyncio.create_task(slots.wait(60)) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[1].cancel()  # still waits
    await asyncio.sleep(0)
    slots.release()
    waiting[0].cancel()  # has it already
    assert [type(outcome) for outcome in await asyncio.gather(*waiting, return_exceptions=True)] == [
        asyncio.CancelledError
    ] * 2
    assert slots.take()


async def test_the_wait_for_a_slot_has_an_end() -> None:
    slots = Slots(0)
    with pytest.raises(TimeoutError):
        await slots.wait(0.01)
    slots.release()
    await slots.wait(0)
