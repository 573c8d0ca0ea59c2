"""Policies over a restart: the port `PolicyStore` on SQLite or PostgreSQL.

Every call is bounded in time. Reads and writes have a thread each, so that a look-up never waits for a write; nothing
is written by more than one thread. SQLAlchemy is imported by the first `open`, on its thread: the daemon listens
meanwhile. What can't be written is the caller's to keep and to save again.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from stsguard.core.errors import StoreUnavailable
from stsguard.core.policycache import StoredPolicy
from stsguard.log import logger, outcome
from stsguard.metrics import Counter
from stsguard.names import Domain
from stsguard.store.versions import MIGRATIONS, Migrations
from stsguard.store.worker import StoreThread

if TYPE_CHECKING:
    from stsguard.store.policy_table import PolicyTable

log = logger(__name__)
read_errors = Counter("store_read_errors_total", "Reads of the database that failed or took too long.")
write_errors = Counter("store_write_errors_total", "Writes to the database that failed or took too long.")
rows_invalid = Counter("store_rows_invalid_total", "Stored policies that could not be read; they are left as they are.")

T = TypeVar("T")
READ_SECONDS = 2.0  # one look-up; beside it DNS is asked, with a longer limit
PAGE_SECONDS = 30.0
WRITE_SECONDS = 30.0
OPEN_SECONDS = 600.0  # a migration copies the whole database first
CLOSE_SECONDS = 5.0
NOT_OPEN = "the store is not open"


class PolicyStoreSql:
    """The store at `url`, spelled as [store] url. Nothing is opened before `open`; until then, and whenever the
    database fails, every other call raises `StoreUnavailable`.

    `migrations` and `now` are for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        migrations: Migrations = MIGRATIONS,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._url = url
        self._migrations = migrations
        self._now = now
        self._table: PolicyTable | None = None
        self._reader = StoreThread("stsguard-store-read")
        self._writer = StoreThread("stsguard-store-write")
        self._open_problem: str | None = NOT_OPEN
        self._read_problem: str | None = None
        self._write_problem: str | None = None

    @property
    def problem(self) -> str | None:
        """What is wrong with the store as the last calls found it; None while all is well."""
        return self._open_problem or self._read_problem or self._write_problem

    async def open(self) -> None:
        """Open the database, or look again whether it can be opened; no effect on an open one.

        Raises:
            StoreUnavailable: with what is wrong with it and what to do. It may be tried again at any time.
        """
        if self._open_problem is None:
            return
        try:
            await self._writer.run(self._open, timeout_seconds=OPEN_SECONDS)
        except StoreUnavailable as exc:
            self._open_problem = str(exc)
            raise
        self._open_problem = None

    def _open(self) -> None:
        from stsguard.store.database import open_database  # noqa: PLC0415 (SQLAlchemy takes its time to import)
        from stsguard.store.policy_table import PolicyTable  # noqa: PLC0415

        if self._table is None:
            self._table = PolicyTable(open_database(self._url, self._migrations))

    async def close(self) -> None:
        """Write what was asked for before, and close the database. One that hangs is left behind."""
        self._open_problem = "the store is closed"
        await self._reader.stop(CLOSE_SECONDS)
        try:
            await self._writer.run(self._close, timeout_seconds=CLOSE_SECONDS)
        except StoreUnavailable as exc:
            outcome(log, logging.ERROR, "store not closed in order", reason=exc)
        await self._writer.stop(CLOSE_SECONDS)

    def _close(self) -> None:
        table, self._table = self._table, None
        if table is not None:
            table.close()

    async def available(self) -> bool:
        """Whether the store is open, answers now, and took the last write; `problem` says what is wrong."""
        try:
            table = self._opened()
            await self._read(table.ping, READ_SECONDS)
        except StoreUnavailable:
            return False
        return self.problem is None

    async def load_policy(self, policy_domain: Domain) -> StoredPolicy | None:
        """The stored policy, expired or not; None where there is none.

        Raises:
            StoreUnavailable: it can't be read within 2 s, or what is stored is no policy: an enforce policy may have
                been there.
        """
        table = self._opened()
        page = await self._read(lambda: table.load_one(policy_domain), READ_SECONDS)
        self._report(page.invalid)
        for _, reason in page.invalid:
            raise StoreUnavailable(f"what is stored for {policy_domain} is no policy: {reason}")
        return page.policies[0] if page.policies else None

    async def load_policies(self, after: Domain | None, limit: int) -> Sequence[StoredPolicy]:
        """Up to `limit` policies in order of their names, from the first after `after` on; fewer only at the end.
        Rows that are no policy are reported and passed over.

        Raises:
            StoreUnavailable: they can't be read.
        """
        table = self._opened()
        page = await self._read(lambda: table.load_page(after, limit), PAGE_SECONDS)
        self._report(page.invalid)
        return page.policies

    def _report(self, invalid: Sequence[tuple[str, str]]) -> None:
        for name, reason in invalid:
            rows_invalid.inc()
            outcome(log, logging.ERROR, "stored policy can't be read", policy_domain=name, reason=reason)

    async def save_policies(self, policies: Sequence[StoredPolicy]) -> None:
        """Write these in one transaction, and return when they are safe on disk. Each replaces what is stored for its
        domain, unless another node has fetched that later.

        Raises:
            StoreUnavailable: they can't be written; none is. Only where it took longer than 30 s they may yet be.
        """
        table, now = self._opened(), self._now()
        await self._write(lambda: table.save(policies, now))

    async def touch_policies(self, used: Mapping[Domain, datetime]) -> None:
        """Write when these policies were last used, in one transaction; what is stored never goes back in time.

        Raises:
            StoreUnavailable: it can't be written; none is.
        """
        table = self._opened()
        await self._write(lambda: table.touch(used))

    async def forget_policies(self, policy_domains: Sequence[Domain]) -> None:
        """Delete these in one transaction.

        Raises:
            StoreUnavailable: they can't be deleted; none is.
        """
        table = self._opened()
        await self._write(lambda: table.forget(policy_domains))

    async def _read(self, call: Callable[[], T], timeout_seconds: float) -> T:
        try:
            result = await self._reader.run(call, timeout_seconds=timeout_seconds)
        except StoreUnavailable as exc:
            read_errors.inc()
            self._read_problem = str(exc)
            raise
        self._read_problem = None
        return result

    async def _write(self, call: Callable[[], None]) -> None:
        try:
            await self._writer.run(call, timeout_seconds=WRITE_SECONDS)
        except StoreUnavailable as exc:
            write_errors.inc()
            self._write_problem = str(exc)
            raise
        self._write_problem = None

    def _opened(self) -> "PolicyTable":
        if self._open_problem is not None or self._table is None:
            raise StoreUnavailable(self._open_problem or NOT_OPEN)
        return self._table
