"""The reports that others sent us, as commands, exports and metrics ask for them; how they get there is `received`."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import date

from stsguard.core.received_query import (
    FoundReport,
    Group,
    IntakeRow,
    NamedSum,
    PageKey,
    PolicyRow,
    ReportLine,
    Summary,
    Wanted,
)
from stsguard.store.access import DatabaseAccess

PAGE = 500


class ReceivedViewsSql:
    """Queries on the database of `access`, each on the thread of longer reads and bounded in time. Every method raises
    `StoreUnavailable` where the database can't be used."""

    def __init__(self, access: DatabaseAccess) -> None:
        self._access = access

    async def lines(self, wanted: Wanted, *, after: PageKey | None = None, limit: int) -> list[ReportLine]:
        """The next reports after `after`, the latest day first."""
        return await self._access.scan(lambda tables: tables.received_queries.lines(wanted, after, limit))

    async def refused(self, wanted: Wanted, *, before: int | None = None, limit: int) -> list[IntakeRow]:
        """The next intakes in which something could not be read, the latest first; of `wanted` the days count."""
        return await self._access.scan(lambda tables: tables.received_queries.refused(wanted, before, limit))

    async def load(self, number: int) -> FoundReport | None:
        """A report with all that was read of it; None where there is none of this number."""
        found = await self._access.scan(lambda tables: tables.received_queries.load([number]))
        return found[0] if found else None

    async def with_id(self, report_id: str, *, limit: int) -> Sequence[int]:
        """The numbers of the reports of this report-id, the latest stored first."""
        return await self._access.scan(lambda tables: tables.received_queries.with_id(report_id, limit))

    async def intake(self, number: int) -> IntakeRow | None:
        """What came in at once, without its octets; None where there is none of this number."""
        return await self._access.scan(lambda tables: tables.received_queries.intake(number))

    async def reports_of(self, intake: int, *, limit: int) -> Sequence[int]:
        """The numbers of the reports that came in with this intake."""
        return await self._access.scan(lambda tables: tables.received_queries.reports_of(intake, limit))

    async def summary(self, wanted: Wanted, *, top: int) -> Summary:
        """What counts, added up, and beside it what does not."""
        return await self._access.scan(lambda tables: tables.received_queries.summary(wanted, top))

    async def sums_of_domains(
        self, names: Sequence[str], since: date
    ) -> tuple[Sequence[NamedSum], Sequence[tuple[str, str, int]]]:
        """Of each of these domains the sessions since that day, and its failures by result-type."""
        return await self._access.scan(lambda tables: tables.received_queries.sums_of_domains(names, since.isoformat()))

    async def export(self, wanted: Wanted) -> AsyncIterator[FoundReport]:
        """All reports that are wanted, a bounded number at a time in memory, in the order of `lines`. They have those
        of their policies alone whose sessions `lines` adds up."""
        after: PageKey | None = None
        while True:
            keys = await self._keys(wanted, after)
            if not keys:
                return
            after = keys[-1]
            for part in await self._batches(keys):
                for report in await self._load(part):
                    own = tuple(policy for policy in report.policies if _is_wanted(policy, wanted))
                    yield report if len(own) == len(report.policies) else replace(report, policies=own)

    async def _keys(self, wanted: Wanted, after: PageKey | None) -> list[PageKey]:
        return await self._access.scan(lambda tables: tables.received_queries.keys(wanted, after, PAGE))

    async def _batches(self, keys: Sequence[PageKey]) -> list[list[int]]:
        return await self._access.scan(lambda tables: tables.received_queries.batches(keys))

    async def _load(self, numbers: Sequence[int]) -> list[FoundReport]:
        return await self._access.scan(lambda tables: tables.received_queries.load(numbers))


def _is_wanted(policy: PolicyRow, wanted: Wanted) -> bool:
    if wanted.group is Group.COUNTED and policy.foreign:
        return False
    return wanted.policy_domain is None or policy.policy_domain == wanted.policy_domain
