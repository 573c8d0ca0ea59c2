"""What is due is begun in time, few at a time, and never more at once than there are places."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from stsguard.discovery import agenda
from stsguard.discovery.agenda import LOOKED_AT_IN_A_TURN, Agenda, Placed
from tests.unit.fakes import World, virtual

IN_A_TURN = 4


@dataclass(slots=True, eq=False)
class Item:
    number: int
    before: Placed | None = None
    after: Placed | None = None


class Desk:
    """An agenda whose work ends when the test says so; `at` holds when each item was begun."""

    def __init__(self, world: World, *, concurrency: int = 1000, ends: bool = True) -> None:
        self.clock = world.clock
        self.at: dict[int, float] = {}
        self.idle = False
        self.ends = ends
        self.under_way = 0
        self.agenda: Agenda[Item] = Agenda(
            self._begin, world.clock.monotonic, concurrency=concurrency, in_a_turn=IN_A_TURN
        )
        self.task = asyncio.create_task(self.agenda.run())
        world.tasks.append(self.task)

    def _begin(self, item: Item) -> bool:
        self.at[item.number] = self.clock.monotonic()
        if self.idle:
            return False
        self.under_way += 1
        if self.ends:
            self.end()
        return True

    def end(self) -> None:
        self.under_way -= 1
        self.agenda.ended()

    def put(self, *numbers: int, after: float) -> list[Item]:
        items = [Item(number) for number in numbers]
        for item in items:
            self.agenda.put(item, self.clock.monotonic() + after)
        return items

    def begun_at_once(self) -> int:
        """The most that were begun at one instant."""
        at = list(self.at.values())
        return max(map(at.count, at))


@pytest.mark.parametrize("after", [-5.0, 0.0, 0.3, 1.0, 7.9, 1000.0])
@virtual
async def test_an_item_is_begun_once_when_it_is_due_and_hardly_later(world: World, after: float) -> None:
    desk = Desk(world)
    now = world.clock.monotonic()
    desk.put(1, after=after)
    await asyncio.sleep(1100)
    assert 0 <= desk.at[1] - now - max(after, 0.0) <= 1.0
    assert len(desk.agenda) == 0


@virtual
async def test_many_that_are_due_at_once_are_spread_over_a_second_few_at_a_time(world: World) -> None:
    desk = Desk(world)
    desk.put(*range(1000), after=10.0)
    await asyncio.sleep(20)
    assert len(desk.at) == 1000
    assert desk.begun_at_once() == IN_A_TURN
    assert 0.9 < max(desk.at.values()) - min(desk.at.values()) < 1.1


@virtual
async def test_whoever_is_late_goes_on_without_a_rest_but_still_few_at_a_time(world: World) -> None:
    desk = Desk(world)
    for second in range(100):
        desk.put(*range(1000 * second, 1000 * second + 100), after=float(second))
    world.clock.advance(200.0)  # the machine has slept
    began = world.clock.monotonic()
    await asyncio.sleep(10)
    assert len(desk.at) == 10_000
    assert desk.begun_at_once() == IN_A_TURN
    assert max(desk.at.values()) - began < 10_000 / IN_A_TURN * 2 * agenda.LEAST_PAUSE_SECONDS


@virtual
async def test_what_needs_no_work_is_looked_at_more_at_a_time(world: World) -> None:
    desk = Desk(world)
    desk.idle = True
    desk.put(*range(1000), after=1.0)
    await asyncio.sleep(5)
    assert len(desk.at) == 1000
    assert desk.begun_at_once() == LOOKED_AT_IN_A_TURN


@virtual
async def test_no_more_are_under_way_than_there_are_places(world: World) -> None:
    desk = Desk(world, concurrency=6, ends=False)
    desk.put(*range(20), after=1.0)
    await asyncio.sleep(60)
    assert desk.under_way == len(desk.at) == 6
    desk.end()
    await asyncio.sleep(1)
    assert desk.under_way == 6
    assert len(desk.at) == 7


@virtual
async def test_an_item_counts_where_it_was_put_last(world: World) -> None:
    desk = Desk(world)
    now = world.clock.monotonic()
    later, sooner, gone = desk.put(1, 2, 3, after=100.0)
    desk.agenda.put(later, now + 200.0)
    desk.agenda.put(sooner, now + 5.0)
    desk.agenda.discard(gone)
    desk.agenda.discard(gone)
    assert len(desk.agenda) == 2
    await asyncio.sleep(50)
    assert list(desk.at) == [2]
    await asyncio.sleep(200)
    assert list(desk.at) == [2, 1]
    assert desk.at[1] - now >= 200.0


@virtual
async def test_an_item_that_is_taken_out_while_its_second_is_begun_is_not_begun(world: World) -> None:
    desk = Desk(world)
    items = desk.put(*range(100), after=1.0)
    await world.until(lambda: bool(desk.at))
    for item in items:
        desk.agenda.discard(item)
    begun = len(desk.at)
    await asyncio.sleep(10)
    assert len(desk.at) == begun < 100


@virtual
async def test_one_that_is_due_before_the_next_wakes_the_loop(world: World) -> None:
    desk = Desk(world)
    desk.put(1, after=50.0)
    await asyncio.sleep(1)
    now = world.clock.monotonic()
    desk.put(2, after=3.0)
    await asyncio.sleep(10)
    assert desk.at[2] - now <= 4.0


@virtual
async def test_a_begin_that_fails_keeps_no_place_and_loses_no_other_item(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(world, concurrency=1)

    def crash(_item: Item) -> bool:
        raise ZeroDivisionError

    for number in range(3):
        desk.put(number, after=1.0)
    with monkeypatch.context() as patch:
        patch.setattr(desk.agenda, "_begin", crash)
        await asyncio.sleep(3)
        assert isinstance(desk.task.exception(), ZeroDivisionError)
    world.tasks.append(asyncio.create_task(desk.agenda.run()))
    await asyncio.sleep(3)
    assert len(desk.at) == 2


@virtual
async def test_with_nothing_due_there_is_a_timer_a_minute_at_most(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[float] = []
    call_at: Callable[..., Any] = asyncio.get_running_loop().call_at

    def counted(when: float, *arguments: Any, **more: Any) -> Any:
        calls.append(when)
        return call_at(when, *arguments, **more)

    Desk(world)
    monkeypatch.setattr(asyncio.get_running_loop(), "call_at", counted)
    await asyncio.sleep(3600)
    assert len(calls) <= 3600 / agenda.WAKE_SECONDS + 2
