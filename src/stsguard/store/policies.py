"""Policies over a restart: the port `PolicyStore` on SQLite or PostgreSQL.

What can't be written is the caller's to keep and to save again.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from stsguard.core.errors import StoreUnavailable
from stsguard.core.policycache import StoredPolicy
from stsguard.log import logger, outcome
from stsguard.metrics import Counter
from stsguard.names import Domain
from stsguard.store.access import PAGE_SECONDS, READ_SECONDS, DatabaseAccess, Tables
from stsguard.store.early_policies import EarlyPolicies
from stsguard.store.worker import StoreThread

if TYPE_CHECKING:
    from stsguard.store.policy_rows import Page

log = logger(__name__)
rows_invalid = Counter("store_rows_invalid_total", "Stored policies that could not be read; they are left as they are.")


@dataclass(slots=True, eq=False)
class _Asked:
    """The policies for the next read, and what it gives."""

    page: "asyncio.Future[Page]"
    names: set[Domain] = field(default_factory=set)

    def fail(self, exc: StoreUnavailable) -> None:
        """Tell whoever still waits."""
        self.page.set_exception(exc)
        self.page.exception()  # nobody may be left to hear of it


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
        self._asked: _Asked | None = None
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

    async def load_policy(self, policy_domain: Domain) -> StoredPolicy | None:
        """The stored policy, expired or not; None where there is none.

        Raises:
            StoreUnavailable: it can't be read within 2 s, or what is stored is no policy: an enforce policy may have
                been there.
        """
        if self._asked is None:
            self._asked = _Asked(asyncio.get_running_loop().create_future())
            if self._reading is None:
                self._reading = asyncio.create_task(self._read_asked(), name="read stored policies")
        self._asked.names.add(policy_domain)
        page = await asyncio.shield(self._asked.page)
        for name, reason in page.invalid:
            if name == policy_domain:
                raise StoreUnavailable(f"what is stored for {policy_domain} is no policy: {reason}")
        return next((stored for stored in page.policies if stored.policy_domain == policy_domain), None)

    async def _read_asked(self) -> None:
        """Read what was asked for while the last read was under way, all at once: a look-up a time would cost more
        than the rest of a domain without a policy."""
        try:
            while self._asked is not None:
                await asyncio.sleep(0)  # whoever asks in this turn of the loop belongs to it
                asked, self._asked = self._asked, None
                try:
                    page = await self._load_some(asked.names)
                except StoreUnavailable as exc:
                    asked.fail(exc)
                else:
                    self._report(page.invalid)
                    asked.page.set_result(page)
        finally:
            self._reading = None
            if self._asked is not None:
                self._asked.fail(StoreUnavailable("the read was ended"))
                self._asked = None

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


def _load_some(names: Collection[Domain], tables: Tables) -> "Page":
    return tables.policies.load_some(names)
