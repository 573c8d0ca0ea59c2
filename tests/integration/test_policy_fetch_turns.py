"""Steps of TLS handshakes are made one in a turn of the event loop."""

import asyncio
from itertools import pairwise

from stsguard.adapters.policy_fetch.turns import Turns


async def test_other_work_is_done_between_two_turns() -> None:
    turns = Turns()
    seen: list[str] = []

    async def work(name: str) -> None:
        await turns.take()
        seen.append(name)

    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(work(f"step {number}"))
        for _ in range(12):
            seen.append("other")
            await asyncio.sleep(0)
    steps = [index for index, name in enumerate(seen) if name != "other"]
    assert [seen[index] for index in steps] == [f"step {number}" for number in range(4)]
    assert all(later - earlier > 1 for earlier, later in pairwise(steps))


async def test_a_turn_goes_to_whoever_still_wants_it() -> None:
    turns = Turns()
    await turns.take()
    waiting = [asyncio.create_task(turns.take()) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.wait_for(waiting[1], 30)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.wait_for(turns.take(), 30)
