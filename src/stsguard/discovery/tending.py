"""Keeps the policy cache fresh in the background (RFC 8461 §3.3, §10.2).

While a domain is in use the record's id is re-checked, and a new id leads to a fetch. Whatever the record says, every
policy is fetched afresh at least daily and well before it expires. The store is opened here, as often as it takes, and
its policies are read into memory a chunk at a time, so that none is forgotten only because nobody asked for it.
"""

import asyncio
import logging
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from stsguard.core.dane import Answer
from stsguard.core.errors import PolicyFetchFailed, StoreUnavailable
from stsguard.core.mtasts import Mode
from stsguard.core.policycache import (
    FETCH_PAUSE_SECONDS,
    IN_USE_SECONDS,
    NEW_ID_PAUSE_SECONDS,
    Downgrade,
    fetch_pause_seconds,
    lifetime_seconds,
    remaining_seconds,
)
from stsguard.discovery.agenda import Agenda
from stsguard.discovery.policies import AT_ONCE, PolicyCache
from stsguard.discovery.policy_entry import PolicyEntry
from stsguard.discovery.record import RecordLookup, looked_up, lookup_record, record_name
from stsguard.discovery.supervisor import attempted, contained, kept_up, supervised
from stsguard.log import logger, outcome
from stsguard.metrics import Counter
from stsguard.names import Domain
from stsguard.ports import PolicyStore, Resolver

log = logger(__name__)
id_checks = Counter("record_checks_total", "Background checks of a record's id, by what they found.", "found")
store_open_failures = Counter("store_open_failures_total", "Attempts to open the store that failed.")
clock_jumps = Counter("clock_jumps_total", "Jumps of the wall clock by more than an hour.")

CONCURRENCY = 48
OPEN_RETRY_SECONDS = 15.0
LOAD_CHUNK = 500
CLOCK_CHECK_SECONDS = 5.0  # a kill between a jump and its notice leaves instants of the old time in the store
CLOCK_JUMP_SECONDS = 3600.0
IN_USE_LIFETIMES = 60  # a day's policy is kept fresh for IN_USE_SECONDS; one that lives shorter, for so many lives


