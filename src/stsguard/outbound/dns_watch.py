"""Whether DNS works at all: without it nearly all mail waits, so an admin has to find that first.

One question that every working resolver answers is asked again and again. Whether the answer is to be believed is
another matter, `discovery.dane_readiness`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from stsguard.core.errors import LookupFailed
from stsguard.discovery.health import PartHealth, PartState
from stsguard.log import logger, outcome

log = logger(__name__)

CHECK_SECONDS = 60.0
FAILING_CHECK_SECONDS = 10.0


class DnsWatch:
    """Asks by `ask`, which raises LookupFailed where there is no answer."""

    def __init__(self, ask: Callable[[], Awaitable[object]]) -> None:
        self._ask = ask
        self.problem: str | None = None

    async def look(self) -> None:
        """Ask once; what has changed is logged."""
        before = self.problem
        try:
            await self._ask()
        except LookupFailed as exc:
            self.problem = str(exc)
        else:
            self.problem = None
        if self.problem is None and before is not None:
            outcome(log, logging.INFO, "DNS works again")
        elif self.problem is not None and self.problem != before:
            outcome(log, logging.ERROR, "DNS does not work, mail waits until it does", reason=self.problem)

    async def run(self) -> None:
        """Ask again and again."""
        while True:
            await asyncio.sleep(CHECK_SECONDS if self.problem is None else FAILING_CHECK_SECONDS)
            await self.look()

    def health(self) -> PartHealth:
        """Whether the last question was answered."""
        if self.problem is not None:
            return PartHealth(PartState.FAILED, f"mail waits, except where a reply is cached: {self.problem}")
        return PartHealth(PartState.OK, "the resolver answers")
