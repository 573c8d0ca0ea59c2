"""Destinations that mail is about to go to, decided before Postfix asks: what the milter tells of.

Only so many at once, and only so many waiting: warming is never in the way of a look-up that Postfix waits for, and
what does not fit is dropped, since Postfix will ask in any case.
"""

import asyncio
from collections.abc import Sequence

from stsguard.core.socketmap import KeyKind, parse_next_hop
from stsguard.discovery.demand import Demands
from stsguard.discovery.supervisor import supervised
from stsguard.metrics import Counter
from stsguard.names import Domain

warmed = Counter("warmed_total", "Destinations told of ahead of their mail, by what became of that.", "outcome")

AT_ONCE = 20
MAX_WAITING = 1000


class Warming:
    """The queue, and those at work on it."""

    def __init__(self, demands: Demands) -> None:
        self._demands = demands
        self._waiting: asyncio.Queue[tuple[Domain, int]] = asyncio.Queue(MAX_WAITING)

    def add(self, keys: Sequence[str]) -> int:
        """Have these next hops decided soon; how many of them are. What is no domain is none of them."""
        taken = 0
        for key in keys:
            next_hop = parse_next_hop(key.encode("utf-8", "replace"))
            if next_hop.kind is not KeyKind.DOMAIN or next_hop.host is None:
                warmed.inc("no domain")
                continue
            try:
                self._waiting.put_nowait((next_hop.host, next_hop.port))
            except asyncio.QueueFull:
                warmed.inc("dropped")
            else:
                taken += 1
        return taken

    async def run(self) -> None:
        """Work on them, for ever."""
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            host, port = await self._waiting.get()
            await supervised("warming", self._warm(host, port))

    async def _warm(self, host: Domain, port: int) -> None:
        await self._demands.demand(self._demands.destination(host, port))
        warmed.inc("decided")
