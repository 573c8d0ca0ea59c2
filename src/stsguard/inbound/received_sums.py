"""What reports say of our own domains in the last seven days, as gauges.

They are read from the database every few minutes, so that it makes no difference which process took a report in, or
when. Only domains that are hosted here or configured are told apart: senders can name any.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from stsguard.core.errors import StoreUnavailable
from stsguard.log import logger
from stsguard.metrics import Gauge
from stsguard.names import Domain
from stsguard.ports import Clock, DomainStore
from stsguard.ports.intake import ReceivedSumsStore

log = logger(__name__)

READ_SECONDS = 300.0
DAYS = 7

Values = dict[tuple[str, ...], float]


class ReceivedSums:
    """The gauges, kept up with the database. `listed` are the configured domains beside those hosted."""

    def __init__(self, store: ReceivedSumsStore, domains: DomainStore, listed: Sequence[Domain], clock: Clock) -> None:
        self._store = store
        self._domains = domains
        self._listed = frozenset(map(str, listed))
        self._clock = clock
        self._sessions: Values = {}
        self._failures: Values = {}
        Gauge(
            "received_week_sessions",
            "Sessions that reports which count tell of, of the last seven UTC days.",
            "policy_domain",
            "result",
            read=lambda: self._sessions,
        )
        Gauge(
            "received_week_failures",
            "Failed sessions of their failure-details, of the last seven UTC days.",
            "policy_domain",
            "result_type",
            read=lambda: self._failures,
        )

    async def run(self) -> None:
        """Keep them up, for ever."""
        while True:
            try:
                await self.read()
            except StoreUnavailable as exc:
                log.debug("sums of received reports not read: %s", exc)  # they stay as they were
            await asyncio.sleep(READ_SECONDS)

    async def read(self) -> None:
        """Read them once.

        Raises:
            StoreUnavailable: the database can't be read.
        """
        hosted = {str(domain.policy_domain) for domain in await self._domains.load_domains()}
        since = self._clock.now().date() - timedelta(days=DAYS - 1)
        names = sorted(hosted | self._listed)
        sums, failures = await self._store.sums_of_domains(names, since)
        # Zero, not nothing, for a domain that is not reported: an alert has to find it.
        sessions: Values = {(name, result): 0.0 for name in names for result in ("success", "failure")}
        for each in sums:
            sessions[each.name, "success"] = float(each.successes or 0)
            sessions[each.name, "failure"] = float(each.failures)
        self._sessions = sessions
        self._failures = {(name, result_type): float(number) for name, result_type, number in failures}
