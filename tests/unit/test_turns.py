"""Long walks in pieces."""

import asyncio
from operator import itemgetter
from random import Random

from stsguard.discovery.turns import SORTED_AT_ONCE, in_order
from tests.unit.fakes import World, virtual


@virtual
async def test_all_come_in_order_and_others_have_their_turn_meanwhile(world: World) -> None:
    for count in (0, 1, SORTED_AT_ONCE, 5 * SORTED_AT_ONCE + 1):
        items = [(Random(number).random(), number) for number in range(count)]
        turns: list[None] = []

        async def take_turns(turns: list[None] = turns) -> None:
            while True:
                turns.append(None)
                await asyncio.sleep(0)

        turning = asyncio.create_task(take_turns())
        assert list(await in_order(items, itemgetter(0))) == sorted(items)
        turning.cancel()
        assert len(turns) >= count // SORTED_AT_ONCE
