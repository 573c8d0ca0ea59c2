"""How many queries may be under way at a time; who comes too late waits for its turn, in order."""

import asyncio
from collections import deque


class Slots:
    """A semaphore of which a slot can be taken without awaiting anything, as nearly every query does."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """Take a free slot; False where there is none."""
        if self._free <= 0:
            return False
        self._free -= 1
        return True

    async def wait(self, timeout_seconds: float) -> None:
        """Take a slot as soon as one is free.

        Raises:
            TimeoutError: none was in time.
        """
        if self.take():
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(timeout_seconds):
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.release()  # it came when nobody wanted it any longer
            raise

    def release(self) -> None:
        """Give a slot back: to the first who waits, where somebody does."""
        waiting = self._waiting
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
