"""What is due when, and its beginning: few at a time, so that look-ups have their turn between them.

A hundred that are begun in one turn of the event loop keep every look-up waiting that comes meanwhile; one in each turn
costs twice the CPU, since to wake up, and to wake the nameserver up, takes as much as the work. What falls due within a
second is therefore spread over the second after it, a few in each turn. Kept by the second, since nothing here is in
more of a hurry, an item costs a place in a dictionary and can be taken out at once; with nothing due there is no timer
but one that is set once a minute.
"""

import asyncio
import heapq
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

LOOKED_AT_IN_A_TURN = 64  # to find that there is nothing to do is a hundredth of the work
LEAST_PAUSE_SECONDS = 0.001  # between two turns of whoever is late; the event loop's timers are no finer
WAKE_SECONDS = 60.0  # the longest sleep, since the loop's clock stands still while the machine sleeps

Place = dict[Any, None]  # of items of one agenda, which are equal to nothing but themselves


class Placed(Protocol):
    """What can be on an agenda; `place` is the agenda's own, None while it is on none."""

    place: Place | None


T = TypeVar("T", bound=Placed)


class Agenda(Generic[T]):
    """Items by the whole second when they are due, at most `concurrency` of them under way.

    `begin` has an item that is due, and says whether that led to work; the work ends with a call of `ended`. An item is
    off the agenda when it is begun. `in_a_turn` are begun together, which is to take a third of a millisecond. `now` is
    the clock of the instants.
    """

    def __init__(
        self, begin: Callable[[T], bool], now: Callable[[], float], *, concurrency: int, in_a_turn: int
    ) -> None:
        self._begin = begin
        self._now = now
        self._in_a_turn = in_a_turn
        self._free = asyncio.Semaphore(concurrency)
        self._seconds: dict[int, dict[T, None]] = {}
        self._order: list[int] = []  # a heap of the keys of `_seconds`
        self._asleep_until = float("-inf")
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return sum(map(len, self._seconds.values()))

    def put(self, item: T, at: float) -> None:
        """Have `item` begun at `at` or up to two seconds later; where it was before counts no longer."""
        if item.place is not None:
            item.place.pop(item, None)
        second = int(max(at, self._now())) + 1
        place = self._seconds.get(second)
        if place is None:
            place = self._seconds[second] = {}
            heapq.heappush(self._order, second)
            if second < self._asleep_until:
                self._wake.set()
        place[item] = None
        item.place = place

    def discard(self, item: T) -> None:
        """Take `item` off the agenda, where it is on it."""
        if item.place is not None:
            item.place.pop(item, None)
            item.place = None

    def ended(self, _work: object = None) -> None:
        """Work that was begun is over."""
        self._free.release()

    async def run(self) -> None:
        """Begin what is due, for ever."""
        while True:
            await self._sleep_until_due()
            second = self._order[0]
            await self._begin_all(self._seconds[second], second + 1)
            del self._seconds[heapq.heappop(self._order)]

    async def _sleep_until_due(self) -> None:
        while (left := (self._order[0] if self._order else float("inf")) - self._now()) > 0:
            self._asleep_until = self._now() + left
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, WAKE_SECONDS)):
                    await self._wake.wait()
        self._asleep_until = float("-inf")

    async def _begin_all(self, due: dict[T, None], until: float) -> None:
        """Begin all of `due`, spread over the time until `until` as far as there is time."""
        while due:
            pause = (until - self._now()) * min(1.0, self._in_a_turn / len(due))
            await self._begin_some(due)
            await asyncio.sleep(max(pause, LEAST_PAUSE_SECONDS))  # after the last as well: the next second is due then

    async def _begin_some(self, due: dict[T, None]) -> None:
        begun = 0
        for _ in range(LOOKED_AT_IN_A_TURN):
            await self._free.acquire()
            is_begun = False
            try:
                if not due:
                    return  # the rest was taken out meanwhile
                item, _ = due.popitem()
                item.place = None
                is_begun = self._begin(item)
            finally:
                if not is_begun:
                    self._free.release()
            begun += is_begun
            if begun == self._in_a_turn:
                return
