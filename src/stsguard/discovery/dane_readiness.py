"""Whether DANE evidence counts at all: does our resolver validate, and can Postfix itself do DANE?

Where either is missing every domain counts as "no TLSA anywhere", MTA-STS goes on, and the log and `/healthz` say so.
A check that saw too little never replaces one that saw enough, or whoever delays an answer switches DANE off.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from stsguard.log import logger, outcome

log = logger(__name__)

CHECK_SECONDS = 600.0
UNSURE_CHECK_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check showed. `conclusive` False: too little was seen to change anything."""

    ready: bool
    conclusive: bool
    reason: str


Check = Callable[[], Awaitable[Finding]]


class DaneReadiness:
    """Watches one condition of DANE. `ready` is what holds now, `reason` why; `on_change` hears of a change.

    Until a check was conclusive `assume` holds.
    """

    def __init__(self, name: str, check: Check, *, assume: bool) -> None:
        self.name = name
        self._check = check
        self.ready = assume
        self.reason = "not checked yet"
        self.conclusive = False
        self.doubt: str | None = None  # why the last check did not count
        self._next_seconds = UNSURE_CHECK_SECONDS
        self.on_change: Callable[[bool], None] = lambda _ready: None

    async def look(self) -> None:
        """Check once."""
        self._next_seconds = UNSURE_CHECK_SECONDS
        found = await self._check()
        if found.conclusive:
            self._next_seconds = CHECK_SECONDS
        before, self.doubt = self.doubt, None
        if not found.conclusive and self.conclusive:
            self.doubt = found.reason
            if self.doubt != before:
                what = "DANE check inconclusive, the last one holds"
                outcome(log, logging.WARNING, what, check=self.name, reason=found.reason)
            return
        changed = found.ready is not self.ready
        if changed or found.reason != self.reason:
            level = logging.INFO if found.ready and found.conclusive else logging.WARNING
            possible = "DANE is possible" if found.conclusive else "DANE check inconclusive, taken for possible"
            what = possible if found.ready else "no DANE, every domain counts as one without TLSA"
            outcome(log, level, what, check=self.name, reason=found.reason)
        self.ready, self.reason, self.conclusive = found.ready, found.reason, found.conclusive
        if changed:
            self.on_change(found.ready)

    async def run(self) -> None:
        """Check again and again."""
        while True:
            await asyncio.sleep(self._next_seconds)
            await self.look()
