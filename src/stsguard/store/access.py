"""One database as the stores share it: opened and closed once, with its threads and time limits.

Every call is bounded in time. Reads, longer reads and writes have a thread each, so that a look-up waits neither for a
write nor for a report; nothing is written by more than one thread. What takes long to load is loaded by the first
`open`, on its thread: the daemon listens meanwhile.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from stsguard.core.errors import StoreUnavailable
from stsguard.log import logger, outcome
from stsguard.metrics import Counter
from stsguard.store.versions import MIGRATIONS, Migrations
from stsguard.store.worker import StoreThread

if TYPE_CHECKING:
    from stsguard.store.tables import Tables

log = logger(__name__)
read_errors = Counter("store_read_errors_total", "Reads of the database that failed or took too long.")
write_errors = Counter("store_write_errors_total", "Writes to the database that failed or took too long.")

T = TypeVar("T")
READ_SECONDS = 2.0  # one look-up; beside it DNS is asked, with a longer limit
PAGE_SECONDS = 30.0
WRITE_SECONDS = 30.0
OPEN_SECONDS = 600.0  # a migration copies the whole database first
CLOSE_SECONDS = 5.0
NOT_OPEN = "the store is not open"


class DatabaseAccess:
    """The database at `url`, spelled as [store] url. Nothing is opened before `open`; until then, and whenever the
    database fails, every other call raises `StoreUnavailable`. `lean` is for a process that has to stay small: it does
    without SQLAlchemy, unless it asks for a table that can't. `migrations` is for tests."""

    def __init__(self, url: str, *, lean: bool = False, migrations: Migrations = MIGRATIONS) -> None:
        self.url = url
        self.migrations = migrations
        self._lean = lean
        self._tables: Tables | None = None
        self._reader = StoreThread("stsguard-store-read")
        self._scanner = StoreThread("stsguard-store-scan")
        self._writer = StoreThread("stsguard-store-write")
        self._open_problem: str | None = NOT_OPEN
        self._read_problem: str | None = None
        self._write_problem: str | None = None

    @property
    def problem(self) -> str | None:
        """What is wrong with the database as the last calls found it; None while all is well."""
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
        from stsguard.store.tables import open_tables  # noqa: PLC0415 (not before the first answer)

        if self._tables is None:
            self._tables = open_tables(self.url, self.migrations, lean=self._lean)

    async def close(self) -> None:
        """Write what was asked for before, and close the database. One that hangs is left behind."""
        self._open_problem = "the store is closed"
        await self._reader.stop(CLOSE_SECONDS)
        await self._scanner.stop(CLOSE_SECONDS)
        try:
            await self._writer.run(self._close, timeout_seconds=CLOSE_SECONDS)
        except StoreUnavailable as exc:
            outcome(log, logging.ERROR, "store not closed in order", reason=exc)
        await self._writer.stop(CLOSE_SECONDS)

    def _close(self) -> None:
        tables, self._tables = self._tables, None
        if tables is not None:
            tables.database.close()

    async def read(self, call: "Callable[[Tables], T]", timeout_seconds: float = READ_SECONDS) -> T:
        """What `call` returns, made on the thread of look-ups.

        Raises:
            StoreUnavailable: the database can't be read, or not within `timeout_seconds`.
        """
        return await self._look(self._reader, call, timeout_seconds)

    async def scan(self, call: "Callable[[Tables], T]") -> T:
        """What `call` returns, made on the thread of longer reads.

        Raises:
            StoreUnavailable: the database can't be read, or not within 30 s.
        """
        return await self._look(self._scanner, call, PAGE_SECONDS)

    async def _look(self, thread: StoreThread, call: "Callable[[Tables], T]", timeout_seconds: float) -> T:
        tables = self._opened()
        try:
            result = await thread.run(lambda: call(tables), timeout_seconds=timeout_seconds)
        except StoreUnavailable as exc:
            read_errors.inc()
            self._read_problem = str(exc)
            raise
        self._read_problem = None
        return result

    async def write(self, call: "Callable[[Tables], T]") -> T:
        """What `call` returns, made on the thread of writes.

        Raises:
            StoreUnavailable: the database can't be written. Only where it took longer than 30 s, or the connection
                was lost at the end, it may yet be.
        """
        tables = self._opened()
        try:
            result = await self._writer.run(lambda: call(tables), timeout_seconds=WRITE_SECONDS)
        except StoreUnavailable as exc:
            write_errors.inc()
            self._write_problem = str(exc)
            raise
        self._write_problem = None
        return result

    def _opened(self) -> "Tables":
        if self._open_problem is not None or self._tables is None:
            raise StoreUnavailable(self._open_problem or NOT_OPEN)
        return self._tables