class PolicyTender:
    """The background work on a `PolicyCache`."""

    def __init__(
        self,
        cache: PolicyCache,
        *,
        resolver: Resolver,
        store: PolicyStore,
    ) -> None:
        self._cache = cache
        self._resolver = resolver
        self._store = store
        self._due = Agenda(self._begin, cache.clock.monotonic, concurrency=CONCURRENCY, in_a_turn=CONCURRENCY)
        self._fetching: asyncio.TaskGroup | None = None  # while the loop runs
        self.store_problem: str | None = "not opened yet"
        self.loaded = False
        cache.on_entry = self._schedule
        cache.on_gone = self._due.discard

    async def run(self) -> None:
        """Tend for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(kept_up("loading", self._open_and_load))
            group.create_task(kept_up("clock", self._watch_clock))
            group.create_task(kept_up("saving", self._cache.saver.run))
            group.create_task(kept_up("tending", self._tend_due))

    async def open_early(self) -> bool:
        """Have single stored policies found before the store is open, if it can do that: whether it can."""
        if await self._store.open_early():
            self._cache.store_tried.set()
            return True
        return False

    def _schedule(self, entry: PolicyEntry) -> None:
        self._due.put(entry, min(entry.id_check_at, entry.refresh_at))

    async def _tend_due(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._fetching = group
            try:
                await self._due.run()
            finally:
                self._fetching = None

    def _begin(self, entry: PolicyEntry) -> bool:
        """Begin to tend an entry that is due: whether it was begun, or is only put off."""
        if not self._is_in_force(entry):
            return False  # it has just run out
        now = self._cache.clock.monotonic()
        if self._needs_work(entry, now) and contained("tending", self._look_up, entry, now):
            return True
        self._put_off(entry)
        self._schedule(entry)
        return False

    def _look_up(self, entry: PolicyEntry, now: float) -> None:
        # Nearly every check finds the same id, so that takes no task; a fetch is one.
        lookup = asyncio.ensure_future(self._resolver.lookup_txt(record_name(entry.policy_domain)))
        lookup.add_done_callback(partial(self._looked_up, entry, now))

    def _looked_up(self, entry: PolicyEntry, now: float, lookup: "asyncio.Future[Answer[bytes]]") -> None:
        if lookup.cancelled() or not attempted("tending", self._take, entry, now, lookup, otherwise=False):
            self._tended(entry)

    def _take(self, entry: PolicyEntry, now: float, lookup: "asyncio.Future[Answer[bytes]]") -> bool:
        """Take what the look-up gave: whether a fetch was begun by it."""
        record_id = self._note_record(entry, now, looked_up(lookup))
        if self._fetching is None or not self._fetch_is_due(entry, record_id, now):
            return False
        self._fetching.create_task(self._fetch_supervised(entry, record_id))
        return True

    async def _fetch_supervised(self, entry: PolicyEntry, record_id: str) -> None:
        try:
            await supervised("tending", self._fetch(entry, record_id))
        finally:
            self._tended(entry)

    def _tended(self, entry: PolicyEntry) -> None:
        self._due.ended()
        self._put_off(entry)
        # A successor has scheduled itself; the same entry goes on with its next instant.
        if self._is_in_force(entry):
            self._schedule(entry)

    def _is_in_force(self, entry: PolicyEntry) -> bool:
        return self._cache.entry(entry.policy_domain) is entry

    def _needs_work(self, entry: PolicyEntry, now: float) -> bool:
        """Whether something is to be done now; what is only put off gets its next instant."""
        last_used = self._cache.last_used(entry)
        if entry.refresh_at <= now:
            # Shorter lives are not renewed for as long, or one look-up of a policy that lives a minute would have us
            # fetch it for two months.
            if now - last_used < min(IN_USE_SECONDS, IN_USE_LIFETIMES * lifetime_seconds(entry.policy)):
                return True
            # Nobody asks for it, so it may run out; whoever asks again has it fetched with the next check.
            entry.refresh_at = now + self._next_check_seconds()
        if entry.id_check_at <= now:
            if last_used >= entry.checked_at:
                return True
            entry.id_check_at = now + self._next_check_seconds()
        return False

    def _next_check_seconds(self) -> float:
        return self._cache.id_check_seconds * (0.9 + 0.2 * self._cache.random())

    def _put_off(self, entry: PolicyEntry) -> None:
        """What is still due after it was tended ended by a fault of ours, and is not tried again at once."""
        now = self._cache.clock.monotonic()
        if entry.id_check_at <= now:
            entry.id_check_at = now + self._next_check_seconds()
        if entry.refresh_at <= now:
            entry.refresh_at = now + FETCH_PAUSE_SECONDS

    def used(self, policy_domain: Domain) -> None:
        """A decision was made by this policy: where its id was not checked for an interval, that is due now."""
        entry = self._cache.entry(policy_domain)
        if entry is None:
            return
        now = self._cache.clock.monotonic()
        if entry.checked_at + self._cache.id_check_seconds <= now < entry.id_check_at:
            self.recheck_soon(policy_domain)

    def recheck_soon(self, policy_domain: Domain) -> None:
        """Check the record's id with the next round (RFC 8461 §5.1: before a delivery fails for good)."""
        entry = self._cache.entry(policy_domain)
        if entry is not None:
            now = self._cache.clock.monotonic()
            entry.used_at = now
            if entry.id_check_at > now:
                entry.id_check_at = now
                self._schedule(entry)

    async def tend(self, entry: PolicyEntry, *, force: bool = False) -> PolicyEntry:
        """Check the record of one domain, and fetch its policy where that is due, its id is new or `force` is set.

        The entry in force afterwards: a new one, or the same where nothing could be fetched.
        """
        now = self._cache.clock.monotonic()
        found = await lookup_record(self._resolver, entry.policy_domain)
        record_id = self._note_record(entry, now, found)
        if force or self._fetch_is_due(entry, record_id, now):
            return await self._fetch(entry, record_id)
        return entry

    def _note_record(self, entry: PolicyEntry, now: float, found: RecordLookup) -> str:
        """Note what a check at `now` has found: the id that its policy is to be fetched for, if it is."""
        entry.note_check(now, now + self._next_check_seconds())
        if found.record is None:
            id_checks.inc("failed" if found.failed else "none")
            if not found.failed:
                self._note_vanished(entry, found.detail)
            return entry.record_id
        if entry.upkeep.txt_vanished:
            entry.upkeep = replace(entry.upkeep, txt_vanished=False)
        record_id = found.record.record_id
        id_checks.inc("same" if record_id == entry.record_id else "new")
        return record_id

    async def _fetch(self, entry: PolicyEntry, record_id: str) -> PolicyEntry:
        policy_domain = entry.policy_domain
        try:
            return await self._cache.fetch(policy_domain, record_id, last_used_at=self._last_used_at(entry))
        except PolicyFetchFailed as exc:
            self._note_failure(entry, record_id, exc)
            return entry

    def _last_used_at(self, entry: PolicyEntry) -> datetime:
        clock = self._cache.clock
        return clock.now() - timedelta(seconds=max(0.0, clock.monotonic() - self._cache.last_used(entry)))

    def _note_vanished(self, entry: PolicyEntry, detail: str) -> None:
        # RFC 8461 §3.1: a missing record is not sufficient to remove a cached policy. §8.3: "none" may just go.
        if not entry.upkeep.txt_vanished and entry.policy.mode is not Mode.NONE:
            entry.upkeep = replace(entry.upkeep, txt_vanished=True)
            self._cache.note_downgrade(entry, Downgrade.TXT_VANISHED, detail)

    def _fetch_is_due(self, entry: PolicyEntry, record_id: str, now: float) -> bool:
        wanted = record_id != entry.record_id or entry.refresh_at <= now
        if not wanted:
            return False
        # RFC 8461 §3.3: after a failure five minutes or longer, per version ID.
        upkeep = entry.upkeep
        pause_over = upkeep.retry_at <= now
        if upkeep.failed_id is not None and record_id != upkeep.failed_id:
            failed_at = upkeep.retry_at - fetch_pause_seconds(upkeep.failures, 0)
            return pause_over or failed_at + NEW_ID_PAUSE_SECONDS <= now
        return pause_over

    def _note_failure(self, entry: PolicyEntry, record_id: str, exc: PolicyFetchFailed) -> None:
        now = self._cache.clock.monotonic()
        failures = entry.upkeep.failures + 1 if entry.upkeep.failed_id == record_id else 1
        retry_at = now + fetch_pause_seconds(failures, self._cache.random())
        entry.upkeep = replace(entry.upkeep, failures=failures, failed_id=record_id, failure=exc, retry_at=retry_at)
        entry.refresh_at = max(entry.refresh_at, retry_at)
        if entry.policy.mode is Mode.NONE:
            return
        # RFC 8461 §10.2: repeated refresh failures are told long before the policy expires.
        outcome(
            log,
            logging.ERROR if failures >= 3 else logging.WARNING,
            "policy can't be refreshed, the cached one stays in force",
            policy_domain=entry.policy_domain,
            failures=failures,
            reason=exc,
            expires_in=int(entry.expires_at - now),
        )

    async def _open_and_load(self) -> None:
        while True:
            try:
                await self._store.open()
                self._cache.store_tried.set()
                await self._load_all()
                return
            except StoreUnavailable as exc:
                store_open_failures.inc()
                if str(exc) != self.store_problem:
                    outcome(log, logging.ERROR, "store can't be read, serving without it", reason=exc)
                self.store_problem = str(exc)
            finally:
                self._cache.store_tried.set()
            await asyncio.sleep(OPEN_RETRY_SECONDS)

    async def _load_all(self) -> None:
        after: Domain | None = None
        count = 0
        if self.store_problem is not None:
            self.store_problem = None
            await self._cache.store_became_readable()
        while True:
            chunk = await self._store.load_policies(after, LOAD_CHUNK)
            for number, stored in enumerate(chunk, 1):
                name = stored.policy_domain
                if self._cache.entry(name) is not None:
                    continue
                if remaining_seconds(stored, self._cache.clock.now()) > 0:
                    self._cache.adopt(stored)
                    count += 1
                else:
                    self._cache.leave_in_store(name)
                if number % AT_ONCE == 0:
                    await asyncio.sleep(0)
            if len(chunk) < LOAD_CHUNK:
                break
            after = chunk[-1].policy_domain
        self.loaded = True
        self._cache.has_read_all()
        outcome(log, logging.INFO, "store is read", policies=count)

    async def _watch_clock(self) -> None:
        clock = self._cache.clock
        offset = clock.now().timestamp() - clock.monotonic()
        while True:
            await asyncio.sleep(CLOCK_CHECK_SECONDS)
            now_offset = clock.now().timestamp() - clock.monotonic()
            jump = now_offset - offset
            if abs(jump) > CLOCK_JUMP_SECONDS:
                clock_jumps.inc()
                outcome(log, logging.WARNING, "wall clock jumped, policies keep their lifetimes", seconds=int(jump))
                await self._cache.restamp()
            if abs(jump) > 1:
                offset = now_offset
