"""What each next hop demands, decided once and kept for as long as its evidence holds (RFC 7672 §2.2, RFC 8461 §5).

A destination is a next hop and a port. It is decided when first asked for, at most once at a time, and again before
its evidence runs out while it is in use; a change of its policy, of a verdict on one of its MX hosts, or of the
overrides decides it anew from the evidence that is there. `on_decided` is told of every decision.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import islice
from operator import attrgetter

from stsguard.core.dane import MxEvidence, MxLookupFailure, TlsaStatus
from stsguard.core.mtasts import Mode, Policy, mx_permitted
from stsguard.core.overrides import Override, OverrideKind, Overrides
from stsguard.core.packed import mx_hostnames, pack, reply_of, same_but_for_ttl, unpack
from stsguard.core.policycache import RENEWAL_SHARE, REPLY_TTL_SECONDS, Downgrade, reply_ttl_seconds
from stsguard.core.tlspolicy import SMTP_PORT, Reply, Row, StsState, StsStatus, decide, enforced_by
from stsguard.discovery.agenda import Agenda
from stsguard.discovery.destination import NO_LOOKUP, Deciding, Demand, Destination
from stsguard.discovery.lookups import Waited
from stsguard.discovery.mx import MxLookup
from stsguard.discovery.policies import PolicyCache
from stsguard.discovery.states import NEVER, StateUntil
from stsguard.discovery.supervisor import contained, guarded, kept_up, report
from stsguard.discovery.tending import PolicyTender
from stsguard.discovery.turns import in_order
from stsguard.discovery.verification import MxVerifier
from stsguard.log import logger, outcome
from stsguard.metrics import Counter
from stsguard.names import Domain
from stsguard.ports import Clock, Resolver

log = logger(__name__)
decisions = Counter("decisions_total", "Decisions made, by reply and row of the decision table.", "reply", "row")
renewals = Counter("renewals_total", "Decisions renewed ahead of time.")
evictions = Counter("destinations_evicted_total", "Destinations dropped to make room.")

RENEWAL_CONCURRENCY = 32
RENEWED_IN_A_TURN = 24
EVICTED_AT_ONCE = 50  # look-ups wait meanwhile
REDECIDED_AT_ONCE = 20  # of the next hops that share an MX host; the others are decided when they are asked for
FOR_EVER = float("inf")
_VERIFIED = frozenset(
    {Reply.SECURE, Reply.DANE, Reply.DANE_ONLY}
)  # replies for the hosts of which our own verification counts
_ROW_LABELS = {row: row.name.lower() for row in Row}


_Key = str | tuple[str, int]


class Demands:
    """All destinations in memory, at most `size`. `on_evict` is told of one that is dropped, `on_decided` of every new
    decision; like any it holds until `destination.expires_at`, which may be moved up."""

    def __init__(
        self,
        *,
        resolver: Resolver,
        cache: PolicyCache,
        tender: PolicyTender,
        verifier: MxVerifier,
        clock: Clock,
        wait_seconds: float,
        size: int,
    ) -> None:
        self._resolver = resolver
        self._cache = cache
        self._tender = tender
        self._verifier = verifier
        self._clock = clock
        self._wait_seconds = wait_seconds
        self._size = size
        self._destinations: dict[_Key, Destination] = {}
        self._other_ports: dict[str, set[int]] = {}  # of the destinations at another port than 25
        # But for those below the next hop itself, as a domain's own are. Most others of small domains serve one alone,
        # and a set of one takes more than all of its reply.
        self._by_mx_hostname: dict[str, Destination | set[Destination]] = {}
        self._overridden: dict[Destination, Override] = {}  # by which the last decision was made
        self._strangers: dict[Destination, frozenset[Domain]] = {}
        self._renewals = Agenda(
            self._renew, clock.monotonic, concurrency=RENEWAL_CONCURRENCY, in_a_turn=RENEWED_IN_A_TURN
        )
        self._generation = 0  # of what evidence is gathered and decided by: overrides, trust in the resolver
        self.overrides = Overrides()
        self.postfix_can_dane = True
        self.on_evict: Callable[[Destination], None] = lambda _destination: None
        self.on_decided: Callable[[Destination, Demand], None] = lambda _destination, _demand: None
        cache.on_change = self._policy_changed
        cache.used_at = self._used_at
        cache.name_of = self._name_of
        verifier.on_change = self._verdict_changed

    def __len__(self) -> int:
        return len(self._destinations)

    async def destinations(self) -> AsyncIterator[Destination]:
        """Every destination in memory, in order of name and port. What goes meanwhile is left out."""
        for destination in await in_order(self._destinations.values(), attrgetter("name", "port")):
            if self.is_here(destination):
                yield destination

    def known(self, next_hop: Domain, port: int) -> Destination | None:
        """The destination if it is in memory."""
        return self._destinations.get(_key(next_hop, port))

    def destination(self, next_hop: Domain, port: int) -> Destination:
        """The destination, made if need be."""
        found = self._destinations.get(_key(next_hop, port))
        if found is None:
            if len(self._destinations) >= self._size:
                self._make_room()
            found = Destination(self._cache.one_name(next_hop), port)
            self._destinations[_key(found.name, port)] = found
            if port != SMTP_PORT:
                self._other_ports.setdefault(found.name, set()).add(port)
        return found

    def latest(self, destination: Destination) -> Demand | None:
        """The decision made last, in force or not any more; None where there was none yet."""
        if not destination.packed:
            return None
        mx, sts, decision = unpack(destination.evidence)
        override = self._overridden.get(destination)
        if sts.status is StsStatus.IN_FORCE or decision.reply is Reply.SECURE:
            # A change of the policy decides anew at once, so that in the cache is the one that this was made by.
            entry = self._cache.entry(destination.next_hop)
            sts.policy = entry.policy if entry is not None and sts.status is StsStatus.IN_FORCE else None
            if decision.reply is Reply.SECURE:
                decision = replace(decision, policy=enforced_by(override, sts.policy) if override else sts.policy)
        at = self._clock.now() - timedelta(seconds=self._clock.monotonic() - destination.decided_at)
        return Demand(NO_LOOKUP if mx == NO_LOOKUP else mx, sts, override, decision, at, destination.packed)

    async def demand(self, destination: Destination) -> Demand:
        """The decision in force, made now if there is none; whoever asks meanwhile shares the work."""
        begun = self.begin(destination)
        if isinstance(begun, Demand):
            return begun
        decided: Waited[Demand] = Waited()
        begun.then(decided.set)
        return await decided.future

    def begin(self, destination: Destination) -> Demand | Deciding:
        """As `demand`: the decision, or the making of it."""
        now = self._clock.monotonic()
        destination.last_used = now
        if destination.expires_at > now and (demand := self.latest(destination)) is not None:
            return demand
        if destination.evidence_until > now:
            # Only what it was decided by has changed: no look-up is needed.
            demand = self.redecide(destination)
            if destination.expires_at > now and demand is not None:
                return demand
        return self._decide_in_flight(destination)

    def _decide_in_flight(self, destination: Destination, ahead_seconds: float = 0.0) -> Deciding:
        flight = destination.flight
        if flight is None:
            flight = destination.flight = Deciding(destination, ahead_seconds)
            guarded("decision", self._gather, flight, self._land)
        return flight

    def _land(self, flight: Deciding, outcome: Demand | BaseException) -> None:
        if flight.outcome is None:  # else it has failed before
            flight.destination.flight = None
            flight.settle(outcome)

    def _gather(self, flight: Deciding) -> None:
        next_hop = flight.next_hop
        flight.generation, flight.mx, flight.state = self._generation, None, None
        override = self.find_override(next_hop)
        if override is not None and override.kind is not OverrideKind.ENFORCE:
            state = StsState(StsStatus.ABSENT, detail="not looked up: override")
            flight.mx, flight.state = NO_LOOKUP, StateUntil(state, FOR_EVER)
            self._decide_gathered(flight)
            return
        # The discovery of the policy goes on by itself meanwhile.
        flight.state = self._cache.peek(next_hop, flight.ahead_seconds)
        if flight.state is None:
            self._cache.discover(next_hop, self._wait_seconds, partial(self._state_found, flight))
        one_family = partial(self._is_one_family_enough, flight) if override is None else _never
        done = partial(self._mx_found, flight)
        MxLookup(self._resolver, next_hop, flight.destination.port, one_family, done).begin()

    def _is_one_family_enough(self, flight: Deciding) -> bool:
        """Whether there is no policy by which MX hosts would be verified, as far as is known by now."""
        if flight.state is not None:
            return flight.state.state.status is StsStatus.ABSENT
        return not self._cache.may_have_policy(flight.next_hop)

    def _state_found(self, flight: Deciding, outcome: StateUntil | BaseException) -> None:
        if isinstance(outcome, BaseException):
            self._fail(flight, outcome)
        else:
            flight.state = outcome
            if flight.mx is not None:
                guarded("decision", self._decide_gathered, flight, self._land)

    def _mx_found(self, flight: Deciding, outcome: MxEvidence | MxLookupFailure | BaseException) -> None:
        if isinstance(outcome, BaseException):
            self._fail(flight, outcome)
        else:
            flight.mx = outcome
            if flight.state is not None:
                guarded("decision", self._decide_with_mx, flight, self._land)

    def _decide_with_mx(self, flight: Deciding) -> None:
        # The MX hosts have taken longer: what is known of the policy by now counts.
        flight.state = self._cache.peek(flight.next_hop) or flight.state
        self._decide_gathered(flight)

    def _fail(self, flight: Deciding, exc: BaseException) -> None:
        if not isinstance(exc, asyncio.CancelledError):
            report("decision", exc)
        self._land(flight, exc)

    def _decide_gathered(self, flight: Deciding) -> None:
        mx, state, destination = flight.mx, flight.state, flight.destination
        assert mx is not None  # noqa: S101 (both have been gathered)
        assert state is not None  # noqa: S101
        if flight.outcome is not None:
            return  # it has failed before
        if flight.generation != self._generation:
            # An override has come, or trust in the resolver has gone, while it was gathered.
            self._gather(flight)
            return
        ttl = reply_ttl_seconds(mx.ttl if isinstance(mx, MxEvidence) else 0)
        destination.evidence_until = self._clock.monotonic() + ttl
        self._land(flight, self._decide(destination, mx, state))

    def find_expired_override(self, host: Domain) -> Override | None:
        """The override that would be in force for `host`, had it not expired."""
        return self.overrides.find_expired(host, self._clock.now().date()) if self.overrides else None

    def find_override(self, host: Domain) -> Override | None:
        """The override in force for a bare host name today (UTC)."""
        overrides = self.overrides
        if not (overrides.exact or overrides.below):
            return None  # nearly everywhere
        return overrides.find(host, self._clock.now().date())

    def _decide(self, destination: Destination, mx: MxEvidence | MxLookupFailure, state: StateUntil) -> Demand:
        next_hop = destination.next_hop
        override = self.find_override(next_hop)
        hosts = mx.hosts if isinstance(mx, MxEvidence) else ()
        decision = decide(
            mx,
            state.state,
            override=override,
            port=destination.port,
            postfix_can_dane=self.postfix_can_dane,
            verdicts=self._verifier.verdicts(hosts) if override is not None or state.state.policy is not None else None,
        )
        decisions.inc(decision.reply, _ROW_LABELS[decision.row])
        demand = Demand(mx, state.state, override, decision, self._clock.now())
        now = self._clock.monotonic()
        packed, before = pack(mx, state.state, decision), destination.evidence
        destination.note_decision(packed, now)
        demand.packed = destination.packed
        is_here = self.is_here(destination)
        if override is not None and is_here:
            self._overridden[destination] = override
        elif self._overridden:
            self._overridden.pop(destination, None)
        destination.expires_at = self._expiry(destination, state, now)
        if not before or not same_but_for_ttl(packed, before):
            if before:
                self._unwatch_hosts(destination, before)
            if decision.reply is Reply.SECURE and is_here:
                self._watch_hosts(destination, packed)
            if not before or unpack(before)[2] != unpack(packed)[2]:
                self._log(destination, demand)
        if decision.reply in _VERIFIED or _is_testing(state.state):
            self._verifier.request(hosts)
        if state.state.policy is not None:
            self._note_strangers(destination, demand, state.state.policy)
        self._tender.used(next_hop)
        if is_here:
            self._renewals.put(destination, now + (destination.expires_at - now) * RENEWAL_SHARE)
        self.on_decided(destination, demand)
        return demand

    def _expiry(self, destination: Destination, state: StateUntil, now: float) -> float:
        # A policy is never applied beyond its max_age. "No policy" may last a little longer than its own life, so that
        # a reply is not renewed ever faster towards its end; a fetch that lands decides anew anyway.
        least = 0.0 if state.state.status is StsStatus.IN_FORCE else REPLY_TTL_SECONDS[0]
        return min(destination.evidence_until, max(state.until, now + least))

    def _log(self, destination: Destination, demand: Demand) -> None:
        if not log.isEnabledFor(logging.WARNING):
            return
        decision = demand.decision
        level = logging.WARNING if decision.delivers_nothing or _gives_less(demand) else logging.INFO
        if not log.isEnabledFor(level):
            return  # its words cost as much as the decision
        outcome(
            log,
            level,
            "decided",
            policy_domain=destination.next_hop,
            port=destination.port if destination.port != SMTP_PORT else None,
            reply=decision.reply.value,
            reason=decision.reason,
            match=":".join(decision.match_names) or None,
            left_out=",".join(decision.left_out) or None,
            sts=demand.sts.status.value,
            detail=demand.sts.detail or (demand.mx.detail if isinstance(demand.mx, MxLookupFailure) else None),
        )

    def _note_strangers(self, destination: Destination, demand: Demand, policy: Policy) -> None:
        """MX hosts that the policy in force does not permit: a mistake, or the attack that the policy is there for."""
        if policy.mode is Mode.NONE or not isinstance(demand.mx, MxEvidence):
            return
        names = [host.mx_hostname for host in demand.mx.hosts]
        strangers = frozenset([name for name in names if not mx_permitted(policy.mx_patterns, name)])
        before = self._strangers.pop(destination, None)
        if not strangers:
            return
        entry = self._cache.entry(destination.next_hop)
        if strangers != before and entry is not None:
            self._cache.note_downgrade(entry, Downgrade.MX_NOT_PERMITTED, ",".join(sorted(strangers)))
        if self.is_here(destination):
            self._strangers[destination] = strangers

    def _watch_hosts(self, destination: Destination, packed: bytes) -> None:
        """Only `secure` depends on our own verification, so only its destinations are found by MX host."""
        for name in _foreign_hosts(destination, packed):
            watching = self._by_mx_hostname.setdefault(str(name), destination)
            if isinstance(watching, set):
                watching.add(destination)
            elif watching is not destination:
                self._by_mx_hostname[name] = {watching, destination}

    def _unwatch_hosts(self, destination: Destination, packed: bytes) -> None:
        for name in _foreign_hosts(destination, packed):
            watching = self._by_mx_hostname.get(name)
            if watching is destination or watching == {destination}:
                del self._by_mx_hostname[name]
            elif isinstance(watching, set):
                watching.discard(destination)

    def _served_by(self, mx_hostname: Domain) -> list[Destination]:
        """The destinations whose decision depends on the verdict on that host."""
        watching = self._by_mx_hostname.get(mx_hostname, ())
        found = [watching] if isinstance(watching, Destination) else [*watching]
        labels = mx_hostname.split(".")
        for start in range(len(labels)):
            for destination in self._of(Domain(".".join(labels[start:]))):
                packed = destination.evidence
                if packed and reply_of(packed) is Reply.SECURE and mx_hostname in mx_hostnames(packed):
                    found.append(destination)
        return found

    def redecide(self, destination: Destination) -> Demand | None:
        """Decide anew from the evidence in memory; without any, before the next answer, and None."""
        if not destination.packed:
            return None
        state = self._cache.peek(destination.next_hop)
        if state is not None and destination.evidence_until > self._clock.monotonic():
            mx = unpack(destination.evidence)[0]
            if mx != NO_LOOKUP:
                return self._decide(destination, mx, state)
        self.expire(destination)
        return None

    def redecide_all(self) -> None:
        """Decide every destination anew: the overrides, or what Postfix or the resolver can do, have changed."""
        self._generation += 1
        for destination in self._destinations.values():  # `expire`, without a call for each of a hundred thousand
            destination.expires_at = destination.evidence_until = NEVER

    def expire(self, destination: Destination) -> None:
        """The decision no longer holds: it is made anew, look-ups included, before the next answer."""
        destination.expires_at = destination.evidence_until = NEVER

    def _redecide_contained(self, destination: Destination) -> None:
        if not contained("decision", partial(self.redecide, destination)):
            self.expire(destination)

    def _policy_changed(self, policy_domain: Domain) -> None:
        for destination in self._of(policy_domain):
            if destination.packed:  # else it is being decided, or nobody has asked
                self._redecide_contained(destination)

    def _verdict_changed(self, mx_hostname: Domain) -> None:
        serves = self._served_by(mx_hostname)
        # A large provider's host serves thousands of next hops: all at once they would keep look-ups waiting.
        for destination in serves:
            destination.expires_at = NEVER
        for destination in serves[:REDECIDED_AT_ONCE]:
            self._redecide_contained(destination)

    def _used_at(self, policy_domain: Domain) -> float:
        return max((destination.last_used for destination in self._of(policy_domain)), default=NEVER)

    def _name_of(self, policy_domain: Domain) -> str:
        found = self._destinations.get(policy_domain)
        return str(policy_domain) if found is None else found.name

    def _of(self, next_hop: Domain) -> list[Destination]:
        first = self._destinations.get(next_hop)
        found = [first] if first is not None else []
        if self._other_ports:
            found += [self._destinations[next_hop, port] for port in self._other_ports.get(next_hop, ())]
        return found

    async def run(self) -> None:
        """Renew decisions in use before they run out, for ever."""
        await kept_up("renewals", self._renewals.run)

    def _renew(self, destination: Destination) -> bool:
        """Begin to decide it anew where it is in use: whether it was begun."""
        if destination.last_used < destination.decided_at or destination.flight is not None:
            return False
        renewals.inc()
        ahead = destination.expires_at - self._clock.monotonic() + REPLY_TTL_SECONDS[0]
        self._decide_in_flight(destination, max(ahead, 0.0)).then(self._renewals.ended)
        return True

    def is_here(self, destination: Destination) -> bool:
        """Whether it is one of those in memory: it may have been dropped while it was decided."""
        return self._destinations.get(_key(destination.name, destination.port)) is destination

    def _make_room(self) -> None:
        """Drop the destinations that were made longest ago and are least used: only their evidence is lost, a policy
        stays in the policy cache."""
        wanted = max(1, min(self._size // 100, EVICTED_AT_ONCE))
        oldest = list(islice(self._destinations.items(), wanted * 4))
        for _, destination in sorted(oldest, key=lambda item: item[1].last_used)[:wanted]:
            self.forget(destination)
            evictions.inc()
        # What stays of the sample goes to the end, so that the next sweep looks at others.
        for key, destination in oldest:
            if self._destinations.get(key) is destination:
                self._destinations[key] = self._destinations.pop(key)

    def forget(self, destination: Destination) -> None:
        """Drop a destination; the next look-up starts from nothing but the policy cache."""
        if not self.is_here(destination):
            return
        name, port = destination.name, destination.port
        del self._destinations[_key(name, port)]
        if port != SMTP_PORT:
            self._other_ports[name].discard(port)
            if not self._other_ports[name]:
                del self._other_ports[name]
        self._renewals.discard(destination)
        self._overridden.pop(destination, None)
        self._strangers.pop(destination, None)
        self._cache.note_used(destination.next_hop, destination.last_used)
        if destination.packed:
            self._unwatch_hosts(destination, destination.evidence)
        self.on_evict(destination)


def _never() -> bool:
    return False


def _key(name: str, port: int) -> _Key:
    return name if port == SMTP_PORT else (name, port)  # nearly all are at that port


def _foreign_hosts(destination: Destination, packed: bytes) -> list[Domain]:
    """The MX hosts that are neither the next hop nor below it."""
    own = f".{destination.name}"
    return [name for name in mx_hostnames(packed) if not f".{name}".endswith(own)]


def _is_testing(state: StsState) -> bool:
    return state.policy is not None and state.policy.mode is Mode.TESTING


def _gives_less(demand: Demand) -> bool:
    """Whether the reply is less than was asked for: a policy is announced but not to be had, or a host's look-up
    failed. Each such answer is logged."""
    if demand.sts.status in (StsStatus.UNAVAILABLE, StsStatus.PENDING) and demand.mx is not NO_LOOKUP:
        return True
    hosts = demand.mx.hosts if isinstance(demand.mx, MxEvidence) else ()
    return TlsaStatus.FAILED in [host.tlsa_status for host in hosts]
