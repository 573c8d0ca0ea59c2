"""Writes policies to the store in groups: whatever comes in while one transaction runs goes into the next.

A policy counts as had only once it is safe on disk, so that `kill -9` never loses one that was answered with; but a
store that hangs or is full holds nobody up: after a bounded wait the policy is used from memory and written later.
"""

import asyncio
import logging
from itertools import chain, islice

from stsguard.core.errors import StoreUnavailable
from stsguard.core.policycache import StoredPolicy
from stsguard.discovery.limits import TimeLimit
from stsguard.log import logger, outcome
from stsguard.metrics import Counter
from stsguard.names import Domain
from stsguard.ports import PolicyStore

log = logger(__name__)
saves = Counter("store_policies_saved_total", "Policies written to the store.")
save_failures = Counter("store_save_failures_total", "Transactions that could not be written; they are tried again.")

RETRY_SECONDS = 30.0
WAIT_SECONDS = 5.0
BATCH = 500
PAUSE_SECONDS = 0.03  # between transactions: what one costs is shared by all that come in meanwhile


class PolicySaver:
    """The one writer of policies. `run` does the work; `save` waits for it."""

    def __init__(self, store: PolicyStore) -> None:
        self._store = store
        self._pending: dict[Domain, StoredPolicy] = {}
        self._forget: dict[Domain, None] = {}
        self._changed = asyncio.Event()
        self._waiting: dict[Domain, list[asyncio.Future[None]]] = {}
        self._limit: TimeLimit[asyncio.Future[None]] = TimeLimit(WAIT_SECONDS, _wake)
        self.failing_since: float | None = None
        self.problem = ""  # of the last transaction that could not be written

    @property
    def unsaved(self) -> int:
        """Policies that wait to be written."""
        return len(self._pending) + len(self._forget)

    def is_waiting(self, policy_domain: Domain) -> bool:
        """Whether what the store holds for `policy_domain` is about to be replaced or deleted."""
        return policy_domain in self._pending or policy_domain in self._forget

    def waiting(self, policy_domain: Domain) -> StoredPolicy | None:
        """The policy that waits to be written; None where it waits to be deleted, or nothing waits."""
        return self._pending.get(policy_domain)

    async def save(self, stored: StoredPolicy) -> None:
        """Write `stored`, and return when it is on disk or after `WAIT_SECONDS`: then it is written later."""
        self.save_later(stored)
        if self.failing_since is None:
            written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(stored.policy_domain, []).append(written)
            self._limit.add(written)
            try:
                await written
            finally:
                self._limit.discard(written)
        if self._pending.get(stored.policy_domain) is stored:
            outcome(log, logging.WARNING, "policy used but not stored yet", policy_domain=stored.policy_domain)

    def save_later(self, stored: StoredPolicy) -> None:
        """Write `stored` with the next transaction."""
        self._pending[stored.policy_domain] = stored
        self._forget.pop(stored.policy_domain, None)
        self._changed.set()

    def forget(self, policy_domain: Domain) -> None:
        """Delete what is stored for `policy_domain` with the next transaction."""
        self._pending.pop(policy_domain, None)
        self._forget[policy_domain] = None
        self._changed.set()

    async def run(self) -> None:
        """Write for ever."""
        while True:
            await self._changed.wait()
            try:
                await self.flush()
                await asyncio.sleep(PAUSE_SECONDS)
            except StoreUnavailable as exc:
                self._fail(exc)
                await asyncio.sleep(RETRY_SECONDS)

    def _fail(self, exc: StoreUnavailable) -> None:
        save_failures.inc()
        self.problem = str(exc)
        if self.failing_since is None:
            self.failing_since = asyncio.get_running_loop().time()
        outcome(log, logging.ERROR, "policies can't be stored, trying again", reason=exc, unsaved=self.unsaved)
        waiting, self._waiting = self._waiting, {}
        for written in chain.from_iterable(waiting.values()):
            _wake(written)

    async def flush(self) -> None:
        """Write all that waits.

        Raises:
            StoreUnavailable: it can't be written; it goes on waiting.
        """
        while self._pending or self._forget:
            batch = list(islice(self._pending.values(), BATCH))
            gone = list(islice(self._forget, BATCH))
            if batch:
                await self._store.save_policies(batch)
            if gone:
                await self._store.forget_policies(gone)
            saves.inc(by=len(batch))
            if self.failing_since is not None:
                self.failing_since = None
                outcome(log, logging.INFO, "policies are stored again")
            # Only what was written is done: a newer policy may have come in meanwhile.
            for stored in batch:
                if self._pending.get(stored.policy_domain) is stored:
                    del self._pending[stored.policy_domain]
                    self._tell(stored.policy_domain)
            for policy_domain in gone:
                self._forget.pop(policy_domain, None)
                self._tell(policy_domain)
        self._changed.clear()

    def _tell(self, policy_domain: Domain) -> None:
        """Nothing more waits to be written for `policy_domain`."""
        for written in self._waiting.pop(policy_domain, ()):
            _wake(written)


def _wake(written: "asyncio.Future[None]") -> None:
    if not written.done():
        written.set_result(None)
