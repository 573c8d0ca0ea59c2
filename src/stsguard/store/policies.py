"""Policies over a restart: the port `PolicyStore` on SQLite or PostgreSQL.

What can't be written is the caller's to keep and to save again.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from stsguard.core.errors import StoreUnavailable
from stsguard.core.policycache import StoredPolicy
from stsguard.log import logger, outcome
from stsguard.metrics import Counter
from stsguard.names import Domain
from stsguard.store.access import PAGE_SECONDS, READ_SECONDS, DatabaseAccess
from stsguard.store.early_policies import EarlyPolicies
from stsguard.store.sqlite_file import PREFIX
from stsguard.store.worker import StoreThread

if TYPE_CHECKING:
    from stsguard.store.policy_rows import Page
    from stsguard.store.tables import Tables

log = logger(__name__)
READ_PAUSE_SECONDS = 0.005  # between two reads

_Asked = dict[Domain, "list[asyncio.Future[StoredPolicy | None]]"]

rows_invalid = Counter("store_rows_invalid_total", "Stored policies that could not be read; they are left as they are.")


class PolicyStoreSql:
    """The policies of the database at a URL, spelled as [store] url, or of one that other stores use as well: then
    opening and closing this one opens and closes it for all.

    `now` is for tests.
    """

    def __init__(
        self, database: str | DatabaseAccess, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._access = DatabaseAccess(database) if isinstance(database, str) else database
        self._now = now
        self._is_shared = not self._access.url.startswith(PREFIX)
        self._invalid: set[str] = set()  # names of the rows that were found to be no policy
        self._asked: _Asked = {}  # for the next read
        self._reading: asyncio.Task[None] | None = None
        self._early: EarlyPolicies | None = None
        self._early_thread = StoreThread("stsguard-store-early")

    @property
    def problem(self) -> str | None:
        """What is wrong with the store as the last calls found it; None while all is well."""
        return self._access.problem

    async def open(self) -> None:
        """Open the database, or look again whether it can be opened; no effect on an open one.

        Raises:
            StoreUnavailable: with what is wrong with it and what to do. It may be tried again at any time.
        """
        try:
            await self._access.open()
        finally:
            await self._end_early()

    async def open_early(self) -> bool:
        """Let `load_policy` work before the database is open, where that is possible; `open` ends it. Whoever saves
        meanwhile waits until the database is open."""
        if self._access.problem is None:
            return True
        try:
            self._early = await self._early_thread.run(
                partial(EarlyPolicies.open, self._access.url, self._access.migrations), timeout_seconds=READ_SECONDS
            )
        except StoreUnavailable:
            return False
        return self._early is not None

    async def _end_early(self) -> None:
        early, self._early = self._early, None
        if early is not None:
            with suppress(StoreUnavailable):
                await self._early_thread.run(early.close, timeout_seconds=READ_SECONDS)
            await self._early_thread.stop(READ_SECONDS)

    async def close(self) -> None:
        """Write what was asked for before, and close the database. One that hangs is left behind."""
        await self._end_early()
        await self._access.close()

    def load_policy(self, policy_domain: Domain) -> "asyncio.Future[StoredPolicy | None]":
        """The stored policy, expired or not; None where there is none. The read is under way when this returns.

        Raises:
            StoreUnavailable: it can't be read within 2 s, or what is stored is no policy: an enforce policy may have
                been there.
        """
        future: asyncio.Future[StoredPolicy | None] = asyncio.get_running_loop().create_future()
        self._asked.setdefault(policy_domain, []).append(future)
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_asked(), name="read stored policies")
        return future

    async def _read_asked(self) -> None:
        """Read what was asked for while the last read was under way, all at once: a look-up a time would cost more
        than the rest of a domain without a policy."""
        asked: dict[Domain, list[asyncio.Future[StoredPolicy | None]]] = {}
        try:
            while self._asked:
                await asyncio.sleep(0)  # whoever asks in this turn of the loop belongs to it
                asked, self._asked = self._asked, {}
                try:
                    page = await self._load_some(asked)
                except StoreUnavailable as exc:
                    _fail(asked, exc)
                else:
                    self._report(page.invalid)
                    _deliver(page, asked)
                # Where many ask, a read is to serve several of them; DNS takes longer than this pause.
                await asyncio.sleep(READ_PAUSE_SECONDS)
        finally:
            self._reading = None
            self._asked, left = {}, {**asked, **self._asked}
            _fail(left, StoreUnavailable("the read was ended"))

    async def _load_some(self, names: Collection[Domain]) -> "Page":
        early = self._early
        if early is not None:
            return await self._early_thread.run(partial(early.load_some, names), timeout_seconds=READ_SECONDS)
        return await self._access.read(partial(_load_some, names))

    async def load_policies(self, after: Domain | None, limit: int) -> Sequence[StoredPolicy]:
        """Up to `limit` policies in order of their names, from the first after `after` on; fewer only at the end.
        Rows that are no policy are reported and passed over.

        Raises:
            StoreUnavailable: they can't be read.
        """
        page = await self._access.read(lambda tables: tables.policies.load_page(after, limit), PAGE_SECONDS)
        self._report(page.invalid)
        return page.policies

    def may_hold_more(self, policy_domain: Domain) -> bool:
        """Whether there may be a policy of the domain that `load_policies`, gone through to the end, has not given.

        Only PostgreSQL is shared by nodes that store policies; an SQLite file belongs to one.
        """
        return self._is_shared or policy_domain in self._invalid

    def _report(self, invalid: Sequence[tuple[str, str]]) -> None:
        for name, reason in invalid:
            self._invalid.add(name)
            rows_invalid.inc()
            outcome(log, logging.ERROR, "stored policy can't be read", policy_domain=name, reason=reason)

    async def save_policies(self, policies: Sequence[StoredPolicy]) -> None:
        """Write these in one transaction, and return when they are safe on disk. Each replaces what is stored for its
        domain, unless another node has fetched that later.

        Raises:
            StoreUnavailable: they can't be written; none is. Only where it took longer than 30 s they may yet be.
        """
        await self._opened()
        now = self._now()
        await self._access.write(lambda tables: tables.policies.save(policies, now))

    async def forget_policies(self, policy_domains: Sequence[Domain]) -> None:
        """Delete these in one transaction.

        Raises:
            StoreUnavailable: they can't be deleted; none is.
        """
        await self._opened()
        await self._access.write(lambda tables: tables.policies.forget(policy_domains))

    async def _opened(self) -> None:
        if self._early is not None:
            await self.open()


def _deliver(page: "Page", asked: _Asked) -> None:
    found = {stored.policy_domain: stored for stored in page.policies}
    for text, reason in page.invalid:
        name = Domain(text)  # as it was asked for
        _fail({name: asked.get(name, [])}, StoreUnavailable(f"what is stored for {name} is no policy: {reason}"))
    for name, futures in asked.items():
        for future in futures:
            if not future.done():
                future.set_result(found.get(name))


def _fail(asked: _Asked, exc: StoreUnavailable) -> None:
    for futures in asked.values():
        for future in futures:
            if not future.done():
                future.set_exception(StoreUnavailable(str(exc)))
                future.exception()  # nobody may be left to hear of it


def _load_some(names: Collection[Domain], tables: "Tables") -> "Page":
    return tables.policies.load_some(names)
