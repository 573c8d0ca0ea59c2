"""The intake of sessions: heard by datagram or mail log, judged by what discovery knows, counted (RFC 8460 §4.2, §4.3).

One source counts for each Postfix instance. Where a mail log is read its lines count, and datagrams only add to its
failures what a log does not have; without a log the datagrams count. Never both.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial

from stsguard.core.mxcheck import MxProbe
from stsguard.core.session import Count, PolicyType, Seen, Session, Source
from stsguard.core.verdict import VERIFIED_WITHIN, Known, judge
from stsguard.discovery.demand import Demands
from stsguard.discovery.destination import Demand, Destination
from stsguard.discovery.policies import PolicyCache
from stsguard.discovery.supervisor import contained, kept_up, supervised
from stsguard.discovery.tending import PolicyTender
from stsguard.discovery.verification import MxVerifier
from stsguard.log import logger, outcome
from stsguard.metrics import Counter
from stsguard.names import Domain
from stsguard.outbound.counters import PositionText, SessionCounters
from stsguard.outbound.datagrams import RefusedDatagrams
from stsguard.outbound.provisional import DETAIL_WITHIN, FailureDetails, PendingVerification, Provisional
from stsguard.outbound.session_facts import Placing, SessionFacts
from stsguard.outbound.unplaced import Placeless, Unplaced, restored
from stsguard.ports import Clock, CounterStore

log = logger(__name__)
not_reported = Counter("sessions_not_reported_total", "Sessions that count for no report, by why.", "reason")
corrected = Counter(
    "sessions_corrected_total", "Sessions that turned out to count as something else, by why.", "reason"
)

UPKEEP_SECONDS = 1.0
SLICE = 200  # corrections in a row, before look-ups have their turn
PLACING_CONCURRENCY = 16
PLACING_SECONDS = 60.0


class SessionIntake:
    """Counts sessions. `log_instances` are the Postfix instances whose mail log is read; `is_own_report` tells those
    sessions that carry a report of ours, as far as it can be told."""

    def __init__(
        self,
        *,
        demands: Demands,
        cache: PolicyCache,
        tender: PolicyTender,
        verifier: MxVerifier,
        store: CounterStore,
        clock: Clock,
        log_instances: Collection[str] = (),
        observe: bool = False,
        is_own_report: Callable[[Session], bool] = lambda _session: False,
    ) -> None:
        self._demands = demands
        self._tender = tender
        self._verifier = verifier
        self._clock = clock
        self._log_instances = frozenset(log_instances)
        self._facts = SessionFacts(
            demands=demands, cache=cache, verifier=verifier, clock=clock, observe=observe, is_own_report=is_own_report
        )
        self.counters = SessionCounters(store, clock)
        self.refused = RefusedDatagrams()
        self._pending = PendingVerification()
        self._details = FailureDetails()
        self._probed: deque[tuple[MxProbe, list[Provisional]]] = deque()
        self._unplaced = Unplaced()
        self._placing: set[Placeless] = set()
        self._wake = asyncio.Event()
        cache.on_fetch = self._facts.note_fetch
        verifier.on_probe = self._note_probe

    @property
    def unverified(self) -> int:
        """How many kinds of sessions wait for a probe of their MX host."""
        return len(self._pending)

    @property
    def unplaced(self) -> int:
        """How many sessions of logs wait until the MX hosts of their domain are known."""
        return len(self._unplaced)

    def heard(self, sessions: Iterable[tuple[Session, int]]) -> None:
        """Sessions that datagrams tell of, each with how often it took place."""
        for session, times in sessions:
            take = self._add_detail if session.instance in self._log_instances else self._count
            contained("sessions", partial(take, session, times))

    def sessions(self, sessions: Sequence[Session], positions: Mapping[str, PositionText] | None = None) -> None:
        """Sessions that a mail log tells of; `positions` say how far it was read to know of them."""
        for session in sessions:
            contained("sessions", partial(self._take_logged, session))
        self.counters.advance({**(positions or {}), **self._unplaced.to_write()})

    def restore(self, instance: str, positions: Mapping[str, str]) -> None:
        """Take up the sessions of a log that the last process could not place: they lie beside the `positions`."""
        for session in restored(instance, positions):
            self._place_later(session)
        self.counters.advance(self._unplaced.to_write())

    def _take_logged(self, session: Session) -> None:
        match self._facts.placing(session):
            case Placing.YES:
                self._count(session, 1)
            case Placing.NO:
                not_reported.inc("not-its-mx-host")
            case Placing.UNKNOWN:
                self._place_later(session)

    def _count(self, session: Session, times: int) -> None:
        """Judge and count `times` sessions like this one."""
        if session.seen in (Seen.FAILURE, Seen.MX_NOT_PERMITTED):
            # RFC 8461 §5.1: on a failure a sender looks for a new policy; and the host may be another by now.
            self._tender.recheck_soon(session.recipient_domain)
            if session.receiving_mx_hostname is not None:
                self._verifier.after_failed_session(session.receiving_mx_hostname)
        joins = session.source is Source.LOG and session.seen is Seen.FAILURE
        whole = self._details.detail_for(session) if joins else session
        day = self.counters.day_of(whole.at)
        known = self._facts.known(whole, day)
        counts = judge(whole, known)
        own = counts if known.refresh_failures == () else tuple(count for count in counts if not _is_refresh(count))
        if not own:
            not_reported.inc("by-verdict")
            return
        if not self.counters.add(own, day, times):
            return
        if len(own) < len(counts):
            # Each failed refresh counts once, not with each session.
            self.counters.add([count for count in counts if _is_refresh(count)], day, 1)
            self._facts.refreshes_told(whole.recipient_domain)
        unverified = any(count.unverified for count in own)
        if not unverified and not (joins and whole is session):
            return
        counted = Provisional(whole, known._replace(refresh_failures=()), own, day, times, self._clock.monotonic())
        if unverified:
            counted.until += VERIFIED_WITHIN.total_seconds()
            self._pending.add(counted)
        else:
            counted.until += DETAIL_WITHIN.total_seconds()
            self._details.wait(counted)

    def _add_detail(self, datagram: Session, times: int) -> None:
        """A datagram of an instance whose log counts."""
        if datagram.seen is not Seen.FAILURE:
            return
        until = self._clock.monotonic() + DETAIL_WITHIN.total_seconds()
        for counted, session in self._details.offer(datagram, times, until):
            self._correct(counted, session, counted.known, "detail")

    def _correct(self, counted: Provisional, session: Session, known: Known, reason: str) -> None:
        found = judge(session, known)
        if found != counted.counts:
            self.counters.correct(counted.counts, found, counted.day, counted.times)
            corrected.inc(reason, by=counted.times)

    def _note_probe(self, probe: MxProbe) -> None:
        if not probe.inconclusive:
            waiting = self._pending.take(probe.mx_hostname, probe.address)
            if waiting:
                self._probed.append((probe, waiting))

    def note_bogus_tlsa(self, destination: Destination, demand: Demand) -> None:
        """Postfix has looked up a destination of which an MX host has a bogus TLSA look-up. A log tells of the attempts
        themselves, and of those of every instance that asks here: then the look-ups are no source."""
        if not self._log_instances:
            for session in self._facts.bogus_tlsa(destination, demand):
                self._count(session, 1)

    def _place_later(self, session: Session) -> None:
        if not self._unplaced.add(session):
            not_reported.inc("too-many-unplaced")
        self._wake.set()

    async def _place(self) -> None:
        """Look up the MX hosts of domains that nobody has asked for since the start, and count their sessions."""
        async with asyncio.TaskGroup() as group:
            slots = asyncio.Semaphore(PLACING_CONCURRENCY)
            while True:
                await self._wake.wait()
                self._wake.clear()
                for key in [key for key in self._unplaced.waiting() if key not in self._placing]:
                    self._placing.add(key)
                    await slots.acquire()
                    group.create_task(self._place_one(key, slots))

    async def _place_one(self, key: Placeless, slots: asyncio.Semaphore) -> None:
        try:
            await supervised("sessions", self._look_up(key.recipient_domain, key.port))
            # Not where the daemon ends meanwhile: then they lie in the store for the next one.
            for session in self._unplaced.take(key):
                contained("sessions", partial(self._count_placed, session))
            self.counters.advance(self._unplaced.to_write())
        finally:
            slots.release()
            self._placing.discard(key)

    async def _look_up(self, recipient_domain: Domain, port: int) -> None:
        try:
            async with asyncio.timeout(PLACING_SECONDS):
                await self._demands.demand(self._demands.destination(recipient_domain, port))
        except TimeoutError:
            outcome(log, logging.WARNING, "MX hosts of sessions not known in time", policy_domain=recipient_domain)

    def _count_placed(self, session: Session) -> None:
        placing = self._facts.placing(session)
        if placing is Placing.YES:
            self._count(session, 1)
        else:
            not_reported.inc("not-its-mx-host" if placing is Placing.NO else "mx-hosts-unknown")

    async def run(self) -> None:
        """Write counters and correct them, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(kept_up("sessions", self.counters.run))
            group.create_task(kept_up("sessions", self._place))
            group.create_task(kept_up("sessions", self._keep_up))

    async def _keep_up(self) -> None:
        while True:
            now = self._clock.monotonic()
            self._pending.expire(now)
            self._details.expire(now)
            while self._probed:
                # A large provider's host may have tens of thousands waiting: look-ups have their turn in between.
                self._correct_some()
                await asyncio.sleep(0)
            await asyncio.sleep(UPKEEP_SECONDS)

    def _correct_some(self) -> None:
        probe, waiting = self._probed[0]
        for counted in waiting[:SLICE]:
            known = counted.known._replace(probes=(probe,))
            contained("sessions", partial(self._correct, counted, counted.session, known, "verified"))
        del waiting[:SLICE]
        if not waiting:
            self._probed.popleft()

    async def close(self) -> None:
        """Correct what can be, and write what is left. Call it when `run` has ended."""
        while self._probed:
            self._correct_some()
        await self.counters.close()


def _is_refresh(count: Count) -> bool:
    """Whether these are failed refreshes of a policy: no session of their own, and none of DANE."""
    return count.sessions == 0 and count.policy.policy_type is PolicyType.STS
