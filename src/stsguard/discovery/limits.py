"""One time limit for many that wait, on one timer: each a timer of its own would cost more than what is waited for."""

import asyncio
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class TimeLimit(Generic[K]):
    """Calls `expire` with each key that has waited for `seconds`; keys go by their age, so the oldest is the first."""

    def __init__(self, seconds: float, expire: Callable[[K], None]) -> None:
        self._seconds = seconds
        self._expire = expire
        self._ends: dict[K, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # the one that the timer is set in

    def add(self, key: K) -> None:
        """`key` waits from now on."""
        if self._timer is None or self._loop is None:
            self._loop = asyncio.get_running_loop()  # not asked for each time, since it takes a system call
        end = self._ends[key] = self._loop.time() + self._seconds
        if self._timer is None:
            self._timer = self._loop.call_at(end, self._look)

    def discard(self, key: K) -> None:
        """`key` waits no longer, where it did."""
        self._ends.pop(key, None)

    def clear(self) -> None:
        """Nobody waits any longer."""
        self._ends.clear()

    def _look(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._ends:
            key = next(iter(self._ends))
            if self._ends[key] > now:
                self._timer = loop.call_at(self._ends[key], self._look)
                return
            del self._ends[key]
            self._expire(key)
