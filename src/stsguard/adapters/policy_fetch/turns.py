"""Turns for what keeps the processor busy: one in each turn of the event loop, so that whatever else has come in is
served between two of them.

A step of a TLS handshake takes up to half a millisecond. Dozens of fetches under way would make dozens of steps in a
row, and a cached look-up that comes meanwhile would wait for all of them.
"""

import asyncio
from collections import deque


class Turns:
    """`take` returns when it is the caller's turn; in order, and at once where nobody else wants one."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_taken = False

    async def take(self) -> None:
        """Wait for a turn, which lasts until the caller awaits something else."""
        loop = asyncio.get_running_loop()
        if not self._is_taken:
            self._is_taken = True
            loop.call_soon(self._pass_on)
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _pass_on(self) -> None:
        """Called once in a turn of the loop, which looks for other work before the next."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                asyncio.get_running_loop().call_soon(self._pass_on)
                return
        self._is_taken = False
