"""The counters of sessions: the ports `CounterStore` and `CounterReader` on SQLite or PostgreSQL.

No session is lost or counted twice because a write took too long or a connection broke at its end: a flush of which
nobody knows whether it was written is asked about before the next one, by its number, which is written with it. Where
it was, the next one takes it back, since the caller counts its rows again.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from stsguard.core.session import CounterRow
from stsguard.log import logger, outcome
from stsguard.metrics import Counter
from stsguard.names import Domain, NameInvalid
from stsguard.store.access import DatabaseAccess
from stsguard.store.flush import Flush

if TYPE_CHECKING:
    from stsguard.store.counter_pages import CounterKey, CounterPage

log = logger(__name__)
rows_invalid = Counter("store_counters_invalid_total", "Stored counters that could not be read; they are left out.")
flushes_taken_back = Counter(
    "store_flushes_taken_back_total", "Flushes of counters that were written after all, and so not counted again."
)

DELETED_AT_ONCE = 5000  # a transaction that other writes wait for


class SessionStoreSql:
    """The counters in a database that other stores use as well: opening and closing this one opens and closes it for
    all.

    `now` is for tests.
    """

    def __init__(
        self, database: str | DatabaseAccess, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._access = DatabaseAccess(database) if isinstance(database, str) else database
        self._now = now
        self._writer = os.urandom(16).hex()  # a process that starts anew has no flush in doubt
        self._number = 0
        self._in_doubt: Sequence[CounterRow] | None = None
        self._to_take_back: Sequence[CounterRow] = ()
        self._adding = asyncio.Lock()

    async def open(self) -> None:
        """Open the database, or look again whether it can be opened; no effect on an open one.

        Raises:
            StoreUnavailable: with what is wrong with it and what to do. It may be tried again at any time.
        """
        await self._access.open()

    async def close(self) -> None:
        """Write what was asked for before, and close the database. One that hangs is left behind."""
        await self._access.close()

    async def add_counters(self, rows: Sequence[CounterRow], positions: Mapping[str, str]) -> None:
        """Add `rows` to what is stored and replace the reading positions named in `positions` (an empty one
        is deleted), all in one transaction, and return when it is safe on disk. Neither may be changed afterwards.

        Raises:
            StoreUnavailable: it can't be written; the caller counts the rows again with its next call.
        """
        async with self._adding:
            await self._settle()
            if not rows and not positions and not self._to_take_back:
                return
            self._number += 1
            self._in_doubt = rows
            flush = Flush(self._writer, self._number, self._now().date())
            whole = (*self._to_take_back, *rows)
            await self._access.write(lambda tables: tables.counters.add(whole, positions, flush))
            self._in_doubt, self._to_take_back = None, ()

    async def _settle(self) -> None:
        """Find out what became of the last flush, where the call did not end well."""
        if self._in_doubt is None:
            return
        today = self._now().date()
        written = await self._access.write(lambda tables: tables.counters.last_flush(self._writer, today))
        if written == self._number:
            flushes_taken_back.inc()
            outcome(log, logging.WARNING, "counters were written late", counters=len(self._in_doubt))
            self._to_take_back = tuple(map(_negative, self._in_doubt))
        self._in_doubt = None

    async def load_positions(self) -> Mapping[str, str]:
        """How far each log has been read, as last written with the counters that it gave.

        Raises:
            StoreUnavailable: they can't be read.
        """
        return await self._access.scan(lambda tables: tables.counters.positions())

    async def load_counters(self, day: date, report_domain: Domain | None = None) -> AsyncIterator[CounterRow]:
        """The counters of `day` in order of their report domains, or those of one; what adds up to nothing is left
        out. Rows that are no counter are reported and passed over.

        Raises:
            StoreUnavailable: they can't be read, or not to the end.
        """
        last: CounterKey | None = None
        while True:
            page = await self._page(day, report_domain, last)
            for name, reason in page.invalid:
                rows_invalid.inc()
                outcome(log, logging.ERROR, "stored counter can't be read", policy_domain=name, day=day, reason=reason)
            for row in page.rows:
                yield row
            last = page.last
            if last is None:
                return

    async def _page(self, day: date, report_domain: Domain | None, after: "CounterKey | None") -> "CounterPage":
        return await self._access.scan(lambda tables: tables.counter_pages.load(day, report_domain, after))

    async def report_domains(self, day: date) -> AsyncIterator[Domain]:
        """The report domains with counters on `day`, in order. Names that are none are reported and passed over.

        Raises:
            StoreUnavailable: they can't be read, or not to the end.
        """
        last = ""
        while names := await self._names(day, last):
            for name in names:
                try:
                    yield Domain.parse(name)
                except NameInvalid as exc:
                    rows_invalid.inc()
                    outcome(log, logging.ERROR, "stored counter can't be read", policy_domain=name, day=day, reason=exc)
            last = names[-1]

    async def _names(self, day: date, after: str) -> Sequence[str]:
        return await self._access.scan(lambda tables: tables.counter_pages.domains(day, after))

    async def delete_counters(self, before: date, *, dry_run: bool = False) -> int:
        """Delete the counters of the days before `before` with their details, and return how many those were; with
        `dry_run` only count them. It is done in short transactions, between which others write.

        Raises:
            StoreUnavailable: they can't be deleted, or not all.
        """
        number = 0
        for day in await self._access.scan(lambda tables: tables.counters.old_days(before)):
            number += await (self._count(day) if dry_run else self._delete(day))
        if not dry_run:
            await self._access.write(lambda tables: tables.counters.delete_unused(before))
        return number

    async def _count(self, day: str) -> int:
        return await self._access.scan(lambda tables: tables.counters.count(day))

    async def _delete(self, day: str) -> int:
        number = 0
        while True:
            details, counters = await self._access.write(
                lambda tables: tables.counters.delete_some(day, DELETED_AT_ONCE)
            )
            number += counters
            if max(details, counters) < DELETED_AT_ONCE:
                return number


def _negative(row: CounterRow) -> CounterRow:
    return row._replace(
        successes=-row.successes,
        failures=-row.failures,
        unverified=-row.unverified,
        details={detail: -sessions for detail, sessions in row.details.items()},
    )
