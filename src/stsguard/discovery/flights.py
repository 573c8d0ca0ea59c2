"""Discoveries under way, one a policy domain: its record is looked up and the store is read for it, both at once.

Nearly every domain has neither a record nor a stored policy, and to find that out takes no task: the look-up and the
store call back, and whoever waits is woken when both have. Only what may follow, a fetch, is a task. A flight goes on
when a caller has waited long enough.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from stsguard.core.dane import Answer
from stsguard.core.errors import LookupFailed, PolicyFetchFailed, StoreUnavailable
from stsguard.core.policycache import StoredPolicy
from stsguard.core.tlspolicy import StsState, StsStatus
from stsguard.discovery.limits import TimeLimit
from stsguard.discovery.lookups import tell
from stsguard.discovery.record import RecordLookup, read_record, record_name
from stsguard.discovery.states import StateUntil
from stsguard.discovery.supervisor import guarded, report
from stsguard.log import logger, outcome
from stsguard.metrics import Counter
from stsguard.names import Domain, NameInvalid
from stsguard.ports import Cancellable, PolicyStore, Resolver

if TYPE_CHECKING:
    from stsguard.discovery.policies import PolicyCache

log = logger(__name__)
store_misses = Counter("store_read_failures_total", "Domains for which the store could not be read.")

STORE_WAIT_SECONDS = 5.0  # a look-up waits no longer for the database

Told = Callable[[StateUntil | BaseException], object]


class _Flight:
    """`found` None: the record is not known yet. `is_read`: the store has been read, or can't be; only where it has
    been it counts as `readable`, and `stored` is what it holds."""

    __slots__ = (
        *("answer", "found", "is_read", "lookup", "policy_domain", "readable", "reading", "stored", "task", "waiters"),
    )

    def __init__(self, policy_domain: Domain) -> None:
        self.policy_domain = policy_domain
        self.lookup: Cancellable | None = None
        self.answer: Answer[bytes] | None = None  # not looked at yet
        self.found: RecordLookup | None = None
        self.reading: asyncio.Future[StoredPolicy | None] | None = None
        self.is_read = False
        self.readable = False
        self.stored: StoredPolicy | None = None
        self.task: asyncio.Task[StateUntil] | None = None
        self.waiters: list[_Waiter] = []

    def cancel(self) -> None:
        """End what is under way."""
        for work in (self.lookup, self.reading, self.task):
            if work is not None:
                work.cancel()


class _Waiter:
    """`call` None: told already."""

    __slots__ = ("call", "flight", "limit")

    def __init__(self, flight: _Flight, call: Told, limit: "TimeLimit[_Waiter]") -> None:
        self.flight = flight
        self.call: Told | None = call
        self.limit = limit

    def tell(self, outcome: StateUntil | BaseException) -> None:
        """Once."""
        call, self.call = self.call, None
        if call is not None:
            call(outcome)


class Flights:
    """The discoveries for a policy cache, which keeps what they bring."""

    def __init__(self, cache: "PolicyCache", *, resolver: Resolver, store: PolicyStore) -> None:
        self._cache = cache
        self._resolver = resolver
        self._store = store
        self._under_way: dict[Domain, _Flight] = {}
        self._reading = TimeLimit(STORE_WAIT_SECONDS, self._store_is_late)
        self._waits: dict[float, TimeLimit[_Waiter]] = {}

    def join(self, policy_domain: Domain, wait_seconds: float, call: Told) -> None:
        """Have `call`, which raises nothing, told of the state of a domain when its discovery, begun here if need be,
        is over; after `wait_seconds` PENDING. It is told of a fault of ours as well, and never before this returns."""
        flight = self._under_way.get(policy_domain)
        if flight is None:
            flight = self._under_way[policy_domain] = _Flight(policy_domain)
            self._look_up(flight)
            self._read_store(flight)
        limit = self._waits.get(wait_seconds)
        if limit is None:
            limit = self._waits[wait_seconds] = TimeLimit(wait_seconds, self._waited_enough)
        waiter = _Waiter(flight, call, limit)
        flight.waiters.append(waiter)
        limit.add(waiter)

    def is_unread(self, policy_domain: Domain) -> bool:
        """Whether a flight is under way for which the store has not, or not yet, been read."""
        flight = self._under_way.get(policy_domain)
        return flight is not None and not flight.readable

    def has_no_record(self, policy_domain: Domain) -> bool:
        """Whether a flight is under way that has found that there is no record."""
        flight = self._under_way.get(policy_domain)
        return flight is not None and flight.found is not None and flight.found.record is None

    async def close(self) -> None:
        """End the flights that are under way."""
        flights = tuple(self._under_way.values())
        self._under_way.clear()
        for flight in flights:
            flight.cancel()
            for waiter in flight.waiters:
                waiter.limit.discard(waiter)
                waiter.tell(asyncio.CancelledError())
        work = [each for flight in flights for each in (flight.reading, flight.task) if each is not None]
        await asyncio.gather(*work, return_exceptions=True)

    def _waited_enough(self, waiter: _Waiter) -> None:
        flight = waiter.flight
        # RFC 8461 §5.1: fetched "perhaps asynchronously, so as not to block message delivery".
        text = "policy not known in time, deciding without it"
        outcome(log, logging.WARNING, text, policy_domain=flight.policy_domain)
        # But an enforce policy may be lying in a store that has not been read: then whoever delays the fetch gains
        # nothing.
        status = StsStatus.PENDING if flight.readable else StsStatus.STORE_UNREADABLE
        state = StsState(status, detail="still being fetched")
        waiter.tell(StateUntil(state, self._cache.clock.monotonic()))

    def _look_up(self, flight: _Flight) -> None:
        try:
            name = record_name(flight.policy_domain)
        except NameInvalid as exc:
            flight.found = RecordLookup(None, 0, str(exc))
            asyncio.get_running_loop().call_soon(self._go_on, flight)
            return
        flight.lookup = tell(self._resolver.lookup_txt(name), partial(self._answered, flight))

    def _answered(self, flight: _Flight, outcome: Answer[bytes] | BaseException) -> None:
        if isinstance(outcome, LookupFailed):
            flight.found = RecordLookup(None, 0, str(outcome), failed=True)
        elif isinstance(outcome, asyncio.CancelledError):
            return  # the daemon ends
        elif isinstance(outcome, BaseException):
            self._crash(flight, outcome)
            return
        else:
            flight.answer = outcome
        self._go_on(flight)

    def _read_store(self, flight: _Flight) -> None:
        saver = self._cache.saver
        if saver.is_waiting(flight.policy_domain):
            # What the store holds is not the last word: it is about to be replaced or deleted.
            self._has_read(flight, saver.waiting(flight.policy_domain))
            asyncio.get_running_loop().call_soon(self._go_on, flight)
            return
        if self._cache.is_nothing_stored(flight.policy_domain):
            flight.is_read = flight.readable = True
            return
        tried = self._cache.store_tried.is_set()
        reading = self._store.load_policy(flight.policy_domain) if tried else self._load_when_tried(flight)
        flight.reading = asyncio.ensure_future(reading)
        flight.reading.add_done_callback(partial(self._store_answered, flight))
        self._reading.add(flight)

    async def _load_when_tried(self, flight: _Flight) -> StoredPolicy | None:
        await self._cache.store_tried.wait()
        return await self._store.load_policy(flight.policy_domain)

    def _store_answered(self, flight: _Flight, reading: "asyncio.Future[StoredPolicy | None]") -> None:
        self._reading.discard(flight)
        if reading.cancelled():
            return
        exc = reading.exception()
        if exc is None:
            self._cache.store_failing = False
            self._has_read(flight, reading.result())
        elif isinstance(exc, StoreUnavailable):
            self._store_failed(flight, str(exc))
        else:
            self._crash(flight, exc)
            return
        self._go_on(flight)

    def _has_read(self, flight: _Flight, stored: StoredPolicy | None) -> None:
        flight.is_read = flight.readable = True
        flight.stored = self._cache.alive(stored)

    def _store_is_late(self, flight: _Flight) -> None:
        if flight.reading is not None:
            flight.reading.cancel()
        self._store_failed(flight, "no answer in time")
        self._go_on(flight)

    def _store_failed(self, flight: _Flight, reason: str) -> None:
        flight.is_read = True
        store_misses.inc()
        self._cache.store_failing = True
        outcome(log, logging.ERROR, "store can't be read", policy_domain=flight.policy_domain, reason=reason)

    def _go_on(self, flight: _Flight) -> None:
        if flight.task is not None or self._under_way.get(flight.policy_domain) is not flight:
            return
        guarded("discovery", self._take_next_step, flight, self._crash)

    def _take_next_step(self, flight: _Flight) -> None:
        cache = self._cache
        if flight.answer is not None:
            flight.found, flight.answer = read_record(flight.answer), None
        if not flight.is_read:
            return
        if flight.stored is not None:
            self._land(flight, cache.in_force(cache.adopt(flight.stored)))
        elif flight.found is None:
            return
        elif flight.found.record is None:
            state = cache.remember_negative(flight.policy_domain, flight.found, readable=flight.readable)
            self._land(flight, state)
        else:
            work = self._fetch(flight, flight.found.record.record_id)
            flight.task = asyncio.create_task(work, name=f"discover {flight.policy_domain}")
            flight.task.add_done_callback(partial(self._fetched, flight))

    async def _fetch(self, flight: _Flight, record_id: str) -> StateUntil:
        cache, policy_domain = self._cache, flight.policy_domain
        last = cache.failed_before(policy_domain, record_id)
        if last is not None and last.failure is not None and last.retry_at > cache.clock.monotonic():
            # RFC 8461 §3.3: five minutes or longer between attempts per version ID; only the store was looked at again.
            return cache.remember_failure(policy_domain, last, readable=flight.readable)
        try:
            return cache.in_force(await cache.fetch(policy_domain, record_id))
        except PolicyFetchFailed as exc:
            failed = cache.failed_again(last, record_id, exc)
            return cache.remember_failure(policy_domain, failed, readable=flight.readable)

    def _fetched(self, flight: _Flight, task: "asyncio.Task[StateUntil]") -> None:
        if task.cancelled():
            return
        exc = task.exception()
        if exc is None:
            self._land(flight, task.result())
        else:
            self._crash(flight, exc)

    def _land(self, flight: _Flight, state: StateUntil) -> None:
        try:
            # Those who wait decide by it themselves: told first, they would have to decide twice.
            self._cache.on_change(flight.policy_domain)
        finally:
            self._end(flight, state)

    def _crash(self, flight: _Flight, exc: BaseException) -> None:
        """A fault of ours: those who wait answer TEMP; where nobody waits any longer it would be lost."""
        report("discovery", exc)
        self._end(flight, exc)

    def _end(self, flight: _Flight, outcome: StateUntil | BaseException) -> None:
        if self._under_way.get(flight.policy_domain) is flight:
            del self._under_way[flight.policy_domain]
        if flight.reading is not None:
            self._reading.discard(flight)
        flight.cancel()
        # Flight, waiters and look-up no longer refer to each other, so they go at once and not when garbage is sought.
        waiters, flight.waiters, flight.lookup = flight.waiters, [], None
        for waiter in waiters:
            waiter.limit.discard(waiter)
            waiter.tell(outcome)
