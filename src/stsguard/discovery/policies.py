"""The policy cache: one entry a policy domain, from memory, store or discovery (RFC 8461 §3.3, §5.1, §10.2).

A policy in force is never evicted and never shortened by anything a stranger can do: it goes when its max_age is over,
or when a successor was fetched. Only "no policy" makes room. One flight discovers a domain, however many ask; it goes
on when a caller has waited long enough. `tending.PolicyTender` keeps what is here fresh.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from stsguard.core.errors import PolicyFetchFailed
from stsguard.core.mtasts import Mode, Policy
from stsguard.core.policycache import (
    UNAVAILABLE_LIMIT_SECONDS,
    Downgrade,
    StoredPolicy,
    downgrades,
    fetch_pause_seconds,
    lifetime_seconds,
    negative_ttl_seconds,
    refresh_after_seconds,
    remaining_seconds,
)
from stsguard.core.tlspolicy import StsState, StsStatus
from stsguard.discovery.flights import Flights
from stsguard.discovery.lookups import Waited
from stsguard.discovery.policy_entry import PolicyEntry, Upkeep
from stsguard.discovery.record import DENIED, RecordLookup
from stsguard.discovery.saver import PolicySaver
from stsguard.discovery.states import NEVER, NegativeEntry, StateUntil
from stsguard.discovery.supervisor import contained
from stsguard.discovery.turns import in_order
from stsguard.log import logger, outcome
from stsguard.metrics import Counter
from stsguard.names import Domain
from stsguard.ports import Clock, PolicyFetcher, PolicyStore, Resolver

log = logger(__name__)
fetches = Counter("policy_fetches_total", "Policy fetches by outcome.", "outcome")
downgrades_seen = Counter("policy_downgrades_total", "Steps that weaken a policy and may be an attack.", "kind")
expired = Counter("policies_expired_total", "Policies whose max_age ran out without a successor.")

IDS_REMEMBERED = 5
STORE_RETRY_SECONDS = 30.0  # how long a domain is answered TEMP before the store is read for it again
LEAST_REFRESH_SECONDS = 60.0  # a policy that lives shorter is not fetched ahead of time: it runs out first
LOG_TIME_SECONDS = 2.0
# What nearly every domain has, kept once for all of them.
_DENIED = {text: StsState(StsStatus.ABSENT, detail=text) for text in DENIED.values()}
AT_ONCE = 50  # of a hundred thousand, before look-ups have their turn


class PolicyCache:
    """Policies by policy domain. `on_change` is called with a domain whose state has changed, `on_entry` with a new
    entry, `on_gone` with one that is no longer in force, `on_fetch` with a domain and how its fetch failed, None for a
    good one; `used_at` gives the monotonic instant of a domain's last look-up since the start."""

    def __init__(
        self,
        *,
        resolver: Resolver,
        fetcher: PolicyFetcher,
        store: PolicyStore,
        clock: Clock,
        random: Callable[[], float],
        size: int,
        id_check_seconds: float,
    ) -> None:
        self._fetcher = fetcher
        self.saver = PolicySaver(store)
        self.clock = clock
        self.random = random
        self.id_check_seconds = id_check_seconds
        self.store_failing = False  # as of the last time that a policy was sought in it
        self.store_tried = asyncio.Event()  # set once the store was opened, or could not be
        self.used_at: Callable[[Domain], float] = lambda _domain: NEVER
        self.name_of: Callable[[Domain], str] = str  # the name as whoever is asked for it keeps it
        self.on_change: Callable[[Domain], None] = lambda _domain: None
        self.on_entry: Callable[[PolicyEntry], None] = lambda _entry: None
        self.on_gone: Callable[[PolicyEntry], None] = lambda _entry: None
        self.on_fetch: Callable[[Domain, PolicyFetchFailed | None], None] = lambda _domain, _failure: None
        self._store = store
        self._all_read = False
        self._left_in_store: set[str] = set()  # policies that were read, or written, and are not in memory
        self._size = size
        self._fetching = 0
        self._entries: dict[str, PolicyEntry] = {}
        self._mode_none: dict[str, None] = {}  # those of the entries that apply nothing, the oldest first
        self._negative: OrderedDict[str, NegativeEntry] = OrderedDict()  # the least recently used first
        self._flights = Flights(self, resolver=resolver, store=store)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def is_fetching(self) -> bool:
        """Whether a policy is being fetched."""
        return self._fetching > 0

    @property
    def negatives(self) -> int:
        """How many domains are remembered as having no policy."""
        return len(self._negative)

    async def entries(self) -> AsyncIterator[PolicyEntry]:
        """Every policy in force, in the order of the names. What changes meanwhile is left out."""
        for name in await in_order(self._entries, str):
            entry = self._entries.get(name)
            if entry is not None:
                yield entry

    def entry(self, policy_domain: Domain) -> PolicyEntry | None:
        """The policy in force for a domain; an expired one is dropped on the way."""
        entry = self._entries.get(policy_domain)
        if entry is not None and entry.expires_at <= self.clock.monotonic():
            self._expire(entry)
            return None
        return entry

    def one_name(self, policy_domain: Domain) -> str:
        """The name as its policy has it, so that it is kept once."""
        entry = self._entries.get(policy_domain)
        return str(policy_domain) if entry is None else entry.name

    def policy_at(self, policy_domain: Domain, at: datetime) -> Policy | None:
        """The policy that was in force at a moment not long ago by the wall clock: this one or the one before it."""
        entry = self.entry(policy_domain)
        if entry is None:
            return None
        # Time stamps of logs have whole seconds, and a session seldom begins before its policy is there.
        if entry.is_renewed or at + timedelta(seconds=LOG_TIME_SECONDS) >= entry.fetched_at:
            return entry.policy
        return entry.upkeep.predecessor

    def negative(self, policy_domain: Domain) -> NegativeEntry | None:
        """What is remembered of a domain without a policy."""
        found = self._negative.get(policy_domain)
        if found is None:
            return None
        self._negative.move_to_end(policy_domain)
        return found if found.until > self.clock.monotonic() else None

    def last_used(self, entry: PolicyEntry) -> float:
        """The monotonic instant when the policy was last asked for, before the start of this process included."""
        return max(entry.used_at, self.used_at(entry.policy_domain))

    def note_used(self, policy_domain: Domain, used_at: float) -> None:
        """Remember the last use of a policy whose destination is forgotten."""
        entry = self._entries.get(policy_domain)
        if entry is not None:
            entry.used_at = max(entry.used_at, used_at)

    def peek(self, policy_domain: Domain, ahead_seconds: float = 0.0) -> StateUntil | None:
        """The state known in memory; None where it takes a look-up. "No policy" has to hold for `ahead_seconds` yet,
        so that it is renewed ahead of time; after a failed fetch it does not, or the pause would be cut short."""
        if policy_domain in self._entries and (entry := self.entry(policy_domain)) is not None:
            return self.in_force(entry)
        negative = self.negative(policy_domain) if policy_domain in self._negative else None
        if negative is None or (
            ahead_seconds and not negative.failures and negative.until <= self._after(ahead_seconds)
        ):
            return None
        return negative

    async def state(self, policy_domain: Domain, wait_seconds: float, ahead_seconds: float = 0.0) -> StateUntil:
        """The state of a domain, discovered if need be; after `wait_seconds` PENDING, while discovery goes on."""
        known = self.peek(policy_domain, ahead_seconds)
        if known is not None:
            return known
        found: Waited[StateUntil] = Waited()
        self.discover(policy_domain, wait_seconds, found.set)
        return await found.future

    def discover(
        self, policy_domain: Domain, wait_seconds: float, call: Callable[[StateUntil | BaseException], object]
    ) -> None:
        """Have `call` told of the state of a domain that is not known; see `Flights.join`."""
        self._flights.join(policy_domain, wait_seconds, call)

    def may_have_policy(self, policy_domain: Domain) -> bool:
        """Whether there is a policy, or may be as far as is known by now."""
        known = self.peek(policy_domain)
        if known is not None:
            return known.state.status is not StsStatus.ABSENT
        return not self._flights.has_no_record(policy_domain)

    def leave_in_store(self, policy_domain: Domain) -> None:
        """What is stored for a domain was read, and is not kept in memory."""
        self._left_in_store.add(str(policy_domain))

    def has_read_all(self) -> None:
        """All that is stored has been read: adopted, or left in the store."""
        self._all_read = True

    def is_nothing_stored(self, policy_domain: Domain) -> bool:
        """Whether it is known, without a look, that the store holds no policy for a domain that has none in memory and
        none that waits to be written: nearly every domain, so that a database is seldom asked."""
        return (
            self._all_read and policy_domain not in self._left_in_store and not self._store.may_hold_more(policy_domain)
        )

    async def close(self) -> None:
        """End the discoveries that are under way."""
        await self._flights.close()

    def failed_before(self, policy_domain: Domain, record_id: str) -> NegativeEntry | None:
        """What is remembered of the failed fetches of a policy with that record id."""
        last = self._negative.get(policy_domain)
        return last if last is not None and last.failed_id == record_id else None

    def failed_again(self, last: NegativeEntry | None, record_id: str, failure: PolicyFetchFailed) -> NegativeEntry:
        """What is to be remembered of a fetch that failed, the last one before it being `last`."""
        failures = 1 + (last.failures if last else 0)
        pause = min(fetch_pause_seconds(failures, self.random()), UNAVAILABLE_LIMIT_SECONDS)
        state = StsState(StsStatus.UNAVAILABLE, detail=f"record id {record_id}, but {failure}")
        return NegativeEntry(state, NEVER, self._after(pause), failures, record_id, failure, self._after(0))

    def alive(self, stored: StoredPolicy | None) -> StoredPolicy | None:
        """`stored` where it still lives."""
        return stored if stored is not None and remaining_seconds(stored, self.clock.now()) > 0 else None

    def in_force(self, entry: PolicyEntry) -> StateUntil:
        """The state of a domain whose policy this is."""
        return StateUntil(StsState(StsStatus.IN_FORCE, entry.policy), entry.expires_at)

    def remember_negative(self, policy_domain: Domain, found: RecordLookup, *, readable: bool) -> StateUntil:
        """There is no record, or nobody knows; `readable`: the store holds no policy, else nobody knows that."""
        # A failed look-up tells nothing: with the store unreadable too, a policy in force may be unknown to us.
        hidden = found.failed and not readable
        status = StsStatus.STORE_UNREADABLE if hidden else StsStatus.ABSENT
        state = None if found.failed else _DENIED.get(found.detail)
        if state is None:
            state = StsState(status, None, found.detail, found.failed)
        seconds = STORE_RETRY_SECONDS if hidden else negative_ttl_seconds(found.ttl)
        level = logging.WARNING if found.failed else logging.DEBUG
        if log.isEnabledFor(level):
            outcome(log, level, "no policy", policy_domain=policy_domain, reason=found.detail, seconds=int(seconds))
        return self._keep(policy_domain, NegativeEntry(state, self._after(seconds)))

    def remember_failure(self, policy_domain: Domain, failed: NegativeEntry, *, readable: bool) -> StateUntil:
        """There is a record, but no policy to be had."""
        # RFC 8461 §3.3: no policy can be fetched and none is cached: as though the domain had none. Where the store
        # can't be read that is not known, and it is read again long before the fetch is tried again.
        status = StsStatus.UNAVAILABLE if readable else StsStatus.STORE_UNREADABLE
        until = failed.retry_at if readable else min(failed.retry_at, self._after(STORE_RETRY_SECONDS))
        return self._keep(policy_domain, replace(failed, state=replace(failed.state, status=status), until=until))

    def _keep(self, policy_domain: Domain, negative: NegativeEntry) -> StateUntil:
        if policy_domain in self._entries and (entry := self.entry(policy_domain)) is not None:
            return self.in_force(entry)  # it came from the store meanwhile
        if policy_domain in self._negative:
            self._negative.move_to_end(policy_domain)
        self._negative[self.name_of(policy_domain)] = negative
        if len(self._entries) + len(self._negative) > self._size:
            self._make_room()
        return negative

    def _make_room(self) -> None:
        """Drop "no policy" and, only when few of those are left, policies of mode none: those go from memory alone."""
        while len(self._entries) + len(self._negative) > self._size:
            if len(self._negative) > max(1, self._size // 10):
                self._negative.popitem(last=False)
            elif self._mode_none:
                name = next(iter(self._mode_none))
                del self._mode_none[name]
                self.on_gone(self._entries.pop(name))
                self._left_in_store.add(name)
            else:
                return  # policies in force: none is ever dropped

    def _after(self, seconds: float) -> float:
        return self.clock.monotonic() + seconds

    async def fetch(self, policy_domain: Domain, record_id: str, last_used_at: datetime | None = None) -> PolicyEntry:
        """Fetch the live policy, keep and store it. `last_used_at` None means that it is asked for now.

        Raises:
            PolicyFetchFailed: it is not to be had; a cached one stays in force (RFC 8461 §3.3).
        """
        self._fetching += 1
        try:
            policy = await self._fetcher.fetch(policy_domain)
        except PolicyFetchFailed as exc:
            fetches.inc(exc.reason.code)
            level = logging.WARNING if self._alerts(policy_domain) else logging.INFO
            outcome(
                log,
                level,
                "policy fetch failed",
                policy_domain=policy_domain,
                reason=exc.reason.code,
                detail=exc.detail,
            )
            contained("sessions", partial(self.on_fetch, policy_domain, exc))
            raise
        finally:
            self._fetching -= 1
        fetches.inc("ok")
        contained("sessions", partial(self.on_fetch, policy_domain, None))
        now = self.clock.now()
        stored = StoredPolicy(policy_domain, policy, record_id, fetched_at=now, last_used_at=last_used_at or now)
        # max_age 0 is held for a minute and never stored.
        if policy.max_age == 0:
            self.saver.forget(policy_domain)
        elif self._flights.is_unread(policy_domain):
            self.saver.save_later(stored)  # the store did not answer when it was read: no second wait for it
        else:
            await self.saver.save(stored)
        outcome(
            log,
            logging.INFO,
            "policy fetched",
            policy_domain=policy_domain,
            mode=policy.mode.value,
            max_age=policy.max_age,
            id=record_id,
            warnings="; ".join(policy.warnings) or None,
        )
        return self.adopt(stored)

    def _alerts(self, policy_domain: Domain) -> bool:
        # RFC 8461 §3.3, §10.2: alert administrators, unless the cached policy's mode is "none".
        entry = self._entries.get(policy_domain)
        return entry is None or entry.policy.mode is not Mode.NONE

    def adopt(self, stored: StoredPolicy) -> PolicyEntry:
        """Put a policy into force, fetched just now or read from the store; it replaces the domain's last."""
        policy_domain, now, wall = stored.policy_domain, self.clock.monotonic(), self.clock.now()
        old = self._entries.get(policy_domain)
        left = min(remaining_seconds(stored, wall), lifetime_seconds(stored.policy))
        age = lifetime_seconds(stored.policy) - left
        refresh_after = max(refresh_after_seconds(stored.policy, self.random()), LEAST_REFRESH_SECONDS)
        before = old.policy if old is not None else None
        entry = PolicyEntry(
            stored,
            name=self.name_of(policy_domain) if old is None else old.name,
            used_at=now - max(0.0, (wall - stored.last_used_at).total_seconds()),
            expires_at=now + left,
            refresh_at=now + max(0.0, refresh_after - age),
            id_check_at=now + self.id_check_seconds,
            checked_at=now - age,
            is_renewed=before == stored.policy,
        )
        if old is not None and before is not None:
            self._compare(old, before, entry, stored.policy)
            self.on_gone(old)
        self._entries[entry.name] = entry
        self._negative.pop(policy_domain, None)
        self._mode_none.pop(policy_domain, None)
        if stored.policy.mode is Mode.NONE:
            self._mode_none[entry.name] = None
        self._make_room()
        self.on_entry(entry)
        if before is None or before.policy_text != stored.policy.policy_text:
            self.on_change(policy_domain)
        return entry

    def _compare(self, old: PolicyEntry, before: Policy, new: PolicyEntry, policy: Policy) -> None:
        """Note what is to be known of the entry before, and what weakens its policy."""
        for kind in downgrades(before, policy):
            self.note_downgrade(old, kind, f"{_terms(before)} -> {_terms(policy)}")
        past_ids = old.upkeep.past_ids
        if new.record_id != old.record_id:
            if new.record_id in past_ids:
                self.note_downgrade(old, Downgrade.ID_FLIPS, f"{old.record_id} -> {new.record_id}")
            past_ids = (*past_ids, old.record_id)[-IDS_REMEMBERED:]
        if past_ids or not new.is_renewed:
            new.upkeep = Upkeep(past_ids=past_ids, predecessor=None if new.is_renewed else before)

    def note_downgrade(self, entry: PolicyEntry, kind: Downgrade, detail: str) -> None:
        """Log and count what weakens the policy of `entry`, or tries to."""
        downgrades_seen.inc(kind.value)
        name = entry.policy_domain
        outcome(log, logging.WARNING, "policy downgrade", policy_domain=name, kind=kind.value, detail=detail)

    def _expire(self, entry: PolicyEntry) -> None:
        policy_domain = entry.policy_domain
        self.on_gone(self._entries.pop(policy_domain))
        self._mode_none.pop(policy_domain, None)
        self.saver.forget(policy_domain)
        policy = entry.policy
        if policy.max_age == 0:
            return
        expired.inc()
        # RFC 8461 §10.2: a policy that runs out although it was refreshed daily may be an attack on the refresh.
        level = logging.ERROR if entry.upkeep.failures and policy.mode is not Mode.NONE else logging.INFO
        outcome(
            log,
            level,
            "policy expired",
            policy_domain=policy_domain,
            mode=policy.mode.value,
            reason=entry.upkeep.failure,
        )

    def forget(self, policy_domain: Domain) -> bool:
        """Drop all that is known of a domain, in memory and in the store; whether there was anything."""
        entry, negative = self._entries.pop(policy_domain, None), self._negative.pop(policy_domain, None)
        if entry is not None:
            self.on_gone(entry)
        self._mode_none.pop(policy_domain, None)
        self.saver.forget(policy_domain)
        self.on_change(policy_domain)
        return entry is not None or negative is not None

    def forget_negative(self, policy_domain: Domain) -> None:
        """Drop what is remembered of a missing policy, and nothing else: the next look-up begins with the store."""
        self._negative.pop(policy_domain, None)

    async def store_became_readable(self) -> None:
        """The store can be read again: what was answered TEMP for its sake is looked at anew."""
        self.store_failing = False
        for count, name in enumerate(tuple(self._negative), 1):
            negative = self._negative.get(name)
            if negative is not None and negative.state.status is StsStatus.STORE_UNREADABLE:
                del self._negative[name]
                self.on_change(Domain(name))
            if count % AT_ONCE == 0:
                await asyncio.sleep(0)

    async def restamp(self) -> None:
        """The wall clock has jumped: what is stored is written anew with the new time less the age by the monotonic
        clock, so that a policy fetched under a wrong clock does not count as expired after a restart."""
        for count, entry in enumerate(list(self._entries.values()), 1):
            if self._entries.get(entry.policy_domain) is entry:
                wall, now = self.clock.now(), self.clock.monotonic()
                policy = entry.policy
                age = lifetime_seconds(policy) - (entry.expires_at - now)
                entry.fetched_at = wall - timedelta(seconds=age)
                last_used_at = wall - timedelta(seconds=max(0.0, now - self.last_used(entry)))
                if policy.max_age > 0:
                    self.saver.save_later(entry.stored(last_used_at))
            if count % AT_ONCE == 0:
                await asyncio.sleep(0)


def _terms(policy: Policy) -> str:
    return f"{policy.mode.value} max_age {policy.max_age}"
