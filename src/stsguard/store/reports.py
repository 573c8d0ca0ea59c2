"""Our own reports and their deliveries: the port `ReportStore` on SQLite or PostgreSQL.

What is claimed is claimed in the database, so several processes and several nodes share the work. A lease is measured
by the clocks of the nodes: it has to be longer than these differ.
"""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from stsguard.core.errors import StoreUnavailable
from stsguard.core.report_record import Delivery, DeliveryState, ReportRecord, ReportState
from stsguard.log import logger, outcome
from stsguard.metrics import Counter
from stsguard.names import Domain
from stsguard.store.access import DatabaseAccess

if TYPE_CHECKING:
    from stsguard.store.rows import Readable
    from stsguard.store.tables import Tables

log = logger(__name__)
rows_invalid = Counter("store_reports_invalid_total", "Stored reports that could not be read; they are left out.")

T = TypeVar("T")
PAGE_DOMAINS = 10_000
DELETED_AT_ONCE = 500  # a transaction that other writes wait for; reports hold their JSON


class ReportStoreSql:
    """The reports in a database that other stores use as well: opening and closing this one opens and closes it for
    all. Every method raises `StoreUnavailable` where the database can't be used. Rows that are no report or delivery
    are reported and left out of lists."""

    def __init__(self, database: str | DatabaseAccess) -> None:
        self._access = DatabaseAccess(database) if isinstance(database, str) else database

    async def open(self) -> None:
        """Open the database, or look again whether it can be opened; no effect on an open one.

        Raises:
            StoreUnavailable: with what is wrong with it and what to do. It may be tried again at any time.
        """
        await self._access.open()

    async def close(self) -> None:
        """Write what was asked for before, and close the database. One that hangs is left behind."""
        await self._access.close()

    async def unbuilt_days(self, before: date) -> Sequence[date]:
        """The days before `before`, in order, with counters of a domain whose report is neither built nor marked as
        not wanted. It looks through the counters: for every few minutes, not for every second."""
        days = await self._read(lambda tables: tables.reports.counted_days(before))
        return [day for day in days if await self._unbuilt(day, "", 1)]

    async def unbuilt_domains(self, day: date) -> AsyncIterator[Domain]:
        """The report domains, in order, with counters on `day` and no report built nor mark set; those that a node
        is at work on are among them."""
        last = ""
        while names := await self._unbuilt(day, last, PAGE_DOMAINS):
            for name in names:
                yield Domain(name)
            last = names[-1]

    async def _unbuilt(self, day: date, after: str, limit: int) -> Sequence[str]:
        return await self._access.scan(lambda tables: tables.reports.unbuilt_domains(day, after, limit))

    async def _read(self, call: "Callable[[Tables], Readable[T]]") -> Sequence[T]:
        found = await self._access.scan(call)
        for reason in found.invalid:
            rows_invalid.inc()
            outcome(log, logging.ERROR, "stored report can't be read", reason=reason)
        return found.values

    async def claim_day(self, day: date, report_domain: Domain, node: str, now: datetime, lease_seconds: float) -> bool:
        """Whether `node` is now the one that builds this report; False where it is done, or another's turn."""
        until = now + timedelta(seconds=lease_seconds)
        return await self._access.write(lambda tables: tables.reports.claim(day, report_domain, node, now, until))

    async def mark_not_wanted(self, day: date, report_domain: Domain, now: datetime) -> bool:
        """Note that nobody wants this report, so that it isn't looked at again; False where there is one, or a
        mark."""
        return await self._access.write(lambda tables: tables.reports.mark_not_wanted(day, report_domain, now))

    async def save_report(self, report: ReportRecord, deliveries: Sequence[Delivery]) -> bool:
        """Write the report and its deliveries in one transaction; False where there is one already, or a mark, which
        stands. With deliveries the report's state is what they make of it."""
        return await self._access.write(lambda tables: tables.reports.save(report, deliveries))

    async def load_report(self, report_id: str) -> ReportRecord | None:
        """The report; None where there is none.

        Raises:
            StoreUnavailable: it can't be read, or what is stored is no report.
        """
        found = await self._access.scan(lambda tables: tables.reports.load(report_id))
        for reason in found.invalid:
            raise StoreUnavailable(f"what is stored is no report: {reason}")
        return found.values[0] if found.values else None

    async def list_reports(
        self,
        *,
        day: date | None = None,
        report_domain: Domain | None = None,
        state: ReportState | None = None,
        limit: int = 1000,
    ) -> Sequence[ReportRecord]:
        """Up to `limit` reports without their `json`, latest day first, then by domain. Where no state is asked
        for, those being built and the marks are left out."""
        return await self._read(
            lambda tables: tables.reports.load_list(day=day, report_domain=report_domain, state=state, limit=limit)
        )

    async def load_deliveries(self, report_id: str) -> Sequence[Delivery]:
        """The deliveries of one report, in order of their endpoints."""
        return await self._read(lambda tables: tables.reports.load_deliveries(report_id))

    async def due_deliveries(
        self, now: datetime, limit: int, *, force: bool = False, report_id: str | None = None
    ) -> Sequence[Delivery]:
        """Up to `limit` deliveries to be attempted by now, those due longest first, including those whose node is
        gone. With `force` every one that is not over and not being sent; with `report_id` of that report alone."""
        return await self._read(lambda tables: tables.reports.due(now, limit, force=force, report_id=report_id))

    async def claim_delivery(
        self, report_id: str, endpoint: str, node: str, now: datetime, lease_seconds: float, *, force: bool = False
    ) -> bool:
        """Whether `node` is now the one that sends; that counts as an attempt. `force` as in `due_deliveries`."""
        until = now + timedelta(seconds=lease_seconds)
        return await self._access.write(
            lambda tables: tables.reports.claim_delivery(report_id, endpoint, node, now, until, force=force)
        )

    async def finish_delivery(
        self,
        report_id: str,
        endpoint: str,
        node: str,
        *,
        state: DeliveryState,
        error: str = "",
        next_attempt_at: datetime | None = None,
    ) -> bool:
        """Write what came of the attempt of `node`: `state` PENDING with `next_attempt_at` for another one. False
        where it has lost its claim, which changes nothing; but SENT always stands, since it can't be undone."""
        return await self._access.write(
            lambda tables: tables.reports.finish_delivery(
                report_id, endpoint, node, state=state, error=error, next_attempt_at=next_attempt_at
            )
        )

    async def delete_reports(self, before: date, *, dry_run: bool = False) -> int:
        """Delete the reports, marks and deliveries of the days before `before`, and return how many reports and marks
        those were; with `dry_run` only count them. It is done in short transactions, between which others write."""
        if dry_run:
            return await self._access.scan(lambda tables: tables.reports.count_before(before))
        number = 0
        while some := await self._access.write(lambda tables: tables.reports.delete_some(before, DELETED_AT_ONCE)):
            number += some
            if some < DELETED_AT_ONCE:
                break
        return number
