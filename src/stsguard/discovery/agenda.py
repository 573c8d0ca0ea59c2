"""What is due when, and its beginning: few at a time, so that look-ups have their turn between them.

A hundred that are begun in one turn of the event loop keep every look-up waiting that comes meanwhile; one in each turn
costs twice the CPU, since to wake up, and to wake the nameserver up, takes as much as the work. What falls due within a
second is therefore spread over the second after it, a few in each turn. Kept by the second, since nothing here is in
more of a hurry, an item costs no more than a link to each of its neighbours and can be taken out at once; with nothing
due there is no timer but one that is set once a minute.
"""

import asyncio
import heapq
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, Protocol, TypeVar, cast

LOOKED_AT_IN_A_TURN = 64  # to find that there is nothing to do is a hundredth of the work
LEAST_PAUSE_SECONDS = 0.001  # between two turns of whoever is late; the event loop's timers are no finer
WAKE_SECONDS = 60.0  # the longest sleep, since the loop's clock stands still while the machine sleeps


class Placed(Protocol):
    """What can be on an agenda; its neighbours there are the agenda's own, None while it is on none.

    Of a million items each is on one, so they are linked by themselves: a place in any container takes twice that.
    """

    before: "Placed | None"
    after: "Placed | None"


T = TypeVar("T", bound=Placed)


class _Second:
    """The items that are due within one second, in a ring that it closes itself."""

    __slots__ = ("after", "before", "most")

    def __init__(self) -> None:
        self.before: Placed | None = self
        self.after: Placed | None = self
        self.most = 0  # there are no more items than that: those taken out count as well

    def __bool__(self) -> bool:
        return self.before is not self

    def add(self, item: Placed) -> None:
        last = cast(Placed, self.before)
        item.before, item.after = last, self
        last.after = self.before = item
        self.most += 1

    def pop(self) -> Placed:
        last = cast(Placed, self.before)
        _take_out(last)
        self.most -= 1
        return last

    def close(self) -> None:
        """It is over: nobody has to seek garbage."""
        self.before = self.after = None


def _take_out(item: Placed) -> None:
    if item.before is not None and item.after is not None:
        item.before.after, item.after.before = item.after, item.before
        item.before = item.after = None


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
        self._seconds: dict[int, _Second] = {}
        self._order: list[int] = []  # a heap of the keys of `_seconds`
        self._asleep_until = float("-inf")
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        count = 0
        for second in self._seconds.values():
            item = second.after
            while item is not None and item is not second:
                count, item = count + 1, item.after
        return count

    def put(self, item: T, at: float) -> None:
        """Have `item` begun at `at` or up to two seconds later; where it was before counts no longer."""
        _take_out(item)
        second = int(max(at, self._now())) + 1
        due = self._seconds.get(second)
        if due is None:
            due = self._seconds[second] = _Second()
            heapq.heappush(self._order, second)
            if second < self._asleep_until:
                self._wake.set()
        due.add(item)

    def discard(self, item: T) -> None:
        """Take `item` off the agenda, where it is on it."""
        _take_out(item)

    def ended(self, _work: object = None) -> None:
        """Work that was begun is over."""
        self._free.release()

    async def run(self) -> None:
        """Begin what is due, for ever."""
        while True:
            await self._sleep_until_due()
            second = self._order[0]
            await self._begin_all(self._seconds[second], second + 1)
            self._seconds.pop(heapq.heappop(self._order)).close()

    async def _sleep_until_due(self) -> None:
        while (left := (self._order[0] if self._order else float("inf")) - self._now()) > 0:
            self._asleep_until = self._now() + left
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, WAKE_SECONDS)):
                    await self._wake.wait()
        self._asleep_until = float("-inf")

    async def _begin_all(self, due: _Second, until: float) -> None:
        """Begin all of `due`, spread over the time until `until` as far as there is time."""
        while due:
            pause = (until - self._now()) * min(1.0, self._in_a_turn / due.most)
            await self._begin_some(due)
            await asyncio.sleep(max(pause, LEAST_PAUSE_SECONDS))  # after the last as well: the next second is due then

    async def _begin_some(self, due: _Second) -> None:
        begun = 0
        for _ in range(LOOKED_AT_IN_A_TURN):
            await self._free.acquire()
            is_begun = False
            try:
                if not due:
                    return  # the rest was taken out meanwhile
                is_begun = self._begin(cast(T, due.pop()))
            finally:
                if not is_begun:
                    self._free.release()
            begun += is_begun
            if begun == self._in_a_turn:
                return
