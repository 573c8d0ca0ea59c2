"""Destinations decided ahead of their mail: bounded in number, and without taking anything down."""

import asyncio

from stsguard.names import Domain
from stsguard.outbound.warming import AT_ONCE, MAX_WAITING, Warming, warmed
from tests.unit.fakes import Clock, World, virtual


@virtual
async def test_they_are_decided_before_anybody_asks(world: World) -> None:
    world.publish("a.example")
    told = Warming(world.demands)
    assert told.add(["A.example", "b.example:587", "[c.example]", ".d.example", "192.0.2.1", "no name", "\udcff"]) == 2
    working = asyncio.create_task(told.run())
    await asyncio.sleep(60)
    assert world.demands.known(Domain("a.example"), 25) is not None
    assert world.demands.known(Domain("b.example"), 587) is not None
    assert len(world.demands) == 2
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)


def test_what_does_not_fit_is_dropped() -> None:
    before = warmed.value("dropped")
    told = Warming(World(Clock()).demands)
    keys = [f"n{number}.example" for number in range(MAX_WAITING + 3)]
    assert told.add(keys) == MAX_WAITING
    assert warmed.value("dropped") - before == 3
    assert AT_ONCE < MAX_WAITING
