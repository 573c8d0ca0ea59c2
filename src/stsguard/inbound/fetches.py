"""Who fetches our policies: every fetch counted by domain, UTC day, User-Agent and network, so that an operator sees
which senders know the policy.

Addresses are stored no finer than IPv4 /24 and IPv6 /48, and never logged. What strangers can make up is bounded: so
many kinds of clients are told apart, the rest is counted as "other" for each domain.
"""

import asyncio
import logging
from datetime import date, timedelta

from stsguard.core.errors import StoreUnavailable
from stsguard.core.hosted import PolicyFetchRow
from stsguard.core.policy_request import MAX_USER_AGENT, OTHER, client_network, printable_agent
from stsguard.log import logger, outcome
from stsguard.names import Domain
from stsguard.ports import Clock, PolicyFetchStore

log = logger(__name__)

FLUSH_SECONDS = 1.0  # what a killed process loses at most
KEEP_DAYS = 90
DELETE_SECONDS = 3600.0
PENDING = 5_000  # kinds of clients within a second
ROWS_A_DAY = 20_000  # kinds of clients a day that this process tells apart

_Kind = tuple[Domain, bytes, str]
_Row = tuple[str, Domain, str, str]


class FetchCounts:
    """Counts fetches and has them stored once a second; while that fails they wait, bounded, in memory."""

    def __init__(self, store: PolicyFetchStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._pending: dict[_Kind, int] = {}
        self._unsaved: dict[_Row, int] = {}
        self._day = ""
        self._rows_of_day: set[_Row] = set()
        self._failing = False

    def count(self, policy_domain: Domain, user_agent: bytes, address: str) -> None:
        """Count one fetch by the client at `address`, empty where it has none. Called on every request."""
        if len(user_agent) > MAX_USER_AGENT:
            user_agent = user_agent[:MAX_USER_AGENT]
        kind = (policy_domain, user_agent, address)
        seen = self._pending.get(kind)
        if seen is None and len(self._pending) >= PENDING:
            kind = (policy_domain, OTHER.encode(), OTHER)
            seen = self._pending.get(kind)
        self._pending[kind] = (seen or 0) + 1

    async def run(self) -> None:
        """Store them, for ever."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()

    async def run_deletion(self) -> None:
        """Delete what is older than 90 days, for ever; one process does it."""
        while True:
            try:
                await self._store.delete_policy_fetches(self._today() - timedelta(days=KEEP_DAYS))
            except StoreUnavailable as exc:
                log.debug("old policy fetches not deleted yet: %s", exc)
            await asyncio.sleep(DELETE_SECONDS)

    async def flush(self) -> None:
        """Store what was counted so far."""
        self._take_over()
        if not self._unsaved:
            return
        batch, self._unsaved = self._unsaved, {}
        try:
            await self._store.add_policy_fetches([PolicyFetchRow(*row, fetches) for row, fetches in batch.items()])
        except StoreUnavailable as exc:
            if not self._failing:
                outcome(log, logging.WARNING, "policy fetches can't be stored yet", reason=exc)
            self._failing = True
            for row, fetches in batch.items():
                self._unsaved[row] = self._unsaved.get(row, 0) + fetches
            return
        if self._failing:
            outcome(log, logging.INFO, "policy fetches are stored again")
        self._failing = False

    def _take_over(self) -> None:
        day = self._today().isoformat()
        if day != self._day:
            self._day, self._rows_of_day = day, set()
        pending, self._pending = self._pending, {}
        for (policy_domain, user_agent, address), fetches in pending.items():
            row = self._row(day, policy_domain, user_agent, address)
            self._unsaved[row] = self._unsaved.get(row, 0) + fetches

    def _row(self, day: str, policy_domain: Domain, user_agent: bytes, address: str) -> _Row:
        network = OTHER if address == OTHER else client_network(address)
        row = (day, policy_domain, printable_agent(user_agent), network)
        if row not in self._rows_of_day:
            if len(self._rows_of_day) >= ROWS_A_DAY:
                return (day, policy_domain, OTHER, OTHER)
            self._rows_of_day.add(row)
        return row

    def _today(self) -> date:
        return self._clock.now().date()
