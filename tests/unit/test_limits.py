"""One time limit for many that wait."""

import asyncio

from stsguard.discovery.limits import TimeLimit
from tests.unit.fakes import World, virtual


@virtual
async def test_each_has_its_own_time_and_only_who_still_waits_is_told(world: World) -> None:
    begun = world.clock.monotonic()
    told: list[tuple[str, float]] = []
    limit: TimeLimit[str] = TimeLimit(10.0, lambda key: told.append((key, world.clock.monotonic() - begun)))
    limit.add("a")
    await asyncio.sleep(3)
    limit.add("b")
    limit.add("c")
    limit.discard("b")
    limit.discard("never there")
    await asyncio.sleep(30)
    assert told == [("a", 10.0), ("c", 13.0)]
    limit.add("d")
    limit.clear()
    await asyncio.sleep(30)
    limit.add("e")
    await asyncio.sleep(30)
    assert told[2:] == [("e", 73.0)]
